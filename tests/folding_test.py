"""Tests of signatures/folding.py: what is pushed into filters, and what must not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tensorflow as tf

from signatures import folding

Weights = Mapping[str, tf.Tensor]


def _folded(
    function: Callable, weights: Mapping[str, np.ndarray], *image: int
) -> dict[str, np.ndarray]:
    """The constants of a folded function, once it is seen to give the same."""
    made = folding.Folded(function, weights, [tf.TensorSpec(image)])
    values = made.values(weights)
    shown = np.random.default_rng(9).normal(size=image).astype(np.float32)

    def run(emit: Callable, constants: Mapping[str, np.ndarray]) -> np.ndarray:
        @tf.function(autograph=False)
        def traced(x):
            return emit({n: tf.constant(v) for n, v in constants.items()}, x)

        (result,) = traced(tf.constant(shown))
        return result.numpy()

    np.testing.assert_allclose(
        run(made, values), run(function, weights), rtol=0, atol=1e-5
    )
    return values


def _weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    "turned, absorbed", [({}, True), ({"transpose_b": True}, False)]
)
def test_a_product_takes_scales_in_unless_its_weights_are_turned(
    turned, absorbed, before
):
    def function(w: Weights, x: tf.Tensor):
        if before:
            return (tf.matmul(x * w["scale"] + w["offset"], w["kernel"], **turned),)
        return (tf.matmul(x, w["kernel"], **turned) * w["scale"] + w["offset"],)

    weights = _weights(kernel=(4, 4), scale=(4,), offset=(4,))
    assert ("scale" not in _folded(function, weights, 2, 4)) == absorbed


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_zeros_that_pad_an_image_are_not_offset(padding, offset, depthwise):
    def function(w: Weights, x: tf.Tensor):
        x = x * w["scale"] + (w["offset"] if offset else 0.0)
        if depthwise:
            return (tf.nn.depthwise_conv2d(x, w["kernel"], [1, 1, 1, 1], padding),)
        return (tf.nn.conv2d(x, w["kernel"], 1, padding),)

    weights = _weights(kernel=(3, 3, 4, 2), scale=(4,), offset=(4,))
    found = _folded(function, weights, 1, 5, 5, 4)
    assert ("scale" in found) == (offset and padding == "SAME")
