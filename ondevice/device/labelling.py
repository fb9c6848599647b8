"""Labels drawn by a detector itself, for pictures whose class alone is known.

Each picture is tried at several shares of the frame, because the detectors miss hands
that fill it, and because a hand's box differs from one share to the next. The best palm
of each, whatever its class, has a vote; those that agree with the most become their
score-weighted mean, and that is the picture's one hand. On 385 photographs of digits 0
to 6, palm_full's own boxes at 0.55 have a mean IoU of 0.89 with such labels (0.86 with
the single best-scored one), at 0.4 0.83 (0.78), at 0.7 0.87 (0.84); a miss counts as 0.

Labels are kept in a file by the digests of the detector and of the picture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from checkpoints import atomic
from ondevice.detection import decoding, geometry, targets
from ondevice.device import detectors, image_cache, json_records, samples

# Shares of the frame that have a vote.
FRAMES = (0.4, 0.5, 0.6, 0.7)

# Tried where none of those found a palm, a hand far away for one.
FALLBACKS = (1.0, 0.85, 0.3)

# Detections that overlap by more agree.
_AGREEING_IOU = 0.5

_VERSION = 1


def label_images(
    dataset: samples.Dataset,
    detector: detectors.Detector,
    frames: Sequence[float] = FRAMES,
    cache: image_cache.ImageCache | None = None,
    directory: pathlib.Path | None = None,
    progress: samples.Progress = iter,
) -> tuple[samples.Dataset, tuple[pathlib.Path, ...]]:
    """Labels the pictures that have no labels yet.

    Args:
      dataset: Its samples without labels must have a class.
      detector: Draws the labels.
      frames: Shares of the frame to try, before `FALLBACKS`.
      cache: Decoded pictures.
      directory: Where labels are kept, a file for each detector; None keeps none.
      progress: Wraps the samples.

    Returns:
      The data set, labelled, where the pictures without a palm still have no labels;
      and the paths of those.

    Raises:
      ImageError: If a picture cannot be decoded.
    """
    cache = cache or image_cache.ImageCache(0)
    labelled: list[samples.Sample] = []
    with _kept(directory, detector, frames) as kept:
        for sample in progress(dataset.samples):
            if sample.labels is not None or sample.class_index is None:
                labelled.append(sample)
                continue
            key = hashlib.sha256(sample.path.read_bytes()).hexdigest()
            if key not in kept:
                kept[key] = _draw(detector, cache.read(sample.path), frames)
            hand = kept[key]
            labels = None
            if hand is not None:
                labels = (targets.Label(hand.box, hand.keypoints, sample.class_index),)
            labelled.append(
                dataclasses.replace(sample, labels=labels, drawn=hand is not None)
            )
    missing = tuple(sample.path for sample in labelled if sample.labels is None)
    return dataclasses.replace(dataset, samples=tuple(labelled)), missing


def agreed(found: Sequence[decoding.Detection]) -> decoding.Detection:
    """The mean of the detections around the one that the most agree with.

    Args:
      found: One or more, in the same units; the votes.

    Returns:
      Score-weighted mean box and keypoints; the class and score of the best.
    """
    boxes = np.array([detection.box for detection in found])
    weights = np.array([detection.score for detection in found])
    agree = geometry.iou(boxes[:, np.newaxis], boxes) > _AGREEING_IOU
    np.fill_diagonal(agree, True)
    group = agree[(agree * weights).sum(axis=1).argmax()]
    share = weights[group] / weights[group].sum()
    xmin, ymin, xmax, ymax = (share @ boxes[group]).tolist()
    points = np.array([detection.keypoints for detection in found]).reshape(
        len(found), -1, 2
    )
    keypoints = np.tensordot(share, points[group], axes=1).tolist()
    best = max((d for d, of in zip(found, group) if of), key=lambda d: d.score)
    return dataclasses.replace(
        best,
        box=(xmin, ymin, xmax, ymax),
        keypoints=tuple((x, y) for x, y in keypoints),
    )


def _draw(
    detector: detectors.Detector, pixels: np.ndarray, frames: Sequence[float]
) -> decoding.Detection | None:
    for shares in (frames, FALLBACKS):
        found = [
            detection
            for share in shares
            for detection in detector.detect(pixels, share, any_class=True)[:1]
        ]
        if found:
            return agreed(found)
    return None


@contextlib.contextmanager
def _kept(
    directory: pathlib.Path | None,
    detector: detectors.Detector,
    frames: Sequence[float],
) -> Iterator[dict[str, decoding.Detection | None]]:
    """Detections by the picture's digest; what is added is written in the end."""
    if directory is None or not detector.digest:
        yield {}
        return
    name = hashlib.sha256(
        json.dumps([_VERSION, detector.digest, [*frames], FALLBACKS]).encode()
    ).hexdigest()
    path = directory / f"labels-{name[:16]}.json"
    kept = _read(path)
    before = len(kept)
    try:
        yield kept
    finally:
        if len(kept) > before:
            _write(path, kept)


# What reading labels that we did not write raises, by experience.
_NO_LABELS = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)


def _read(path: pathlib.Path) -> dict[str, decoding.Detection | None]:
    """What the file holds; nothing, with a line in the log, where it is broken."""
    try:
        document = json_records.members(path.read_bytes())
        return {key: _detection(value) for key, value in document}
    except FileNotFoundError:
        return {}
    except _NO_LABELS as error:
        logging.warning("%s: labels are drawn anew: %s", path, str(error)[:200])
        return {}


def _write(path: pathlib.Path, kept: dict[str, decoding.Detection | None]) -> None:
    """Writes what is kept; a full disk costs only the labels."""
    document = {
        key: None if d is None else [d.score, d.box, d.keypoints]
        for key, d in kept.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, [json.dumps(document).encode()])
    except OSError as error:
        logging.warning("%s: labels could not be kept: %s", path, error)


def _detection(value: Any) -> decoding.Detection | None:
    if value is None:
        return None
    score, box, keypoints = value
    xmin, ymin, xmax, ymax = map(float, box)
    points = tuple((float(x), float(y)) for x, y in keypoints)
    numbers = [float(score), xmin, ymin, xmax, ymax, *(c for p in points for c in p)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a label is not finite")
    return decoding.Detection((xmin, ymin, xmax, ymax), float(score), 0, points)
