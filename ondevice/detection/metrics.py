"""How good detections are, against labelled hands.

- Recall: the share of the labelled hands that a detection with a score and an IoU of
  0.5 or more finds, whatever its class.
- Mean IoU: over the labelled hands, the IoU of the detection that overlaps it most; 0
  where there is none, so that a hand that is missed does not flatter it.
- Class accuracy: the share of the images whose best detection has the right class; an
  image without detection counts as wrong. Where an image holds several hands, the right
  class is that of the hand which the best detection overlaps most.

An image whose class is known though no hand in it is labelled counts for the class
alone; one that holds nothing counts nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ondevice.detection import decoding, geometry, targets

MIN_SCORE = 0.5
MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True)
class Judged:
    """One image to measure.

    Attributes:
      labels: Hands that are there.
      detections: Hands that were found, in the same units.
      class_index: Class of the image, where no label says it; None where none does.
    """

    labels: Sequence[targets.Label]
    detections: Sequence[decoding.Detection]
    class_index: int | None = None


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What `measure` found.

    Attributes:
      images: Images with a class.
      found: For each labelled hand, in order, whether a detection finds it.
      class_accuracy: In [0, 1]; 0 without images.
      recall: In [0, 1]; 0 without hands.
      mean_iou: In [0, 1]; 0 without hands.
      confusion: [K][K + 1] images: a row for each right class, a column for each class
        of the best detection, the last one for no detection.
    """

    images: int
    found: tuple[bool, ...]
    class_accuracy: float
    recall: float
    mean_iou: float
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields that `evaluate` prints, as JSON takes them."""
        fields = dataclasses.asdict(self)
        del fields["found"]
        return {**fields, "confusion": [list(row) for row in self.confusion]}


def measure(
    images: Iterable[Judged],
    classes: int,
    min_score: float = MIN_SCORE,
    min_iou: float = MIN_IOU,
) -> Metrics:
    """Compares detections with labels, image by image.

    Args:
      images: Labels and detections of each.
      classes: K.
      min_score: Detections below it do not count.
      min_iou: A hand counts as found from this IoU on.

    Raises:
      ValueError: If a class index is not below `classes`.
    """
    confusion = np.zeros((classes, classes + 1), np.int64)
    overlaps: list[float] = []
    for image in images:
        labels, right = image.labels, image.class_index
        counted = [d for d in image.detections if d.score >= min_score]
        best = max(counted, key=lambda detection: detection.score, default=None)
        _check([*labels, *counted], right, classes)
        if labels:
            overlap = _overlaps(labels, counted)
            overlaps += overlap.max(axis=1, initial=0).tolist()
            nearest = _overlaps(labels, [best])[:, 0].argmax() if best else 0
            right = labels[int(nearest)].class_index
        if right is not None:
            confusion[right, best.class_index if best else classes] += 1
    total = int(confusion.sum())
    found = tuple(overlap >= min_iou for overlap in overlaps)
    return Metrics(
        images=total,
        found=found,
        class_accuracy=float(np.trace(confusion)) / total if total else 0.0,
        recall=float(np.mean(found)) if found else 0.0,
        mean_iou=float(np.mean(overlaps)) if overlaps else 0.0,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def kept(first: Metrics, other: Metrics) -> float | None:
    """The share of the hands that one detector finds which another finds, too.

    Args:
      first: Measured on the same images as `other`.
      other: Of the detector that may have forgotten.

    Returns:
      In [0, 1]; None where the first finds no hand.
    """
    pairs = zip(first.found, other.found, strict=True)
    also = [theirs for ours, theirs in pairs if ours]
    return float(np.mean(also)) if also else None


def _overlaps(
    labels: Sequence[targets.Label], detections: Sequence[decoding.Detection]
) -> np.ndarray:
    """[labels, detections] IoU."""
    hands = np.array([label.box for label in labels], np.float64)
    found = np.array([detection.box for detection in detections], np.float64)
    return geometry.iou(hands[:, np.newaxis], found.reshape(-1, 4))


def _check(
    boxes: Sequence[targets.Label | decoding.Detection],
    class_index: int | None,
    classes: int,
) -> None:
    indices = {box.class_index for box in boxes}
    if class_index is not None:
        indices.add(class_index)
    wrong = sorted(index for index in indices if not 0 <= index < classes)
    if wrong:
        raise ValueError(
            f"A class index must be in 0..{classes - 1}. Received: {wrong}."
        )
