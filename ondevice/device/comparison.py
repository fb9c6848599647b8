"""Several detectors on the same labelled pictures: figures, time, what each keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from ondevice.detection import metrics
from ondevice.device import coco, detectors, evaluation, image_cache, opening
from ondevice.device import runtimes, samples, session

# What is known of each model -> the head of its column in a table, and the format.
_COLUMNS = {
    "class_accuracy": ("class accuracy", ".3f"),
    "recall": ("recall", ".3f"),
    "ap": ("AP", ".3f"),
    "ap50": ("AP50", ".3f"),
    "mean_iou": ("mean IoU", ".3f"),
    "kept": ("kept", ".3f"),
    "milliseconds": ("ms", ".1f"),
    "bytes": ("bytes", ",d"),
}
_GAP = "   "


@dataclasses.dataclass(frozen=True)
class Model:
    """A file to measure, and the weights to measure it with.

    Attributes:
      path: Of a .tflite.
      checkpoint: Weights to take up; None leaves it as it is.
    """

    path: pathlib.Path
    checkpoint: pathlib.Path | None = None

    @property
    def title(self) -> str:
        """Both paths."""
        return " + ".join(os.fspath(p) for p in (self.path, self.checkpoint) if p)


def with_checkpoints(
    paths: Sequence[pathlib.Path], checkpoints: Sequence[pathlib.Path]
) -> tuple[Model, ...]:
    """Gives the checkpoints to the trainable files, in the order of both.

    Args:
      paths: Of the files; one that is there twice is measured twice.
      checkpoints: The trainable files beyond their number stay as they are.

    Raises:
      SessionError: If there are more checkpoints than trainable files.
      ValueError: If a file is damaged.
      OSError: If one cannot be read.
    """
    left = list(checkpoints)
    models = tuple(
        Model(path, left.pop(0) if left and opening.is_trainable(path) else None)
        for path in paths
    )
    if left:
        raise session.SessionError(
            "Each checkpoint must have the trainable file that it is of. Received: "
            f"{left[0]}, and no trainable file left for it in "
            f"{', '.join(map(str, paths))}."
        )
    return models


@contextlib.contextmanager
def open_all(
    models: Sequence[Model],
    runtime: str = runtimes.AUTO,
    threads: int | None = None,
) -> Iterator[list[opening.Opened]]:
    """Opens them all; what else is taken and raised is `opening.open_detector`'s."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                opening.open_detector(model.path, model.checkpoint, runtime, threads)
            )
            for model in models
        ]


def compare(
    dataset: samples.Dataset,
    several: Sequence[detectors.Detector],
    share: float = 1.0,
    cache: image_cache.ImageCache | None = None,
    progress: samples.Progress = iter,
    any_class: bool = False,
) -> list[dict[str, Any]]:
    """Measures detectors that take turns at each picture.

    Args:
      dataset: Labelled; a picture without labels counts for its class alone.
      several: With as many classes as the data set.
      share: Of the frame's side that a picture takes, fixed in the middle.
      cache: Decoded pictures.
      progress: Wraps the samples.
      any_class: Whether a detection counts by its best class, as class 0.

    Returns:
      For each, {"images", "class_accuracy", "recall", "ap", "ap50", "mean_iou",
      "confusion"} as `metrics.Metrics` and `coco.average_precision` describe them;
      "kept", as `metrics.kept` of the first detector, None for itself; and
      "milliseconds", the median of a call of `infer`.

    Raises:
      ImageError: If a picture cannot be decoded.
      ValueError: If a detector gives more classes than the data set has.
    """
    watches = [_Stopwatch(detector.infer) for detector in several]
    timed = [
        dataclasses.replace(detector, infer=watch)
        for detector, watch in zip(several, watches)
    ]
    pictures = list(
        evaluation.judge(
            dataset, timed, share, cache, progress, coco.MIN_SCORE, any_class
        )
    )
    measured = [
        (metrics.measure(judged, len(dataset.classes)), _precision(dataset, judged))
        for judged in zip(*pictures)
    ]
    first, precision = measured[0]
    if precision is None:
        logging.warning(
            "ap and ap50 are not computed: pip install pycocotools, or the extra "
            "`report`."
        )
    return [
        {
            "images": found.images,
            "class_accuracy": found.class_accuracy,
            "recall": found.recall,
            "ap": precision[0] if precision else None,
            "ap50": precision[1] if precision else None,
            "mean_iou": found.mean_iou,
            "confusion": found.to_dict()["confusion"],
            "kept": None if found is first else metrics.kept(first, found),
            "milliseconds": round(1e3 * statistics.median(watch.seconds), 3),
        }
        for (found, precision), watch in zip(measured, watches)
    ]


def table(titles: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each model, under a head; `-` where there is no figure.

    Args:
      titles: Of the models.
      rows: What `compare` gives of each, and its "bytes".
    """
    cells = [["", *(head for head, _ in _COLUMNS.values())]]
    for number, (title, row) in enumerate(zip(titles, rows, strict=True), 1):
        figures = [
            "-" if row[key] is None else format(row[key], form)
            for key, (_, form) in _COLUMNS.items()
        ]
        cells.append([f"{number}  {title}", *figures])
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        _GAP.join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def _precision(
    dataset: samples.Dataset, judged: Sequence[metrics.Judged]
) -> tuple[float | None, float | None] | None:
    """`coco.average_precision` over the pictures whose hands are labelled."""
    known = [
        image
        for image, sample in zip(judged, dataset.samples, strict=True)
        if sample.labels is not None
    ]
    return coco.average_precision(known, dataset.classes)


class _Stopwatch:
    """An `infer` that is timed.

    Attributes:
      seconds: Of each call.
    """

    def __init__(self, infer: detectors.Infer) -> None:
        self._infer = infer
        self.seconds: list[float] = []

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        started = time.perf_counter()
        found = self._infer(image)
        self.seconds.append(time.perf_counter() - started)
        return found
