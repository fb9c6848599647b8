"""ResizeBilinear and ResizeNearestNeighbor: the transposed interpolation.

Resizing is linear and separable: result = rows @ image @ transpose(columns) with two
constant matrices, so the gradient is transpose(rows) @ gradient @ columns.
Source: tensorflow/core/kernels/image/resize_bilinear_op.cc and
resize_nearest_neighbor_op.cc.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from signatures.gradients import rule


def resize(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """ResizeBilinear or ResizeNearestNeighbor(image [B,H,W,C], size [2])."""
    image, _ = operation.inputs
    (result,) = operation.emit()
    batch, height, width, channels = rule.static_shape(image)
    _, rows, columns, _ = rule.static_shape(result)
    bilinear = operation.type == "ResizeBilinear"

    def weights(size, out):
        matrix = interpolation(
            size,
            out,
            bilinear,
            operation.attributes["half_pixel_centers"],
            operation.attributes["align_corners"],
        )
        return tf.constant(matrix.T[None], gradient_type)

    # ResizeBilinear gives float32 whatever it is given.
    gradient_type = result.dtype

    def backward(gradients):
        (gradient,) = gradients
        lines = tf.reshape(gradient, [batch, rows, columns * channels])
        lines = tf.matmul(_repeat(weights(height, rows), batch), lines)
        cells = tf.reshape(lines, [batch * height, columns, channels])
        cells = tf.matmul(_repeat(weights(width, columns), batch * height), cells)
        cells = tf.reshape(cells, [batch, height, width, channels])
        return tf.cast(cells, image.dtype), None

    return [result], backward


def interpolation(
    size: int, out: int, bilinear: bool, half_pixel: bool, align: bool
) -> np.ndarray:
    """The matrix [out, size] float32 that resizes an axis.

    Args:
      size: Cells before.
      out: Cells after.
      bilinear: Two neighbours by distance; otherwise the nearest cell alone.
      half_pixel: Centres of cells lie at halves.
      align: The first and last cells coincide with those before.
    """
    one = np.float32(1)
    if align and out > 1:
        scale = np.float32(size - 1) / np.float32(out - 1)
    else:
        scale = np.float32(size) / np.float32(out)
    places = np.arange(out, dtype=np.float32)
    matrix = np.zeros([out, size], np.float32)
    if bilinear:
        half = np.float32(0.5) if half_pixel else np.float32(0)
        source = (places + half) * scale - half
        share = source - np.floor(source)
        lower = np.maximum(np.floor(source), 0).astype(int)
        upper = np.minimum(np.ceil(source), size - 1).astype(int)
        np.add.at(matrix, (np.arange(out), lower), one - share)
        np.add.at(matrix, (np.arange(out), upper), share)
        return matrix
    source = (places + np.float32(0.5)) * scale if half_pixel else places * scale
    # roundf: halves away from zero.
    nearest = np.floor(source + np.float32(0.5)) if align else np.floor(source)
    nearest = np.clip(nearest, 0, size - 1).astype(int)
    matrix[np.arange(out), nearest] = one
    return matrix


def _repeat(matrix: tf.Tensor, batch: int) -> tf.Tensor:
    return tf.tile(matrix, [batch, 1, 1]) if batch > 1 else matrix


RULES: dict[str, rule.Rule] = {
    "ResizeBilinear": resize,
    "ResizeNearestNeighbor": resize,
}
