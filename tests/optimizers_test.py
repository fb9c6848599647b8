"""Tests of signatures/optimizers.py, against keras.optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from signatures import optimizers

_RATE = 0.03


def _keras(name):
    return {
        "sgd": lambda: keras.optimizers.SGD(_RATE),
        "momentum": lambda: keras.optimizers.SGD(_RATE, momentum=0.9),
        "adam": lambda: keras.optimizers.Adam(_RATE),
        "adamw": lambda: keras.optimizers.AdamW(_RATE, weight_decay=0.004),
    }[name]()


@pytest.mark.parametrize("name", sorted(optimizers.RULES))
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_ten_steps_equal_keras(name, clip_norm):
    random = np.random.default_rng(0)
    start = [random.standard_normal(s).astype(np.float32) for s in ((4, 3), (5,))]
    gradients = [
        [random.standard_normal(s.shape).astype(np.float32) for s in start]
        for _ in range(10)
    ]
    ours = {f"w{i}": tf.Variable(s) for i, s in enumerate(start)}
    theirs = [keras.Variable(s) for s in start]
    settings = optimizers.Settings(name, clip_norm)
    optimizer, other = optimizers.Optimizer(settings, ours), _keras(name)
    for step in gradients:
        step = [tf.constant(g) for g in step]
        norm = optimizer.apply(
            [v.read_value() for v in ours.values()], step, tf.constant(_RATE)
        )
        np.testing.assert_allclose(norm, tf.linalg.global_norm(step), rtol=1e-6)
        if clip_norm:
            step, _ = tf.clip_by_global_norm(step, clip_norm)
        other.apply(step, theirs)
    for mine, yours in zip(ours.values(), theirs):
        # A few units in the last place: the products are ordered differently.
        np.testing.assert_allclose(mine, yours.numpy(), rtol=2e-5, atol=2e-6)
    assert int(optimizer.step) == 10


@pytest.mark.parametrize("name", sorted(optimizers.RULES))
def test_a_weight_at_a_rate_of_its_own_moves_as_under_keras_at_that_rate(name):
    random = np.random.default_rng(1)
    start = random.standard_normal((2, 6)).astype(np.float32)
    ours = {"slow": tf.Variable(start[0]), "usual": tf.Variable(start[1])}
    theirs = [keras.Variable(value) for value in start]
    optimizer = optimizers.Optimizer(
        optimizers.Settings(name, 0.0), ours, {"slow": 0.25}
    )
    others = [_keras(name), _keras(name)]
    others[0].learning_rate = 0.25 * _RATE
    for _ in range(5):
        step = [tf.constant(random.standard_normal(6), tf.float32) for _ in start]
        values = [v.read_value() for v in ours.values()]
        optimizer.apply(values, step, tf.constant(_RATE))
        for other, gradient, variable in zip(others, step, theirs):
            other.apply([gradient], [variable])
    for mine, yours in zip(ours.values(), theirs):
        np.testing.assert_allclose(mine, yours.numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("rates", [{"other": 1.0}, {"w": 0.0}, {"w": float("nan")}])
def test_a_rate_that_is_none_is_refused(rates):
    with pytest.raises(ValueError, match="Rates must be positive"):
        optimizers.Optimizer(
            optimizers.Settings("sgd"), {"w": tf.Variable([1.0])}, rates
        )


def test_state_names_slots_after_their_weights_and_the_step_last():
    weights = {"conv2d/kernel": tf.Variable([1.0])}
    adam = optimizers.Optimizer(optimizers.Settings("adam"), weights)
    assert [(name, role) for name, role, _ in adam.state()] == [
        ("conv2d/kernel/m", "slot"),
        ("conv2d/kernel/v", "slot"),
        ("step", "step"),
    ]


def test_a_gradient_within_the_norm_is_not_scaled():
    weight = {"w": tf.Variable([1.0, 1.0])}
    sgd = optimizers.Optimizer(optimizers.Settings("sgd", 5.0), weight)
    sgd.apply([weight["w"].read_value()], [tf.constant([3.0, 4.0])], tf.constant(1.0))
    np.testing.assert_array_equal(weight["w"], [-2.0, -3.0])


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="adam, adamw, momentum, sgd. Received: 'rms'"):
        optimizers.Settings("rms")
    with pytest.raises(ValueError, match="clip_norm.*Received: -1"):
        optimizers.Settings("sgd", -1.0)
