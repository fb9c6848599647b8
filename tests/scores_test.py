"""Tests of signatures/scores.py."""

import numpy as np
import pytest
import tensorflow as tf

from checkpoints import tflite_file
from ondevice.device import runtimes
from signatures import scores


def test_one_class_is_the_palms_own_score():
    logits = tf.constant([[[1.5], [-2.0]]])
    assert scores.classificators(logits, None) is logits


def test_fresh_class_heads_give_every_class_the_palms_logit_to_the_bit():
    logits = tf.constant(np.linspace(-60, 60, 241, dtype=np.float32))[None, :, None]
    combined = scores.classificators(logits, tf.zeros([1, 241, 7])).numpy()
    np.testing.assert_array_equal(combined, np.repeat(logits, 7, axis=2))


def test_the_best_class_keeps_the_palms_logit():
    random = np.random.default_rng(0)
    logits = tf.constant(8 * random.standard_normal((1, 500, 1)), tf.float32)
    classes = tf.constant(9 * random.standard_normal((1, 500, 7)), tf.float32)
    combined = scores.classificators(logits, classes).numpy()
    np.testing.assert_array_equal(combined.max(-1, keepdims=True), logits)
    np.testing.assert_array_equal(combined.argmax(-1), np.argmax(classes, -1))


def test_a_score_is_the_palms_times_the_classes_share_of_the_best():
    random = np.random.default_rng(1)
    logits = tf.constant(4 * random.standard_normal((1, 200, 1)), tf.float32)
    classes = tf.constant(3 * random.standard_normal((1, 200, 5)), tf.float32)
    share = tf.nn.softmax(classes)
    expected = tf.sigmoid(logits) * share / tf.reduce_max(share, -1, keepdims=True)
    combined = tf.sigmoid(scores.classificators(logits, classes))
    np.testing.assert_allclose(combined, expected, rtol=2e-5, atol=1e-7)


def test_extreme_logits_stay_finite():
    for palm in (-1e4, -100.0, 100.0, 1e4):
        combined = scores.classificators(
            tf.constant([[[palm]]]), tf.constant([[[1e4, -1e4, 0.0]]])
        )
        assert np.isfinite(combined).all()


@pytest.mark.parametrize("runtime", runtimes.installed())
def test_every_runtime_agrees_at_ordinary_and_extreme_logits(runtime):
    random = np.random.default_rng(2)
    palm = np.linspace(-200, 200, 401, dtype=np.float32)[np.newaxis, :, np.newaxis]
    classes = 9 * random.standard_normal((1, 401, 7), np.float32)
    classes[:, ::50] *= 1e3
    specs = [tf.TensorSpec(palm.shape), tf.TensorSpec(classes.shape)]
    function = tf.function(scores.classificators, specs, autograph=False)
    data = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    ).convert()
    interpreter = runtimes.create(data, runtime, 1)
    for entry in interpreter.get_input_details():
        value = palm if entry["shape"][-1] == 1 else classes
        interpreter.set_tensor(entry["index"], value)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    # In float64, by the definition: log(p c) - log(1 - p c), with p c = exp(lower).
    margin = classes.astype(np.float64) - classes.max(-1, keepdims=True)
    z = np.minimum(palm, 80).astype(np.float64)
    lower = margin - np.logaddexp(0, -z)
    with np.errstate(divide="ignore"):
        expected = lower - np.log(-np.expm1(lower))
    best = margin == 0
    np.testing.assert_array_equal(found[best], np.minimum(palm, 80).ravel())
    # Float32, where exp(d) - 1 loses its last digits beside exp(z); far above that a
    # score is 1, and far below 0, however exactly.
    np.testing.assert_allclose(found[~best], expected[~best], rtol=1e-5, atol=1e-4)
    census = tflite_file.parse(data).census()
    assert "EXP" not in census
