"""How good detections are, against labelled hands.

- Recall: the share of the labelled hands that a detection with a score and an IoU of
  0.5 or more finds, whatever its class.
- Mean IoU: over the labelled hands, the IoU of the detection that overlaps it most; 0
  where there is none, so that a hand that is missed does not flatter it.
- Class accuracy: the share of the images whose best detection has the right class; an
  image without detection counts as wrong. Where an image holds several hands, the right
  class is that of the hand which the best detection overlaps most.

Images without a labelled hand count in none of them.
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
class Metrics:
    """What `measure` found.

    Attributes:
      images: Images with a labelled hand.
      hands: Labelled hands in them.
      class_accuracy: In [0, 1]; 0 without images.
      recall: In [0, 1]; 0 without hands.
      mean_iou: In [0, 1]; 0 without hands.
      confusion: [K][K + 1] images: a row for each right class, a column for each class
        of the best detection, the last one for no detection.
    """

    images: int
    hands: int
    class_accuracy: float
    recall: float
    mean_iou: float
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields that `evaluate` prints, as JSON takes them."""
        fields = dataclasses.asdict(self)
        del fields["hands"]
        return {**fields, "confusion": [list(row) for row in self.confusion]}


def measure(
    images: Iterable[tuple[Sequence[targets.Label], Sequence[decoding.Detection]]],
    classes: int,
    min_score: float = MIN_SCORE,
    min_iou: float = MIN_IOU,
) -> Metrics:
    """Compares detections with labels, image by image.

    Args:
      images: For each image its labels and its detections, in the same units.
      classes: K.
      min_score: Detections below it do not count.
      min_iou: A hand counts as found from this IoU on.

    Raises:
      ValueError: If a class index is not below `classes`.
    """
    confusion = np.zeros((classes, classes + 1), np.int64)
    overlaps: list[float] = []
    for labels, detections in images:
        _check([*labels, *detections], classes)
        if not labels:
            continue
        counted = [d for d in detections if d.score >= min_score]
        if not counted:
            overlaps += [0.0] * len(labels)
            confusion[labels[0].class_index, classes] += 1
            continue
        overlap = geometry.iou(
            np.array([label.box for label in labels], np.float64)[:, np.newaxis],
            np.array([detection.box for detection in counted], np.float64),
        )
        overlaps += overlap.max(axis=1).tolist()
        best = max(range(len(counted)), key=lambda index: counted[index].score)
        right = labels[int(overlap[:, best].argmax())]
        confusion[right.class_index, counted[best].class_index] += 1
    total = int(confusion.sum())
    found = [overlap >= min_iou for overlap in overlaps]
    return Metrics(
        images=total,
        hands=len(overlaps),
        class_accuracy=float(np.trace(confusion)) / total if total else 0.0,
        recall=float(np.mean(found)) if found else 0.0,
        mean_iou=float(np.mean(overlaps)) if overlaps else 0.0,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _check(
    boxes: Sequence[targets.Label | decoding.Detection], classes: int
) -> None:
    wrong = sorted({b.class_index for b in boxes if not 0 <= b.class_index < classes})
    if wrong:
        raise ValueError(
            f"A class index must be in 0..{classes - 1}. Received: {wrong}."
        )
