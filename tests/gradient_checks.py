"""Compares `value_and_gradients` with TensorFlow's tape and with finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from checkpoints import manifest
from signatures.gradients import graph

# Two float64 computations of some hundred products in different order.
EXACT = 1e-11
# The same in float32, which ResizeBilinear returns whatever it is given.
SINGLE = 2e-6
# Central differences with a step of 1e-6: their own error is about 1e-9.
DIFFERENCE = 1e-6


def check(
    function: Callable[..., tf.Tensor],
    *inputs: np.ndarray,
    tolerance: float = EXACT,
    tape: bool = True,
    differences: bool = True,
    target: str = manifest.ANY,
) -> None:
    """Asserts that all gradients of a function are right.

    The loss is a random combination of the function's elements.

    Args:
      function: Of as many tensors as inputs, run in float64.
      *inputs: Where to differentiate, and by what.
      tolerance: Largest error allowed, relative to the largest element.
      tape: Whether TensorFlow has a gradient to compare with.
      differences: Whether the function is smooth around the inputs.
      target: Passed on.
    """
    rng = np.random.default_rng(7)
    tensors = [tf.constant(x, tf.float64) for x in inputs]
    shape = function(*tensors).shape
    weights = tf.constant(rng.normal(size=shape))

    def loss(arguments):
        value = function(*arguments)
        return tf.reduce_sum(tf.cast(value, tf.float64) * weights)

    @tf.function(autograph=False)
    def ours(*arguments):
        return graph.value_and_gradients(loss, arguments, target=target)

    value, gradients = ours(*tensors)
    np.testing.assert_allclose(value, loss(tensors), rtol=1e-5, atol=1e-5)
    if tape:
        with tf.GradientTape() as recorded:
            recorded.watch(tensors)
            expected = loss(tensors)
        zero = tf.UnconnectedGradients.ZERO
        for got, want in zip(
            gradients,
            recorded.gradient(expected, tensors, unconnected_gradients=zero),
        ):
            scale = max(np.abs(want).max(), 1e-3)
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
    if differences:
        step = 1e-6
        for i, gradient in enumerate(gradients):
            direction = rng.normal(size=gradient.shape)
            moved = [
                loss([t + sign * step * direction if j == i else t
                      for j, t in enumerate(tensors)])
                for sign in (1, -1)
            ]
            got = np.sum(gradient * direction)
            want = (moved[0] - moved[1]) / (2 * step)
            scale = max(float(np.sum(np.abs(gradient * direction))), 1e-3)
            np.testing.assert_allclose(got, want, rtol=0, atol=DIFFERENCE * scale)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal numbers; no two are equal."""
    return np.random.default_rng([seed, *shape]).normal(size=shape)
