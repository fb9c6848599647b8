"""Tests of signatures/losses.py: facts of the papers, hand-computed numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from signatures import losses


def _array(*values):
    return tf.constant(values, tf.float32)


def test_focal_equals_cross_entropy_when_gamma_is_zero():
    logits, targets = _array(-3.0, -0.5, 0.0, 2.0), _array(0.0, 1.0, 1.0, 0.0)
    focal = losses.sigmoid_focal(logits, targets, gamma=0.0, alpha=0.5)
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
    np.testing.assert_allclose(2 * focal, entropy, rtol=1e-6)


def test_focal_over_cross_entropy_is_the_modulating_factor():
    logits, targets = _array(-2.0, 0.3, 1.7), _array(1.0, 1.0, 0.0)
    p = tf.sigmoid(logits)
    p_t = targets * p + (1 - targets) * (1 - p)
    ratio = losses.sigmoid_focal(logits, targets, 2.0, 0.5) / losses.sigmoid_focal(
        logits, targets, 0.0, 0.5
    )
    np.testing.assert_allclose(ratio, (1 - p_t) ** 2, rtol=1e-5)


def test_focal_of_a_zero_logit_is_the_hand_computed_number():
    # p = 1/2: 0.25 * (1/2)**2 * log 2 for a target, 0.75 * ... for background.
    focal = losses.sigmoid_focal(_array(0.0, 0.0), _array(1.0, 0.0))
    expected = [0.0625 * math.log(2), 0.1875 * math.log(2)]
    np.testing.assert_allclose(focal, expected, rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, -90.0, 0.0, 90.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_focal_and_its_gradient_stay_finite(logit, target):
    x = tf.constant([logit])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = losses.sigmoid_focal(x, tf.constant([target]))
    assert np.isfinite(value).all() and np.isfinite(tape.gradient(value, x)).all()


def test_softmax_cross_entropy_equals_tensorflows():
    random = np.random.default_rng(0)
    logits = tf.constant(10 * random.standard_normal((5, 7)), tf.float32)
    targets = tf.one_hot([0, 3, 6, 2, 2], 7)
    expected = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    ours = losses.softmax_cross_entropy(logits, targets)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


def test_softmax_cross_entropy_of_background_is_zero():
    ours = losses.softmax_cross_entropy(_array(3.0, -1.0), _array(0.0, 0.0))
    assert float(ours) == 0.0


def test_smoothed_targets_spread_a_share_over_all_classes():
    targets = _array([0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0])
    found = losses.smoothed(targets, 0.2)
    expected = [[0.05, 0.85, 0.05, 0.05], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert losses.smoothed(targets, 0.0) is targets


def test_smoothing_asks_for_a_margin_and_no_more():
    """The loss is least where the softmax is the smoothed target, not beyond."""
    weights = losses.LossWeights(0, 1, 0, 0, smoothing=0.1)
    target = tf.constant([[[1.0, 0.0, 0.0, 0.0]]])

    def loss(margin):
        outputs = {
            "regressors": tf.zeros([1, 1, 6]),
            "scores": tf.zeros([1, 1, 1]),
            "class_logits": tf.constant([[[margin, 0.0, 0.0, 0.0]]]),
        }
        return float(
            losses.detection(
                outputs,
                target,
                tf.zeros([1, 1, 6]),
                tf.ones([1, 1]),
                tf.ones([1]),
                input_size=100,
                weights=weights,
            )["loss"]
        )

    best = math.log(0.925 / 0.025)
    assert loss(best) < min(loss(best - 0.2), loss(best + 0.2))


def test_smooth_l1_is_quadratic_inside_and_linear_outside():
    error = _array(-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0)
    expected = [2.5, 0.5, 0.125, 0.0, 0.125, 0.5, 2.5]
    np.testing.assert_allclose(losses.smooth_l1(error), expected, rtol=1e-6)


def test_smooth_l1_gradient_is_the_clipped_error():
    error = tf.constant([-3.0, -0.5, 0.0, 0.25, 7.0])
    with tf.GradientTape() as tape:
        tape.watch(error)
        value = losses.smooth_l1(error)
    np.testing.assert_allclose(
        tape.gradient(value, error), [-1.0, -0.5, 0.0, 0.25, 1.0], atol=1e-7
    )


def _detection(**changes):
    """Two images of two anchors, one class, one positive anchor in the first image."""
    arguments = {
        "outputs": {
            "regressors": tf.zeros([2, 2, 6]),
            "scores": tf.zeros([2, 2, 1]),
        },
        "class_targets": tf.constant([[[1.0], [0.0]], [[0.0], [0.0]]]),
        "box_targets": tf.fill([2, 2, 6], 20.0),
        "anchor_weights": tf.ones([2, 2]),
        "sample_weights": tf.ones([2]),
        "input_size": 100,
    }
    return losses.detection(**{**arguments, **changes})


def test_detection_loss_is_the_hand_computed_number():
    found = _detection()
    # First image, one positive: 0.0625 log 2 + 0.1875 log 2; second: 2 * 0.1875 log 2.
    np.testing.assert_allclose(
        found["class_loss"], (0.25 + 0.375) / 2 * math.log(2), rtol=1e-6
    )
    # Errors of 20 pixels are 2 units of 10: 1.5 for each of six coordinates.
    np.testing.assert_allclose(found["box_loss"], 6 * 1.5 / 2, rtol=1e-6)
    np.testing.assert_allclose(found["loss"], found["class_loss"] + found["box_loss"])


def test_a_sample_of_weight_zero_counts_for_nothing():
    alone = _detection(sample_weights=tf.constant([1.0, 0.0]))
    np.testing.assert_allclose(alone["class_loss"], 0.25 * math.log(2), rtol=1e-6)
    np.testing.assert_allclose(alone["box_loss"], 9.0, rtol=1e-6)


def test_padding_alone_gives_zero():
    assert float(_detection(sample_weights=tf.zeros([2]))["loss"]) == 0.0


def test_an_ignored_anchor_has_no_class_loss():
    ignored = _detection(anchor_weights=tf.constant([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(
        ignored["class_loss"], 0.0625 / 2 * math.log(2), rtol=1e-6
    )


@pytest.mark.parametrize(
    "weights, class_loss, box_loss",
    [
        (losses.LossWeights(1, 1, 0, 0), 0.3125 * math.log(2), 0.0),
        (losses.LossWeights(0, 0, 1, 0), 0.0, 4 * 1.5 / 2),
        (losses.LossWeights(0, 0, 0, 2), 0.0, 2 * 2 * 1.5 / 2),
    ],
)
def test_each_term_is_weighted(weights, class_loss, box_loss):
    found = _detection(weights=weights)
    np.testing.assert_allclose(found["class_loss"], class_loss, rtol=1e-6)
    np.testing.assert_allclose(found["box_loss"], box_loss, rtol=1e-6)


@pytest.mark.parametrize("values", [(0, 0, 0, 0), (-1, 1, 1, 1)])
def test_loss_weights_that_mean_nothing_are_refused(values):
    with pytest.raises(ValueError, match="one of them positive"):
        losses.LossWeights(*values)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match="must be in"):
        losses.LossWeights(smoothing=smoothing)


def test_plain_heads_are_a_detector_for_each_class():
    """Another class's hand is background; an ignored anchor is so for every class."""
    outputs = {
        "regressors": tf.zeros([1, 3, 6]),
        "scores": tf.constant([[[2.0, -1.0], [0.5, 0.0], [9.0, 9.0]]]),
    }
    targets = tf.constant([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    found = losses.detection(
        outputs,
        targets,
        tf.zeros([1, 3, 6]),
        tf.constant([[1.0, 1.0, 0.0]]),
        tf.ones([1]),
        input_size=100,
        # Cross-entropy of the classes has no part in it.
        weights=losses.LossWeights(1, 5, 0, 0),
    )

    def focal(logit, target):
        return float(losses.sigmoid_focal(_array(logit), _array(target))[0])

    expected = focal(2, 1) + focal(-1, 0) + focal(0.5, 0) + focal(0, 0)
    np.testing.assert_allclose(found["class_loss"], expected, rtol=1e-6)
