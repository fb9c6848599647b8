"""Tests of ondevice/verification/reference.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ondevice.verification import reference


def _build():
    image = keras.Input((1,))
    return keras.Model(image, keras.layers.Dense(1, use_bias=False, name="d")(image))


@pytest.mark.parametrize(
    "power, within, expected",
    [
        # Over a share s the loss w**3 at w = 1 changes by s * (1 + s**2 / 108).
        (3, 1e-2, 1.0),
        (3, 3e-3, 0.5),
        (3, 1e-6, 0.1),  # none is straight: the smallest
        (1, 1e-9, 1.0),
    ],
)
def test_how_far_a_loss_is_straight(power, within, expected):
    truth = reference.Reference(
        _build,
        {"d/kernel": np.ones((1, 1), np.float32)},
        ("d/kernel",),
        lambda outputs: {"loss": tf.reduce_sum(outputs**power)},
    )
    batch = {"image": np.ones((1, 1), np.float32)}
    assert truth.straight(batch, (0.5, 1.0, 0.1), within) == expected
