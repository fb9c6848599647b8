"""Random numbers in builtin operators, the same bits in every runtime.

TFLite's own random operators take their seed as an attribute and keep a state, so that
no run could be repeated. Here a number is a hash of (seed, step, draw, row, column), by
sums and cubes modulo a prime p = 2 (mod 3), where cubing is a permutation. No product
reaches 2**31, so that nothing overflows, and what is left are integer operators and
quotients that every runtime rounds alike. Two primes, each with a hash of its own, give
(x / p + y / q) mod 1: some 2**31 values, of which float32 tells 2**24 apart.

An element's row and column are hashed apart and added before the last cubes: the file
holds constants of the size of a row and a column, not of the whole tensor.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from signatures.gradients import rule

# The largest primes p = 2 (mod 3) with (p - 1)**2 below 2**31.
PRIMES = (46337, 46307)
# Odd constants that keep the hashes of rows, columns and draws apart; any will do.
_ROW, _COLUMN, _DRAW = 12347, 31337, 20011
_TWO_PI = 2.0 * math.pi

UNIFORM, NORMAL = "StatelessRandomUniformV2", "StatelessRandomNormalV2"
DRAWN = (UNIFORM, NORMAL)


class Generator:
    """Draws tensors, each from a stream of its own, in the order of the calls."""

    def __init__(self, seed: tf.Tensor, step: tf.Tensor) -> None:
        """Takes what a run gives.

        Args:
          seed: int32 scalar, any value; modulo both primes they tell 2**31 apart.
          step: int32 scalar; each step draws other numbers from one seed.
        """
        self._keys = []
        for prime in PRIMES:
            key = _cube(tf.math.floormod(seed, prime) + _ROW, prime)
            self._keys.append(
                _cube(tf.math.floormod(step, prime) + key + _COLUMN, prime)
            )
        self._draws = 0

    def draw(self, kind: str, shape: tuple[int, ...], dtype: tf.DType) -> tf.Tensor:
        """Numbers of one of `DRAWN`: uniform in [0, 1), or standard normal."""
        if kind == UNIFORM:
            return tf.cast(self._uniform(shape), dtype)
        # Source: Box and Muller 1958, https://doi.org/10.1214/aoms/1177706645.
        # 1 - u is above 0.
        radius = tf.sqrt(-2.0 * tf.math.log(1.0 - self._uniform(shape)))
        return tf.cast(radius * tf.cos(_TWO_PI * self._uniform(shape)), dtype)

    def _uniform(self, shape: tuple[int, ...]) -> tf.Tensor:
        self._draws += 1
        total = math.prod(shape)
        columns = shape[-1] if len(shape) > 1 else min(total, 1 << 12)
        rows = -(-total // columns)
        parts = []
        for prime, key in zip(PRIMES, self._keys):
            key = _cube(key + self._draws * _DRAW % prime, prime)
            row = tf.constant(np.arange(rows)[:, None] * _ROW % prime, tf.int32)
            column = tf.constant(np.arange(columns)[None] * _COLUMN % prime, tf.int32)
            row = _cube(_cube(row + key, prime) + _COLUMN, prime)
            column = _cube(_cube(column + key + _ROW, prime) + _DRAW, prime)
            mixed = _cube(_cube(row + column, prime) + key, prime)
            parts.append(tf.cast(mixed, tf.float32) * (1.0 / prime))
        both = parts[0] + parts[1]
        share = tf.reshape(both - tf.floor(both), [-1])
        if rows * columns != total:
            share = tf.slice(share, [0], [total])
        return tf.reshape(share, shape)


def _cube(x: tf.Tensor, prime: int) -> tf.Tensor:
    """x**3 modulo a prime; x from 0 to below 2**31."""
    x = tf.math.floormod(x, prime)
    return tf.math.floormod(tf.math.floormod(x * x, prime) * x, prime)


def shape_of(name: str, shape: tf.TensorShape) -> tuple[int, ...]:
    """The shape of what is drawn.

    Raises:
      GradientError: If it is not known.
    """
    if not shape.is_fully_defined():
        raise rule.GradientError(
            "The shape of random numbers must be known while tracing. "
            f"Received: {shape}, of '{name}'."
        )
    return tuple(shape.as_list())
