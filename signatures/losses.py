"""Losses of a detector: pure functions, equations as in the papers.

Written with exp, log, minimum and maximum alone, whose gradients are builtin operators.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

# Box errors are measured in tenths of the input's side, the variance 0.1 of SSD's boxes
# (Liu et al. 2016, https://arxiv.org/abs/1512.02325, and its reference implementation).
BOX_UNIT = 0.1

# The centre's x and y, width, height; behind them a keypoint's x and y each.
_BOX_COORDINATES = 4

# Keeps a batch of nothing but padding from dividing by zero.
_LEAST_WEIGHT = 1e-6


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How much each term counts; a term of weight 0 is left out of the graph.

    Attributes:
      score: Focal loss of the detector's score, or with plain heads of each class's.
      classes: Cross-entropy of the classes; there is none with one class, and none
        with plain heads.
      box: Smooth L1 of the box's four coordinates.
      keypoints: Smooth L1 of the keypoints' coordinates.
      smoothing: Share of a class target that is spread over all classes, in [0, 1).
    """

    score: float = 1.0
    classes: float = 1.0
    box: float = 1.0
    keypoints: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        terms = (self.score, self.classes, self.box, self.keypoints)
        if min(terms) < 0 or not any(terms):
            raise ValueError(
                "Loss weights must be 0 or more and one of them positive. "
                f"Received: {dataclasses.asdict(self)}."
            )
        if not 0 <= self.smoothing < 1:
            raise ValueError(
                "The smoothing of class targets must be in [0, 1). "
                f"Received: {self.smoothing}."
            )


def softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)), finite for every finite x."""
    return tf.maximum(x, 0.0) + tf.math.log(1.0 + tf.exp(-tf.maximum(x, -x)))


def sigmoid_focal(
    logits: tf.Tensor, targets: tf.Tensor, gamma: float = 2.0, alpha: float = 0.25
) -> tf.Tensor:
    """Focal loss: cross-entropy that well-classified examples hardly move.

    FL = -alpha_t * (1 - p_t)**gamma * log(p_t)

    With s the logit, its sign turned where the target is 0, -log(p_t) is softplus(-s)
    and log(1 - p_t) is -softplus(s).

    Args:
      logits: Any shape, float32.
      targets: The same shape, 0 or 1.
      gamma: Focusing, 0 or more; 0 is cross-entropy.
      alpha: Weight of the targets 1; the targets 0 weigh 1 - alpha.

    Returns:
      The loss of each element, 0 or more.

    Source: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5.
    """
    signed = (2.0 * targets - 1.0) * logits
    cross_entropy = softplus(-signed)
    alpha_t = alpha * targets + (1.0 - alpha) * (1.0 - targets)
    return alpha_t * tf.exp(-gamma * softplus(signed)) * cross_entropy


def softmax_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of a softmax: log(sum_j exp(l_j)) - sum_k t_k * l_k.

    Args:
      logits: [..., K] float32.
      targets: [..., K], one-hot or a distribution; all zeros give no class a say.

    Returns:
      [...] float32, 0 where the targets are all zeros.
    """
    # The largest logit is a constant of the gradient: it cancels out.
    shifted = logits - tf.stop_gradient(tf.reduce_max(logits, -1, keepdims=True))
    normaliser = tf.math.log(tf.reduce_sum(tf.exp(shifted), -1, keepdims=True))
    return tf.reduce_sum(targets * (normaliser - shifted), -1)


def smoothed(targets: tf.Tensor, smoothing: float) -> tf.Tensor:
    """(1 - s) * t + s * sum_k(t_k) / K: a right answer leaves room for doubt.

    Args:
      targets: [..., K]; all zeros stay so.
      smoothing: s, in [0, 1).

    Source: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7.
    """
    if not smoothing:
        return targets
    mean = tf.reduce_mean(targets, -1, keepdims=True)
    return targets + smoothing * (mean - targets)


def smooth_l1(error: tf.Tensor) -> tf.Tensor:
    """0.5 * e**2 where abs(e) <= 1, abs(e) - 0.5 beyond.

    With c the error clipped to [-1, 1] both are c * (e - c / 2), whose gradient is c,
    also where c is taken for a constant.

    Args:
      error: Any shape, float32.

    Returns:
      The same shape, 0 or more.

    Source: Girshick 2015, https://arxiv.org/abs/1504.08083, equation 3.
    """
    clipped = tf.stop_gradient(tf.minimum(tf.maximum(error, -1.0), 1.0))
    return clipped * (error - 0.5 * clipped)


def shares(sample_weights: tf.Tensor) -> tf.Tensor:
    """What part of a batch's loss each sample's is.

    Args:
      sample_weights: [B], 0 or more.

    Returns:
      [B], their sum 1, or 0 where all weights are.
    """
    return sample_weights / tf.maximum(tf.reduce_sum(sample_weights), _LEAST_WEIGHT)


def detection(
    outputs: dict[str, tf.Tensor],
    class_targets: tf.Tensor,
    box_targets: tf.Tensor,
    anchor_weights: tf.Tensor,
    sample_weights: tf.Tensor,
    *,
    input_size: int,
    weights: LossWeights = LossWeights(),
) -> dict[str, tf.Tensor]:
    """The loss of a detector.

    Every term is summed over an image's anchors, divided by the number of its positive
    anchors (1 where it has none), and averaged over the images by their weights.

    Args:
      outputs: `regressors` [B, N, C], `scores` [B, N, 1] and, with more than one class,
        `class_logits` [B, N, K]; with plain heads `scores` [B, N, K] alone; float32.
      class_targets: [B, N, K], 1 where the anchor holds class k, zeros for background.
      box_targets: [B, N, C], pixels of the input relative to the anchor; read where
        class_targets has a 1.
      anchor_weights: [B, N], weight of an anchor in the class terms, 0 = ignore.
      sample_weights: [B], weight of an image, 0 = padding.
      input_size: S, pixels.
      weights: Of the terms.

    Returns:
      `loss`, the sum of `class_loss` (score and classes) and `box_loss` (box and
      keypoints); scalars, weights included.
    """
    positive = tf.minimum(tf.reduce_sum(class_targets, -1), 1.0)
    count = tf.maximum(tf.reduce_sum(positive, 1), 1.0)
    image_shares = shares(sample_weights)

    def over_images(per_anchor: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(image_shares * tf.reduce_sum(per_anchor, 1) / count)

    class_loss = tf.zeros([], outputs["scores"].dtype)
    if weights.score:
        focal = _score_loss(outputs["scores"], positive, class_targets)
        class_loss += weights.score * over_images(anchor_weights * focal)
    if weights.classes and "class_logits" in outputs:
        targets = smoothed(class_targets, weights.smoothing)
        entropy = softmax_cross_entropy(outputs["class_logits"], targets)
        class_loss += weights.classes * over_images(anchor_weights * entropy)
    box_loss = tf.zeros([], outputs["regressors"].dtype)
    if weights.box or weights.keypoints:
        error = (outputs["regressors"] - box_targets) / (BOX_UNIT * input_size)
        box_loss += over_images(positive * _box_loss(smooth_l1(error), weights))
    return {
        "loss": class_loss + box_loss,
        "class_loss": class_loss,
        "box_loss": box_loss,
    }


def _box_loss(distance: tf.Tensor, weights: LossWeights) -> tf.Tensor:
    """The loss of each anchor, [B, N], from its coordinates' [B, N, C]."""
    if weights.box == weights.keypoints:
        return weights.box * tf.reduce_sum(distance, -1)
    points = distance.shape[-1] - _BOX_COORDINATES
    each = [weights.box] * _BOX_COORDINATES + [weights.keypoints] * points
    return tf.reduce_sum(distance * tf.constant(each, distance.dtype), -1)


def _score_loss(
    scores: tf.Tensor, positive: tf.Tensor, class_targets: tf.Tensor
) -> tf.Tensor:
    """The focal loss of each anchor: [B, N].

    One score says whether there is something, several say of which class it is: then
    each is a detector of its own, and what is another class's is its background.
    """
    if scores.shape[-1] == 1:
        return sigmoid_focal(tf.squeeze(scores, -1), positive)
    return tf.reduce_sum(sigmoid_focal(scores, class_targets), -1)
