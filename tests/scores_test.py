"""Tests of signatures/scores.py."""

import numpy as np
import tensorflow as tf

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
