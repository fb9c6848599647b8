"""Coordinates: the one record that maps a picture's to the input square's, and back.

Picture coordinates are in units of the picture's width and height, square coordinates
in units of the model input's side: both run from 0 to 1, x right, y down, and may leave
that range where a hand leaves the picture.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Affine:
    """x' = scale_x * x + shift_x, y' = scale_y * y + shift_y; no rotation.

    Attributes:
      scale_x: Not 0; negative where the picture is mirrored.
      scale_y: Not 0.
      shift_x: Where x = 0 comes to lie.
      shift_y: Where y = 0 comes to lie.
    """

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float

    def __post_init__(self) -> None:
        """Refuses what cannot be inverted.

        Raises:
          ValueError: If a number is not finite or a scale is 0.
        """
        if not all(map(math.isfinite, dataclasses.astuple(self))):
            raise ValueError(f"An affine map must be finite. Received: {self}.")
        if not self.scale_x or not self.scale_y:
            raise ValueError(f"A scale must not be 0. Received: {self}.")

    def points(self, points: np.ndarray) -> np.ndarray:
        """Maps points.

        Args:
          points: [..., 2], (x, y).

        Returns:
          [..., 2] of the same floating dtype (float64 for integers).
        """
        points = _floating(points, 2)
        scale = np.array([self.scale_x, self.scale_y], points.dtype)
        shift = np.array([self.shift_x, self.shift_y], points.dtype)
        return points * scale + shift

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Maps boxes; a mirrored box has its sides put in order again.

        Args:
          boxes: [..., 4], (xmin, ymin, xmax, ymax).

        Returns:
          [..., 4] of the same floating dtype.
        """
        boxes = _floating(boxes, 4)
        corners = self.points(boxes.reshape(*boxes.shape[:-1], 2, 2))
        if self.scale_x < 0:
            corners[..., 0] = corners[..., ::-1, 0].copy()
        if self.scale_y < 0:
            corners[..., 1] = corners[..., ::-1, 1].copy()
        return corners.reshape(boxes.shape)

    def inverse(self) -> Affine:
        """The map back."""
        return Affine(
            1 / self.scale_x,
            1 / self.scale_y,
            -self.shift_x / self.scale_x,
            -self.shift_y / self.scale_y,
        )


def letterbox(
    width: int,
    height: int,
    share: float = 1.0,
    place: tuple[float, float] = (0.5, 0.5),
    flip: bool = False,
) -> Affine:
    """The map from a picture to the square, its aspect ratio kept.

    With the defaults this is MediaPipe's letterbox: the longer side fills the square
    and the picture lies in the middle.

    Args:
      width: Of the picture, in pixels.
      height: Of the picture, in pixels.
      share: Length of the picture's longer side, as a share of the square's, in (0, 1].
      place: Where in the room that is left the picture lies, 0 to 1 in x and in y:
        (0, 0) top left, (0.5, 0.5) the middle.
      flip: Whether the picture is mirrored, left to right, before it is placed.

    Returns:
      Picture coordinates -> square coordinates.

    Raises:
      ValueError: If an argument is outside its range.
    """
    if width < 1 or height < 1:
        raise ValueError(f"A picture must have pixels. Received: {width} x {height}.")
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be in (0, 1]. Received: {share}.")
    if not all(0 <= p <= 1 for p in place):
        raise ValueError(f"`place` must be in [0, 1]. Received: {place}.")
    longer = max(width, height)
    scale_x, scale_y = share * width / longer, share * height / longer
    shift_x, shift_y = (1 - scale_x) * place[0], (1 - scale_y) * place[1]
    if flip:
        return Affine(-scale_x, scale_y, shift_x + scale_x, shift_y)
    return Affine(scale_x, scale_y, shift_x, shift_y)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes, broadcast over the leading axes.

    Args:
      first: [..., 4], (xmin, ymin, xmax, ymax).
      second: [..., 4], broadcastable to `first`.

    Returns:
      [...] in [0, 1]; 0 where both boxes are empty or one is inside out.
    """
    first, second = _floating(first, 4), _floating(second, 4)
    shared = _shared(first, second)
    return _ratio(shared, _area(first) + _area(second) - shared)


def inside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of the first boxes' area that lies in the second, broadcast.

    Args:
      first: [..., 4], (xmin, ymin, xmax, ymax).
      second: [..., 4], broadcastable to `first`.

    Returns:
      [...] in [0, 1]; 0 where the first is empty or one is inside out.
    """
    first, second = _floating(first, 4), _floating(second, 4)
    return _ratio(_shared(first, second), _area(first))


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    whole = np.broadcast_to(whole, part.shape)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _floating(values: np.ndarray, last: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape[-1:] != (last,):
        raise ValueError(
            f"The last axis must have length {last}. Received: shape {values.shape}."
        )
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    return values
