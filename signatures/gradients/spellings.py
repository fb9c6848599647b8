"""Operators that are another way to write some with rules and builtin operators.

They are replaced while a function is traced; see `expansions`.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from signatures.gradients import rule


def _roll(operation: tf.Operation, x: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    """Roll(x, shifts, axes): the end of each axis comes before its beginning."""
    shifts, axes = (np.atleast_1d(rule.known(operation, i)) for i in (1, 2))
    for shift, axis in zip(shifts, axes):
        size = x.shape[axis]
        first = int(-shift) % size
        one, other = tf.split(x, [first, size - first], axis)
        x = tf.concat([other, one], axis)
    return x


def _prod(operation: tf.Operation, x: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    """Prod(x, axes): product after product, so that its gradient is right at zeros."""
    rank = x.shape.rank
    axes = {int(a) % rank for a in np.atleast_1d(rule.known(operation, 1))}
    for axis in axes:
        total, *rest = tf.split(x, x.shape[axis], axis)
        for part in rest:
            total = total * part
        x = total
    return tf.reshape(x, rule.static_shape(operation.outputs[0]))


def _band(operation: tf.Operation, x: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
    """MatrixBandPart(x, lower, upper): the others are zeros."""
    lower, upper = (int(rule.known(operation, i)) for i in (1, 2))
    rows, columns = x.shape[-2:]
    below = np.arange(rows)[:, None] - np.arange(columns)[None]
    kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    return tf.where(kept, x, tf.zeros([], x.dtype))


def _mod(operation: tf.Operation, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """FloorMod(x, y) of floats: x - floor(x / y) * y."""
    return x - tf.floor(x / y) * y


EXPANSIONS = {
    "Cosh": lambda operation, x: 0.5 * (tf.exp(x) + tf.exp(-x)),
    "MatrixBandPart": _band,
    "Prod": _prod,
    "Roll": _roll,
    "Sinh": lambda operation, x: 0.5 * (tf.exp(x) - tf.exp(-x)),
    "Tan": lambda operation, x: tf.sin(x) / tf.cos(x),
}
# Of floats alone; integers have builtin operators that are exact.
OF_FLOATS = {"FloorMod": _mod}
