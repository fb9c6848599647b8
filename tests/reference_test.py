"""Tests of ondevice/verification/reference.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ondevice.verification import reference
from signatures import optimizers


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("only", [(), ("d/bias", "e/kernel")])
@pytest.mark.parametrize("name", ["adam", "adamw", "momentum", "sgd"])
def test_a_step_is_that_of_keras_weight_by_weight(name, only, dtype):
    """From any state, each weight at its own rate, the gradient clipped as a whole."""
    random = np.random.default_rng(0)
    shapes = {"d/kernel": (2, 3), "d/bias": (3,), "e/kernel": (3, 1), "e/bias": (1,)}
    weights = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}

    def build():
        image = keras.Input((2,))
        layers = keras.layers.Dense(3, name="d"), keras.layers.Dense(1, name="e")
        return keras.Model(image, layers[1](layers[0](image)))

    truth = reference.Reference(
        build,
        weights,
        list(weights),
        lambda outputs: {"loss": tf.reduce_sum(outputs**2)},
        {"d/bias": 10.0, "e/bias": 10.0},
    )
    settings = optimizers.Settings(name, 0.5)
    state = truth.fresh_state(settings)
    assert state["step"] == 0
    for key, value in state.items():
        if key != "step":
            state[key] = random.random(value.shape).astype(np.float32)
    state["step"] = np.int32(4)
    batch = {"image": random.normal(size=(5, 2)).astype(np.float32)}
    loss, after = truth.step(state, batch, settings, 0.01, dtype, only)

    w = [tf.Variable(tf.constant(state[key], dtype)) for key in shapes]
    with tf.GradientTape() as tape:
        outputs = (tf.cast(batch["image"], dtype) @ w[0] + w[1]) @ w[2] + w[3]
        expected = tf.reduce_sum(outputs**2)
    gradients = dict(zip(shapes, tape.gradient(expected, w)))
    moved = [key for key in shapes if key in (only or shapes)]
    clipped, _ = tf.clip_by_global_norm([gradients[key] for key in moved], 0.5)
    changed = dict(state)
    for key, gradient in zip(moved, clipped):
        variable = keras.Variable(state[key], dtype=dtype)
        optimizer = reference.keras_optimizer(settings)
        with reference.precision(dtype):
            optimizer.build([variable])
        held = {key: variable}
        for slot, attribute in reference._SLOTS[name].items():
            (held[f"{key}/{slot}"],) = getattr(optimizer, attribute)
            held[f"{key}/{slot}"].assign(state[f"{key}/{slot}"])
        optimizer.iterations.assign(4)
        optimizer.learning_rate.assign(0.1 if key.endswith("bias") else 0.01)
        optimizer.apply([gradient], [variable])
        changed |= {key: np.asarray(value) for key, value in held.items()}
    del changed["step"]
    assert loss == pytest.approx(float(expected))
    assert after.keys() == changed.keys()
    for key, value in changed.items():
        np.testing.assert_allclose(after[key], value, rtol=3e-6, err_msg=key)
