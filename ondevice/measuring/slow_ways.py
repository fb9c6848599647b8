"""Slow ways of running a detector, to measure what each costs (the device side).

Nothing here is meant to be used: `ondevice.detection.decoding` and
`ondevice.device.runtimes` do the same at a fraction of the time. Each function is what
a reader of tutorials writes, and gives the right detections.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ondevice.detection import decoding, geometry
from ondevice.device import runtimes

# How a graph is written down; `slow_graphs.frozen` tells what they are.
STATIC, DYNAMIC, TRANSPOSED = "static", "dynamic batch", "transposed"


@dataclasses.dataclass(frozen=True)
class Graph:
    """A frozen file to run.

    Attributes:
      classes: How many linear class heads it has.
      form: `STATIC`, `DYNAMIC` or `TRANSPOSED`.
      trained: Whether they are trained.
    """

    classes: int
    form: str = STATIC
    trained: bool = True


# What a slow way finds: (score, class, [4 + 2 * keypoints]) of each detection.
Found = list[tuple[float, int, np.ndarray]]


def loop(
    regressors: np.ndarray,
    logits: np.ndarray,
    centres: np.ndarray,
    size: int,
    threshold_first: bool = False,
) -> Found:
    """Goes through classes and anchors in Python; decodes all, or what fires."""
    found = []
    for k in range(logits.shape[1]):
        boxes, scores = [], []
        for n in range(len(centres)):
            score = 1 / (1 + np.exp(-logits[n, k]))
            if threshold_first and score < decoding.MIN_SCORE:
                continue
            x, y = centres[n]
            middle_x, middle_y, width, height = regressors[n, :4] / size
            box = [
                x + middle_x - width / 2,
                y + middle_y - height / 2,
                x + middle_x + width / 2,
                y + middle_y + height / 2,
            ]
            for j in range(4, regressors.shape[1], 2):
                box.append(x + regressors[n, j] / size)
                box.append(y + regressors[n, j + 1] / size)
            if score >= decoding.MIN_SCORE:
                boxes.append(box)
                scores.append(score)
        found += _suppress(np.array(boxes), np.array(scores), k)
    return found


loop_thresholded = functools.partial(loop, threshold_first=True)


def thresholded(
    regressors: np.ndarray,
    logits: np.ndarray,
    centres: np.ndarray,
    size: int,
    threshold_first: bool = True,
) -> Found:
    """Decodes with numpy, and suppresses class by class: what fires, or all."""
    boxes = decoding.decode_boxes(regressors, centres, size)
    points = decoding.decode_keypoints(regressors, centres, size)
    values = np.concatenate([boxes, points.reshape(len(points), -1)], axis=1)
    scores = decoding.scores(logits)
    lowest = decoding.MIN_SCORE if threshold_first else 0
    found = []
    for k in range(logits.shape[1]):
        reached = scores[:, k] >= lowest
        found += _suppress(values[reached], scores[reached, k], k)
    return [row for row in found if row[0] >= decoding.MIN_SCORE]


unthresholded = functools.partial(thresholded, threshold_first=False)


def _suppress(values: np.ndarray, scores: np.ndarray, kind: int) -> Found:
    """Suppresses one class: the best, what overlaps it goes, the best of the rest."""
    found, left = [], np.arange(len(scores))
    while len(left):
        best = left[scores[left].argmax()]
        found.append((float(scores[best]), kind, values[best]))
        overlap = geometry.iou(values[best, :4], values[left, :4])
        left = left[(overlap <= decoding.MIN_SUPPRESSION_IOU) & (left != best)]
    return found


def prepared(data: bytes, runtime: str, threads: int) -> Callable[[np.ndarray], Any]:
    """As it should be: one interpreter, its tensors allocated once."""
    return _invoke(runtimes.create(data, runtime, threads))


def resized(data: bytes, runtime: str, threads: int) -> Callable[[np.ndarray], Any]:
    """Sets the input's shape and allocates again before each call."""
    interpreter = runtimes.create(data, runtime, threads)
    index = interpreter.get_input_details()[0]["index"]

    def call(image: np.ndarray) -> Any:
        # The runtimes pass over a shape that does not change, unless it did between.
        interpreter.resize_tensor_input(index, (2, *image.shape[1:]))
        interpreter.resize_tensor_input(index, image.shape)
        interpreter.allocate_tensors()
        return _invoke(interpreter)(image)

    return call


def reopened(data: bytes, runtime: str, threads: int) -> Callable[[np.ndarray], Any]:
    """Makes an interpreter for each call."""
    return lambda image: prepared(data, runtime, threads)(image)


def unallocated(data: bytes, runtime: str, threads: int) -> Callable[[np.ndarray], Any]:
    """Calls the file's signature without `allocate_tensors` before it."""
    interpreter = runtimes.interpreter_class(runtime)(
        model_content=data, num_threads=threads
    )
    (key,) = interpreter.get_signature_list()
    runner = interpreter.get_signature_runner(key)
    (name,) = interpreter.get_signature_list()[key]["inputs"]
    outputs = [output["name"] for output in interpreter.get_output_details()]

    def call(image: np.ndarray) -> Any:
        found = runner(**{name: image})
        return tuple(found[output] for output in outputs)

    return call


def _invoke(interpreter: Any) -> Callable[[np.ndarray], Any]:
    index = interpreter.get_input_details()[0]["index"]
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def call(image: np.ndarray) -> Any:
        interpreter.set_tensor(index, image)
        interpreter.invoke()
        return tuple(interpreter.get_tensor(output) for output in outputs)

    return call
