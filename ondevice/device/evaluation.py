"""How good a detector is on labelled pictures, at one share of the frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ondevice.detection import decoding, geometry, metrics
from ondevice.device import detectors, image_cache, samples


def evaluate(
    dataset: samples.Dataset,
    detector: detectors.Detector,
    share: float = 1.0,
    cache: image_cache.ImageCache | None = None,
    progress: samples.Progress = iter,
) -> dict[str, Any]:
    """Detects in every picture and measures.

    Args:
      dataset: Labelled; a picture without labels counts for its class alone.
      detector: With as many classes as the data set.
      share: Of the frame's side that a picture takes, fixed in the middle.
      cache: Decoded pictures.
      progress: Wraps the samples.

    Returns:
      {"images", "class_accuracy", "recall", "mean_iou", "confusion"} as
      `metrics.Metrics` describes them.

    Raises:
      ImageError: If a picture cannot be decoded.
      ValueError: If the detector gives more classes than the data set has.
    """
    pictures = judge(dataset, [detector], share, cache, progress)
    judged = (of_detector for (of_detector,) in pictures)
    return metrics.measure(judged, len(dataset.classes)).to_dict()


def judge(
    dataset: samples.Dataset,
    several: Sequence[detectors.Detector],
    share: float = 1.0,
    cache: image_cache.ImageCache | None = None,
    progress: samples.Progress = iter,
    min_score: float = metrics.MIN_SCORE,
    any_class: bool = False,
) -> Iterator[tuple[metrics.Judged, ...]]:
    """Labels and detections of every picture, in its units and the order of the set.

    Other args and Raises are those of `evaluate`.

    Args:
      several: Detectors; they take turns at each picture.
      min_score: Lowest score of a detection; a lower one serves AP.
      any_class: Whether a detection counts by its best class, as class 0.

    Yields:
      What each of the detectors found in a picture.
    """
    cache = cache or image_cache.ImageCache(0)
    for sample in progress(dataset.samples):
        pixels, labels = cache.read(sample.path), sample.labels or ()
        judged = []
        for detector in several:
            found = detector.detect(pixels, share, min_score, any_class)
            counted = tuple(d for d in found if not _undecided(d, sample))
            judged.append(metrics.Judged(labels, counted, sample.class_index))
        yield tuple(judged)


def _undecided(detection: decoding.Detection, sample: samples.Sample) -> bool:
    """Whether it may be right all the same: most of it lies where hands are unlabelled.

    So COCO takes crowds; what finds a labelled hand counts wherever it lies.
    """
    if not sample.unlabelled:
        return False
    box = np.array(detection.box)
    labelled = np.array([label.box for label in sample.labels or ()]).reshape(-1, 4)
    if (geometry.iou(box, labelled) >= metrics.MIN_IOU).any():
        return False
    unlabelled = np.array(sample.unlabelled).reshape(-1, 4)
    return bool((geometry.inside(box, unlabelled) >= 0.5).any())
