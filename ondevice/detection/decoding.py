"""From a detector's outputs to detections, and from boxes to its regression targets.

Regressors are pixels of the input, relative to the anchor's centre: r0, r1 the offset
of the box's centre, r2, r3 its width and height, then x and y of each keypoint. There
are no exponentials and no variances. Suppression is MediaPipe's weighted one, class by
class: a group of overlapping boxes becomes their score-weighted mean with the best
one's score.
Source: mediapipe/calculators/tensor/tensors_to_detections_calculator.cc,
mediapipe/calculators/util/non_max_suppression_calculator.cc.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ondevice.detection import geometry

# MediaPipe's palm detection graphs.
MIN_SCORE = 0.5
MIN_SUPPRESSION_IOU = 0.3

# Of one class in one image. MediaPipe has no such bound; here it keeps a network that
# has diverged, and fires at every anchor, from taking seconds.
MAX_DETECTIONS = 100

_LOGIT_CLIP = 100.0
# Covers float32 rounding between a score's threshold and its logit's.
_LOGIT_MARGIN = 1e-2


@dataclasses.dataclass(frozen=True)
class Detection:
    """One detected object.

    Attributes:
      box: (xmin, ymin, xmax, ymax), in units of the square, or of the picture after
        `remove_letterbox`; not clipped.
      score: In [0, 1].
      class_index: Index of the class.
      keypoints: (x, y) of each keypoint, in the same units as the box.
    """

    box: tuple[float, float, float, float]
    score: float
    class_index: int
    keypoints: tuple[tuple[float, float], ...] = ()


def decode_boxes(regressors: np.ndarray, centres: np.ndarray, size: int) -> np.ndarray:
    """Boxes of raw regressors.

    Args:
      regressors: [..., N, C] float, pixels of the input; C = 4 + 2 * keypoints.
      centres: [N, 2] float, (x, y) in [0, 1].
      size: Side of the input in pixels.

    Returns:
      [..., N, 4] float, (xmin, ymin, xmax, ymax) in units of the square, unclipped.

    Raises:
      ValueError: If the shapes do not fit.
    """
    _check(regressors, centres)
    middle = regressors[..., :2] / size + centres
    half = regressors[..., 2:4] / (2 * size)
    return np.concatenate([middle - half, middle + half], axis=-1)


def decode_keypoints(
    regressors: np.ndarray, centres: np.ndarray, size: int
) -> np.ndarray:
    """Keypoints of raw regressors.

    Args:
      regressors: [..., N, C] float, pixels of the input; C = 4 + 2 * keypoints.
      centres: [N, 2] float, (x, y) in [0, 1].
      size: Side of the input in pixels.

    Returns:
      [..., N, keypoints, 2] float, (x, y) in units of the square.

    Raises:
      ValueError: If the shapes do not fit.
    """
    _check(regressors, centres)
    points = regressors[..., 4:] / size
    shape = (*regressors.shape[:-1], (regressors.shape[-1] - 4) // 2, 2)
    return points.reshape(shape) + centres[:, np.newaxis]


def encode(
    boxes: np.ndarray, keypoints: np.ndarray, centres: np.ndarray, size: int
) -> np.ndarray:
    """Regressors that decode to the given boxes and keypoints, at each anchor.

    Args:
      boxes: [..., N, 4] float in units of the square, or [..., 1, 4] for one box at
        every anchor.
      keypoints: [..., N, keypoints, 2] float in units of the square, or with 1 for N.
      centres: [N, 2] float, (x, y) in [0, 1].
      size: Side of the input in pixels.

    Returns:
      [..., N, 4 + 2 * keypoints] float32, pixels of the input.
    """
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2 - centres
    sides = np.broadcast_to(boxes[..., 2:] - boxes[..., :2], middle.shape)
    points = keypoints - centres[:, np.newaxis]
    flat = points.reshape(*points.shape[:-2], 2 * points.shape[-2])
    return (np.concatenate([middle, sides, flat], axis=-1) * size).astype(np.float32)


def scores(logits: np.ndarray) -> np.ndarray:
    """Sigmoid of the logits, clipped to +-100 as in MediaPipe; shape and dtype kept."""
    clipped = np.clip(logits, -_LOGIT_CLIP, _LOGIT_CLIP)
    small = np.exp(-np.abs(clipped))  # Never overflows, unlike exp(100) in float32.
    return np.where(clipped >= 0, 1, small) / (1 + small)


def detect(
    regressors: np.ndarray,
    logits: np.ndarray,
    centres: np.ndarray,
    size: int,
    min_score: float = MIN_SCORE,
    min_suppression_iou: float = MIN_SUPPRESSION_IOU,
) -> tuple[Detection, ...]:
    """Detections of one image, suppressed class by class.

    Only anchors that reach `min_score` are decoded, so a class more costs a comparison.
    What has a negative size or a coordinate that is not finite is dropped.

    Args:
      regressors: [N, C] float32, pixels of the input.
      logits: [N, K] float32; the sigmoid is the score of class k at anchor n.
      centres: [N, 2] float32.
      size: Side of the input in pixels.
      min_score: Lowest score of a detection.
      min_suppression_iou: Boxes that overlap the best one by more join its group.

    Returns:
      Detections in units of the square, by falling score.

    Raises:
      ValueError: If the shapes do not fit.
    """
    _check(regressors, centres)
    if logits.ndim != 2 or len(logits) != len(centres):
        raise ValueError(
            f"Logits must have the shape ({len(centres)}, classes). "
            f"Received: {logits.shape}."
        )
    anchors = _rows_with(logits >= _logit(min_score) - _LOGIT_MARGIN)
    reached = scores(logits[anchors])
    chosen, at = regressors[anchors], centres[anchors]
    with np.errstate(over="ignore", invalid="ignore"):
        flat = np.concatenate(
            [
                decode_boxes(chosen, at, size),
                decode_keypoints(chosen, at, size).reshape(chosen[:, 4:].shape),
            ],
            axis=-1,
        )
        sound = np.isfinite(flat).all(axis=1) & (chosen[:, 2:4] >= 0).all(axis=1)
    found = weighted_nms(flat[sound], reached[sound], min_score, min_suppression_iou)
    return tuple(sorted(found, key=lambda detection: -detection.score))


def weighted_nms(
    values: np.ndarray,
    scores: np.ndarray,
    min_score: float,
    min_suppression_iou: float,
    most: int = MAX_DETECTIONS,
) -> list[Detection]:
    """Weighted non-maximum suppression, every class at once and for itself.

    In each round the best box of a class and all of it that overlap that box by more
    than the threshold, itself included, form a group; its coordinates are their
    score-weighted mean, its score the best one's. A class is done when nothing of it is
    left, when a round removed nothing (an empty box, say), or after `most` rounds.

    Args:
      values: [M, 4 + 2 * keypoints] float, finite: box corners (xmin, ymin, xmax,
        ymax), then keypoints.
      scores: [M, K] float.
      min_score: What reaches less takes no part.
      min_suppression_iou: Threshold, exclusive.
      most: Detections of a class.

    Returns:
      One detection for each group, in no order.
    """
    values = values.astype(np.float64)
    kinds = np.flatnonzero((scores >= min_score).any(axis=0))
    weights = scores.T[kinds].astype(np.float64)
    alive = scores.T[kinds] >= min_score
    found: list[Detection] = []
    for _ in range(most):
        if not len(kinds):
            break
        best = np.where(alive, weights, -1).argmax(axis=1)
        overlap = geometry.iou(values[best, np.newaxis, :4], values[:, :4])
        joins = alive & (overlap > min_suppression_iou)
        shares = np.where(joins, weights, 0)
        total = shares.sum(axis=1, keepdims=True)
        # Where nothing joins, or all that does has a score of 0, the best stands alone.
        means = shares @ values / np.where(total > 0, total, 1)
        means = np.where(total > 0, means, values[best])
        tops = weights[np.arange(len(kinds)), best]
        rows = zip(kinds.tolist(), tops.tolist(), means.tolist(), strict=True)
        found += [_detection(mean, top, kind) for kind, top, mean in rows]
        alive &= ~joins
        going = joins.any(axis=1) & alive.any(axis=1)
        kinds, weights, alive = kinds[going], weights[going], alive[going]
    return found


def remove_letterbox(detection: Detection, letterbox: geometry.Affine) -> Detection:
    """A detection in units of the picture, from one in units of the square."""
    back = letterbox.inverse()
    box = back.boxes(np.array(detection.box))
    keypoints = back.points(np.array(detection.keypoints).reshape(-1, 2))
    return dataclasses.replace(
        detection,
        box=tuple(box.tolist()),
        keypoints=tuple((x, y) for x, y in keypoints.tolist()),
    )


def _rows_with(marks: np.ndarray) -> np.ndarray:
    """Indices of the rows of [N, K] bool that hold a True, rising.

    `any(axis=1)` goes row by row, and takes several times as long on short ones.
    """
    rows = np.flatnonzero(marks) // marks.shape[1]
    first = np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    return rows[first]


def _detection(values: list[float], score: float, class_index: int) -> Detection:
    xmin, ymin, xmax, ymax = values[:4]
    keypoints = tuple(zip(values[4::2], values[5::2]))
    return Detection((xmin, ymin, xmax, ymax), score, class_index, keypoints)


def _logit(score: float) -> float:
    """Logit of a score; finite, and within what a float32 sigmoid can tell apart."""
    bounded = min(max(score, 1e-30), 1 - 2**-24)
    return float(np.log(bounded) - np.log1p(-bounded))


def _check(regressors: np.ndarray, centres: np.ndarray) -> None:
    coordinates = regressors.shape[-1]
    if (
        regressors.ndim < 2
        or regressors.shape[-2] != len(centres)
        or coordinates < 4
        or coordinates % 2
    ):
        raise ValueError(
            f"Regressors must have the shape (..., {len(centres)}, 4 + 2 * keypoints). "
            f"Received: {regressors.shape}."
        )
