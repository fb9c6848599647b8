"""Pictures turned, slanted and stretched at random, and the hands in them alike.

A person holds a hand as they hold it, in every photograph of theirs: what tells classes
apart must not be the angle of a few wrists.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from ondevice.detection import targets


@dataclasses.dataclass(frozen=True)
class Warp:
    """A linear map of a picture's pixels about its middle; areas stay as they are.

    Attributes:
      matrix: ((xx, xy), (yx, yy)): how a pixel's offset from the middle maps.
    """

    matrix: tuple[tuple[float, float], tuple[float, float]]

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Warps a picture, whole: the canvas grows, and is black where it is not.

        Args:
          pixels: [height, width, 3] uint8.

        Returns:
          [height', width', 3] uint8.
        """
        height, width = pixels.shape[:2]
        new_width, new_height = self.size(width, height)
        back = np.linalg.inv(np.array(self.matrix))
        middle = np.array([width, height]) / 2
        shift = middle - back @ np.array([new_width, new_height]) / 2
        coefficients = np.concatenate([back, shift[:, np.newaxis]], axis=1)
        warped = Image.fromarray(pixels).transform(
            (new_width, new_height),
            Image.Transform.AFFINE,
            tuple(coefficients.ravel().tolist()),
            Image.Resampling.BILINEAR,
        )
        return np.array(warped)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, in pixels, of a warped picture of this size."""
        across, down = np.abs(np.array(self.matrix)) @ np.array([width, height])
        return math.ceil(across), math.ceil(down)

    def label(self, label: targets.Label, width: int, height: int) -> targets.Label:
        """A hand of a picture of this size, in units of the warped one.

        Keypoints and the box's middle go where the pixels go. The detectors' boxes are
        upright whatever the hand's angle, and grow with the keypoints: so does this.
        """
        points = self.points(np.array(label.keypoints).reshape(-1, 2), width, height)
        corners = np.array(label.box).reshape(2, 2)
        middle = self.points(corners.mean(axis=0), width, height)
        sides = (corners[1] - corners[0]) * (width, height)
        if len(points):
            before = np.ptp(np.array(label.keypoints) * (width, height), axis=0).max()
            after = np.ptp(points * self.size(width, height), axis=0).max()
            sides = sides * (after / before if before > 0 else 1.0)
        half = sides / self.size(width, height) / 2
        left, top = (middle - half).tolist()
        right, bottom = (middle + half).tolist()
        keypoints = tuple((x, y) for x, y in points.tolist())
        return targets.Label((left, top, right, bottom), keypoints, label.class_index)

    def box(self, box: targets.Box, width: int, height: int) -> targets.Box:
        """What an area of a picture of this size covers in the warped one."""
        xmin, ymin, xmax, ymax = box
        corners = np.array([(xmin, ymin), (xmax, ymin), (xmin, ymax), (xmax, ymax)])
        corners = self.points(corners, width, height)
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def points(self, points: np.ndarray, width: int, height: int) -> np.ndarray:
        """Maps points [..., 2] in units of the picture to units of the warped one."""
        offsets = (points - 0.5) * (width, height) @ np.array(self.matrix).T
        return offsets / self.size(width, height) + 0.5


def draw(random: np.random.Generator, turn: float, slant: float) -> Warp:
    """Draws a warp.

    Args:
      random: Always gives three numbers.
      turn: Largest angle to either side, in degrees.
      slant: Largest shear to either side, and largest logarithm of the stretch along x,
        which y makes up for.
    """
    angle, stretch, shear = random.uniform(-1, 1, 3).tolist()
    radians = math.radians(turn) * angle
    cosine, sine = math.cos(radians), math.sin(radians)
    turned = np.array([(cosine, -sine), (sine, cosine)])
    wide = math.exp(slant * stretch)
    matrix = turned @ np.array([(wide, slant * shear), (0, 1 / wide)])
    (xx, xy), (yx, yy) = matrix.tolist()
    return Warp(((xx, xy), (yx, yy)))
