"""Measures a detector on pictures: class accuracy, recall, box overlap, COCO's AP.

The model is a file of ours, trainable or exported, with or without a checkpoint, or a
frozen file of the vendor's. Data as for ondevice.train; images without boxes get them
from --labels_from, or from the weights that the model was built with.

Examples:
  python -m ondevice.evaluate --model=out/palm_full/model.tflite --data=photos \\
      --checkpoint=out/run/best.safetensors
  python -m ondevice.evaluate --model=out/trained.tflite --data=photos --frame=0.55 \\
      --labels_from=out/palm_full/model.tflite
      An exported file, its boxes held against the vendor's, hands at about half size.

The last line of stdout is one JSON object: {"images", "class_accuracy", "recall", "ap",
"ap50", "mean_iou", "confusion"}. Class accuracy: the share of the images whose best
detection has the right class; recall: of the labelled hands that a detection with score
and IoU of 0.5 or more finds; confusion: a row for each right class, a column for each
class found, the last one for no detection. ap and ap50 are null without pycocotools.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from ondevice import commands

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_string("model", None, "The .tflite.", flag_values=FLAGS)
_DATA = flags.DEFINE_string(
    "data", None, "Folder of images in folders named by class.", flag_values=FLAGS
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Weights for a trainable --model.", flag_values=FLAGS
)
_LABELS_FROM = flags.DEFINE_string(
    "labels_from",
    None,
    "The .tflite that draws boxes where images have none. Default: --model without the "
    "checkpoint.",
    flag_values=FLAGS,
)
_FRAME = flags.DEFINE_string(
    "frame",
    "1.0",
    "Share of the black frame's side that an image takes, in the middle.",
    flag_values=FLAGS,
)
_SHOW_LABELS = commands.define_show_labels(FLAGS)
_RUNTIME, _THREADS = commands.define_runtime(FLAGS)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to measure, on what; see the flags."""

    model: pathlib.Path
    data: pathlib.Path
    checkpoint: pathlib.Path | None = None
    labels_from: pathlib.Path | None = None
    share: float = 1.0
    show_labels: pathlib.Path | None = None
    runtime: str = "auto"
    threads: int | None = None


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do.
      OSError: If a file cannot be read.
    """
    from ondevice.detection import metrics
    from ondevice.device import coco, evaluation, image_cache, label_sheets
    from ondevice.device import labelled, opening

    cache = image_cache.ImageCache()
    running = (config.runtime, config.threads)
    with opening.open_detector(config.model, config.checkpoint, *running) as opened:
        labeller = functools.partial(
            opening.open_detector, config.labels_from or config.model, None, *running
        )
        (dataset,) = labelled.load(
            [config.data],
            opened.classes,
            labeller,
            cache,
            # Beside the checkpoints, where training keeps them; else they are not kept.
            config.checkpoint and config.checkpoint.parent,
            commands.progress,
            chosen=config.labels_from is not None,
        )
        if config.show_labels is not None:
            label_sheets.write(
                dataset, config.show_labels, cache, progress=commands.progress
            )
        judged = list(
            evaluation.judge(
                dataset,
                opened.detector,
                config.share,
                cache,
                lambda items: commands.progress(items, "images"),
                coco.MIN_SCORE,
            )
        )
    found = metrics.measure(judged, len(opened.classes)).to_dict()
    known = [
        image
        for image, sample in zip(judged, dataset.samples)
        if sample.labels is not None
    ]
    precision = coco.average_precision(known, opened.classes)
    if precision is None:
        logging.warning(
            "ap and ap50 are not computed: pip install pycocotools, or the extra "
            "`report`."
        )
        precision = (None, None)
    return {
        "images": found["images"],
        "class_accuracy": found["class_accuracy"],
        "recall": found["recall"],
        "ap": precision[0],
        "ap50": precision[1],
        "mean_iou": found["mean_iou"],
        "confusion": found["confusion"],
    }


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    low, high = commands.frame_range(_FRAME.value)
    if low != high:
        raise commands.UsageError(
            f"--frame must be one share in (0, 1]. Received: {_FRAME.value!r}."
        )
    return commands.Outcome(
        evaluate(
            EvaluateConfig(
                model=commands.required_path(_MODEL),
                data=commands.required_path(_DATA),
                checkpoint=commands.optional_path(_CHECKPOINT),
                labels_from=commands.optional_path(_LABELS_FROM),
                share=low,
                show_labels=commands.output_path(_SHOW_LABELS),
                runtime=_RUNTIME.value,
                threads=_THREADS.value,
            )
        )
    )


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _DATA], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
