"""COCO's average precision, by pycocotools, which is optional."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

from ondevice.detection import metrics

# Detections below are left out; far below any precision that counts.
MIN_SCORE = 0.01

# Boxes are in units of the picture; COCO's areas are in pixels.
_PIXELS = 1000.0


def average_precision(
    images: Sequence[metrics.Judged], classes: Sequence[str]
) -> tuple[float | None, float | None] | None:
    """AP over IoU 0.5 to 0.95, and AP at IoU 0.5, averaged over the classes with hands.

    Args:
      images: Those whose hands are labelled; detections from `MIN_SCORE` on.
      classes: Names by index.

    Returns:
      (AP, AP50) in [0, 1], None for both where no hand is labelled; None alone where
      pycocotools is not installed.
    """
    try:
        from pycocotools import coco, cocoeval
    except ImportError:
        return None
    hands = [
        {
            "image_id": number,
            "category_id": label.class_index,
            **_box(label.box),
            "iscrowd": 0,
        }
        for number, image in enumerate(images)
        for label in image.labels
    ]
    if not hands:
        return None, None
    found = [
        {
            "image_id": number,
            "category_id": detection.class_index,
            **_box(detection.box),
            "score": detection.score,
        }
        for number, image in enumerate(images)
        for detection in image.detections
    ]
    for number, row in enumerate(hands + found, 1):
        row["id"] = number
    truth, guessed = coco.COCO(), coco.COCO()
    truth.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": hands,
    }
    guessed.dataset = {**truth.dataset, "annotations": found}
    with contextlib.redirect_stdout(io.StringIO()):  # It prints; stdout is for JSON.
        truth.createIndex()
        guessed.createIndex()
        judge = cocoeval.COCOeval(truth, guessed, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return _share(judge.stats[0]), _share(judge.stats[1])


def _box(box: tuple[float, float, float, float]) -> dict:
    xmin, ymin, xmax, ymax = (_PIXELS * side for side in box)
    width, height = xmax - xmin, ymax - ymin
    return {"bbox": [xmin, ymin, width, height], "area": width * height}


def _share(value: float) -> float | None:
    """COCO gives -1 where nothing is to be measured."""
    return float(value) if value >= 0 else None
