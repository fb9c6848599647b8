"""Positions at which OpenCV's warpPerspective samples a picture, to the bit.

MediaPipe finds the map from the square's corners, by a linear system, and inverts it.
The coefficients are right to the last bits only; but where a position lies half way
between two steps of 1/32 pixel, as it does all over the square wherever the picture's
longer side is odd, those bits decide which step is taken, and palm detectors have been
seen to move a keypoint by 1.5 pixels of their input for it. So the arithmetic is
repeated here, operation by operation, in OpenCV's order.

Source: OpenCV 4.10, imgproc/src/imgwarp.cpp (getPerspectiveTransform, warpPerspective),
core/src/matrix_decomp.cpp (LUImpl), core/src/lapack.cpp (invert), on x86-64, where
nothing is fused; mediapipe/calculators/tensor/image_to_tensor_converter_opencv.cc.
"""

from __future__ import annotations

import numpy as np

# OpenCV's INTER_TAB_SIZE: steps of a pixel in which it interpolates.
STEPS = 32

# In steps; OpenCV holds them in 32 bits.
FARTHEST = 2.0**31 - 1

# OpenCV's BLOCK_SZ: it samples blocks of BLOCK_SZ * BLOCK_SZ pixels, half as high.
_BLOCK = 32


def steps(
    left: float, top: float, right: float, bottom: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a square is sampled, in steps of a picture's pixel.

    Args:
      left, top, right, bottom: The square's sides, in pixels of the picture.
      size: Side of the square in its own pixels.

    Returns:
      x and y, [size, size] int64 each, in 1/32 pixel.
    """
    corners = ((left, bottom), (left, top), (right, top), (right, bottom))
    targets = ((0, size), (0, 0), (size, 0), (size, size))
    m = _invert(_transform(corners, targets))
    line = np.arange(size)
    height = min(_BLOCK // 2, size)
    width = min(_BLOCK * _BLOCK // height, size)
    start = line // width * width
    within, y = line - start, line[:, np.newaxis]
    weight = STEPS / (m[6] * start + m[7] * y + m[8] + m[6] * within)
    x_steps = (m[0] * start + m[1] * y + m[2] + m[0] * within) * weight
    y_steps = (m[3] * start + m[4] * y + m[5] + m[3] * within) * weight
    x_steps, y_steps = np.clip([x_steps, y_steps], -FARTHEST, FARTHEST)
    return np.rint(x_steps).astype(np.int64), np.rint(y_steps).astype(np.int64)


def _transform(
    sources: tuple[tuple[float, float], ...], targets: tuple[tuple[float, float], ...]
) -> list[float]:
    """The perspective map that takes four points to four, row by row; the last is 1."""
    upper, lower = [], []
    for source, target in zip(sources, targets, strict=True):
        x, y, to_x, to_y = np.array([*source, *target], np.float32)
        upper.append([x, y, 1, 0, 0, 0, -x * to_x, -y * to_x, to_x])
        lower.append([0, 0, 0, x, y, 1, -x * to_y, -y * to_y, to_y])
    return [*_solve([list(map(float, row)) for row in upper + lower]), 1.0]


def _solve(rows: list[list[float]]) -> list[float]:
    """Gaussian elimination with pivots; each row ends in its right-hand side."""
    count = len(rows)
    for i in range(count):
        # The first of the largest, as OpenCV takes it.
        pivot = max(range(i, count), key=lambda j: abs(rows[j][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        factor = -1 / rows[i][i]
        for row in rows[i + 1 :]:
            alpha = row[i] * factor
            for k in range(i + 1, count + 1):
                row[k] += alpha * rows[i][k]
    found = [0.0] * count
    for i in reversed(range(count)):
        rest = rows[i][count]
        for k in range(i + 1, count):
            rest -= rows[i][k] * found[k]
        found[i] = rest / rows[i][i]
    return found


def _invert(matrix: list[float]) -> list[float]:
    """Inverse of a 3x3 matrix by its cofactors, row by row."""
    a, b, c, d, e, f, g, h, i = matrix
    cofactors = (
        *(e * i - f * h, c * h - b * i, b * f - c * e),
        *(f * g - d * i, a * i - c * g, c * d - a * f),
        *(d * h - e * g, b * g - a * h, a * e - b * d),
    )
    scale = 1 / (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    return [cofactor * scale for cofactor in cofactors]
