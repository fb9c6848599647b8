"""Measures detectors on pictures: class accuracy, recall, box overlap, COCO's AP.

A model is a file of ours, trainable or exported in any dtype, with or without a
checkpoint, or a frozen file of the vendor's. Several are measured on the same images
with the same labels. Data as for ondevice.train; images without boxes get them from
--labels_from, or from the weights that the first model was built with.

Examples:
  python -m ondevice.evaluate --model=out/palm_full/model.tflite --data=photos \\
      --checkpoint=out/run/best.safetensors --output_dir=out/evaluation
      The figures, and the confusion matrix as a picture.
  python -m ondevice.evaluate --model=out/digits/model.tflite \\
      --checkpoint=out/run/best.safetensors --model=out/digits/model.tflite \\
      --model=out/hands.tflite --model=out/int8.tflite --data=photos --frame=0.55
      What was trained, the same file as it was built, and two exports, side by side.
  python -m ondevice.evaluate --model=palm_detection_full.tflite --as_palms \\
      --model=out/digits/model.tflite --checkpoint=out/run/best.safetensors \\
      --data=other_hands --frame=0.55
      Which of the palms that the vendor's file finds the trained one has kept.

The last line of stdout is one JSON object: {"images", "class_accuracy", "recall",
"ap", "ap50", "mean_iou", "confusion"} of the first model, "classes", the names of
confusion's rows, and "models": for each of them {"path", "checkpoint", "bytes", the
seven figures, "kept", "milliseconds"}. A table of them goes to stderr.

Class accuracy: the share of the images whose best detection has the right class;
recall: of the labelled objects that a detection with score and IoU of 0.5 or more
finds; confusion: a row for each right class, a column for each class found, the last
one for no detection. ap and ap50 are null without pycocotools. Kept: of the objects
that the first model finds, the share that this one finds, too. Milliseconds: the median
of a call of infer; models take turns at each image, so that all meet the same other
load.

With --as_palms class accuracy tells only in how many images anything was found,
wherever it lies; whether it is the object, recall and ap tell.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from ondevice.device import comparison, opening

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_multi_string(
    "model", None, "The .tflite, or several side by side", flag_values=FLAGS
)
_DATA = flags.DEFINE_string(
    "data", None, "Folder of images in folders named by class.", flag_values=FLAGS
)
_CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint",
    None,
    "Weights for the first trainable --model, for the second, and so on; a trainable "
    "file beyond those is measured with its own",
    flag_values=FLAGS,
)
_LABELS_FROM = flags.DEFINE_string(
    "labels_from",
    None,
    "The .tflite that draws boxes where images have none. Default: the first --model "
    "without the checkpoint.",
    flag_values=FLAGS,
)
_AS_PALMS = flags.DEFINE_bool(
    "as_palms",
    False,
    "Ignore classes: every image there or in a folder there, and every annotated "
    "object, counts as a palm, a detection by its best class. So models of different "
    "classes are compared, on objects of other classes, too.",
    flag_values=FLAGS,
)
_FRAME = flags.DEFINE_string(
    "frame",
    "1.0",
    "Share of the black frame's side that an image takes, in the middle.",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Folder for evaluation.json, the object of stdout, and confusion.png, or for "
    "each of several models confusion-N-NAME.png; an earlier evaluation's are removed. "
    "Default: nothing is written.",
    flag_values=FLAGS,
)
_SHOW_LABELS = commands.define_show_labels(FLAGS)
_RUNTIME, _THREADS = commands.define_runtime(FLAGS)

_RESULT, _PICTURE = "evaluation.json", "confusion"

# Longest part of a model's name in a picture's name.
_LONGEST = 40


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What to measure, on what; see the flags."""

    models: tuple[pathlib.Path, ...]
    data: pathlib.Path
    checkpoints: tuple[pathlib.Path, ...] = ()
    labels_from: pathlib.Path | None = None
    as_palms: bool = False
    share: float = 1.0
    output_dir: pathlib.Path | None = None
    show_labels: pathlib.Path | None = None
    runtime: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        folder = self.output_dir
        if folder is not None and folder.exists() and not folder.is_dir():
            raise commands.UsageError(
                f"--output_dir must be a folder. Received: {folder}."
            )


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measures.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import atomic
    from ondevice.device import comparison, image_cache, label_sheets, labelled
    from ondevice.device import opening

    cache = image_cache.ImageCache()
    running = (config.runtime, config.threads)
    models = comparison.with_checkpoints(config.models, config.checkpoints)
    labeller = functools.partial(
        opening.open_labeller, config.labels_from, config.models[0], *running
    )
    with comparison.open_all(models, *running) as opened:
        (dataset,) = labelled.load(
            [config.data],
            None if config.as_palms else _classes(models, opened),
            labeller,
            cache,
            # Beside the checkpoints, where training keeps them; else they are not kept.
            config.checkpoints[0].parent if config.checkpoints else None,
            commands.progress,
            chosen=config.labels_from is not None,
        )
        if config.show_labels is not None:
            label_sheets.write(
                dataset, config.show_labels, cache, progress=commands.progress
            )
        if config.output_dir is not None:
            atomic.make_directory(config.output_dir)
        rows = comparison.compare(
            dataset,
            [each.detector for each in opened],
            config.share,
            cache,
            lambda items: commands.progress(items, "images"),
            config.as_palms,
        )
    entries = [
        {
            "path": str(model.path),
            "checkpoint": model.checkpoint and str(model.checkpoint),
            "bytes": model.path.stat().st_size,
            **row,
        }
        for model, row in zip(models, rows)
    ]
    titles = [model.title for model in models]
    logging.info("%d images:\n%s", rows[0]["images"], comparison.table(titles, entries))
    first = {k: v for k, v in rows[0].items() if k not in ("kept", "milliseconds")}
    result = {**first, "classes": list(dataset.classes), "models": entries}
    if config.output_dir is not None:
        _write(config.output_dir, result, titles)
    return result


def _classes(
    models: Sequence[comparison.Model], opened: Sequence[opening.Opened]
) -> tuple[str, ...]:
    """The classes that all the models have.

    Raises:
      UserError: If they differ.
    """
    first = opened[0].classes
    for model, each in zip(models, opened):
        if each.classes != first:
            raise commands.UserError(
                "The models must have the same classes, or --as_palms ignore them. "
                f"Received: {models[0].path} with {list(first)}, and {model.path} with "
                f"{list(each.classes)}."
            )
    return first


def _write(
    directory: pathlib.Path, result: Mapping[str, Any], titles: Sequence[str]
) -> None:
    """Writes the object, and a picture for each model if matplotlib is there."""
    from checkpoints import atomic
    from ondevice.device import confusion, plot

    # An earlier evaluation's would pass for this one's.
    for name in _earlier(directory / _RESULT):
        (directory / name).unlink(missing_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False)
    atomic.write(directory / _RESULT, [text.encode()])
    if not plot.can_draw(f"{_PICTURE}.png"):
        return
    paths = [entry["path"] for entry in result["models"]]
    for title, entry, name in zip(titles, result["models"], _names(paths)):
        figures = (
            f"class accuracy {entry['class_accuracy']:.3f}, recall "
            f"{entry['recall']:.3f}, {entry['images']} images"
        )
        confusion.draw(
            entry["confusion"], result["classes"], [title, figures], directory / name
        )


def _names(paths: Sequence[str]) -> list[str]:
    """Of the pictures of models; the number keeps files of one name apart."""
    if len(paths) == 1:
        return [f"{_PICTURE}.png"]
    stems = [pathlib.Path(path).stem[:_LONGEST] for path in paths]
    return [f"{_PICTURE}-{number}-{stem}.png" for number, stem in enumerate(stems, 1)]


def _earlier(path: pathlib.Path) -> list[str]:
    """Names of the pictures that an earlier evaluation drew; none where none did."""
    try:
        models = json.loads(path.read_text())["models"]
        names = _names([entry["path"] for entry in models])
        return [name for name in names if name.isprintable()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    return commands.Outcome(
        evaluate(
            EvaluateConfig(
                models=commands.existing_paths(_MODEL),
                data=commands.required_path(_DATA),
                checkpoints=commands.existing_paths(_CHECKPOINT),
                labels_from=commands.optional_path(_LABELS_FROM),
                as_palms=_AS_PALMS.value,
                share=commands.frame_share(_FRAME.value),
                output_dir=commands.output_path(_OUTPUT_DIR),
                show_labels=commands.output_path(_SHOW_LABELS),
                runtime=_RUNTIME.value,
                threads=_THREADS.value,
            )
        )
    )


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _DATA], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
