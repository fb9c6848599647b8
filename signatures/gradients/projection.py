"""ImageProjectiveTransformV3, with which Keras turns, zooms and moves pictures.

Made of a gather: what lies outside is read from a ring about the picture.
Source: tensorflow/core/kernels/image/image_ops.h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from signatures.gradients import rule


def project(
    operation: tf.Operation,
    images: tf.Tensor,
    transforms: tf.Tensor,
    size: tf.Tensor,
    fill: tf.Tensor,
) -> tf.Tensor:
    """Samples pictures.

    Args:
      operation: Tells interpolation and fill mode.
      images: [B, H, W, C].
      transforms: [B or 1, 8], from the places (x, y) of the result to the picture's.
      size: Of the result, height and width.
      fill: What lies outside, a scalar.

    Returns:
      [B, H', W', C].
    """
    batch, height, width, channels = rule.static_shape(images)
    _, rows, columns, _ = shape = rule.static_shape(operation.outputs[0])
    place = _MODES[operation.get_attr("fill_mode")]
    y = tf.constant(np.arange(rows, dtype=np.float32).reshape(1, rows, 1))
    x = tf.constant(np.arange(columns, dtype=np.float32).reshape(1, 1, columns))
    t = [tf.reshape(part, [-1, 1, 1]) for part in tf.split(transforms, 8, axis=1)]
    below = t[6] * x + t[7] * y + 1.0
    known = tf.not_equal(below, 0.0)
    below = tf.where(known, below, 1.0)
    across = place((t[0] * x + t[1] * y + t[2]) / below, width)
    down = place((t[3] * x + t[4] * y + t[5]) / below, height)
    across = across + tf.zeros([batch, rows, columns])
    down = down + tf.zeros([batch, rows, columns])
    images = tf.cast(images, tf.float32)
    ring = [[0, 0], [1, 1], [1, 1], [0, 0]]
    flat = tf.pad(images - fill, ring) + fill
    flat = tf.reshape(flat, [batch * (height + 2) * (width + 2), channels])
    first = np.arange(batch, dtype=np.int32) * (height + 2) * (width + 2)
    first = tf.constant(first.reshape(batch, 1, 1))

    def read(row, column):
        row = tf.cast(tf.clip_by_value(row, -1.0, float(height)), tf.int32) + 1
        column = tf.cast(tf.clip_by_value(column, -1.0, float(width)), tf.int32) + 1
        index = tf.reshape(first + row * (width + 2) + column, [-1])
        return tf.reshape(tf.gather(flat, index), shape)

    if operation.get_attr("interpolation") == b"NEAREST":
        result = read(_rounded(down), _rounded(across))
    else:
        top, left = tf.floor(down), tf.floor(across)
        low, right = (part[..., None] for part in (down - top, across - left))
        above = read(top, left) * (1.0 - right) + read(top, left + 1.0) * right
        under = read(top + 1.0, left) * (1.0 - right)
        under += read(top + 1.0, left + 1.0) * right
        result = above * (1.0 - low) + under * low
    known = tf.broadcast_to(known[..., None], [known.shape[0], rows, columns, 1])
    return tf.cast(tf.where(known, result, fill), operation.outputs[0].dtype)


def _rounded(place: tf.Tensor) -> tf.Tensor:
    """To the nearest, halves away from zero."""
    return tf.sign(place) * tf.floor(tf.abs(place) + 0.5)


def _within(place: tf.Tensor, size: int) -> tf.Tensor:
    return tf.clip_by_value(place, 0.0, size - 1.0)


def _reflected(place: tf.Tensor, size: int) -> tf.Tensor:
    """abcd as dcba|abcd|dcba."""
    place = place - tf.floor(place / (2.0 * size)) * (2.0 * size)
    return _within(tf.minimum(place, 2.0 * size - 1.0 - place), size)


def _wrapped(place: tf.Tensor, size: int) -> tf.Tensor:
    """abcd as abcd|abcd|abcd; TensorFlow counts lengths of size - 1."""
    if size == 1:
        return place * 0.0
    share = place / (size - 1.0)
    before = place + size * (tf.floor(-share) + 1.0)
    behind = place - size * tf.floor(share)
    behind = tf.where(place > size - 1.0, behind, place)
    return _within(tf.where(place < 0.0, before, behind), size)


_MODES: dict[bytes, Callable[[tf.Tensor, int], tf.Tensor]] = {
    b"CONSTANT": lambda place, size: place,
    b"NEAREST": _within,
    b"REFLECT": _reflected,
    b"WRAP": _wrapped,
}
EXPANSIONS = {"ImageProjectiveTransformV3": project}
