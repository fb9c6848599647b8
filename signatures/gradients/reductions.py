"""Sums, means, extrema over axes, softmax, and the losses that end in them."""

from __future__ import annotations

import math

import tensorflow as tf

from signatures.gradients import activations, rule


def _axes(operation: rule.Operation) -> tuple[int, ...]:
    rank = len(rule.static_shape(operation.inputs[0]))
    return tuple(sorted({int(a) % rank for a in operation.constant(1).reshape(-1)}))


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> list[int]:
    """The shape after a reduction that keeps its axes."""
    return [1 if i in axes else size for i, size in enumerate(shape)]


def _sum(operation: rule.Operation):
    """Sum or Mean(x, axes)."""
    x = operation.inputs[0]
    shape, axes = rule.static_shape(x), _axes(operation)
    count = math.prod(shape[i] for i in axes)
    total = rule.sum_over(x, axes)
    mean = operation.type == "Mean"
    if mean:
        total = total * (1.0 / count)
    if operation.attributes["keep_dims"]:
        total = tf.reshape(total, _kept(shape, axes))

    def backward(gradients):
        (gradient,) = gradients
        if mean:
            gradient = gradient * (1.0 / count)
        kept = tf.reshape(gradient, _kept(shape, axes))
        return tf.broadcast_to(kept, shape), None

    return [total], backward


def _extremum(operation: rule.Operation):
    """Max or Min(x, axes); equal extrema share the gradient."""
    x = operation.inputs[0]
    shape, axes = rule.static_shape(x), _axes(operation)
    (y,) = operation.emit()

    def backward(gradients):
        kept = _kept(shape, axes)
        distance = tf.abs(tf.reshape(y, kept) - x)
        ties = 1.0 - activations.is_positive(distance)
        count = tf.reshape(rule.sum_over(ties, axes), kept)
        return ties * (tf.reshape(gradients[0], kept) / count), None

    return [y], backward


def _cumsum(operation: rule.Operation):
    """Cumsum(x, axis): the gradient is summed the other way."""
    axis = int(operation.constant(1))
    exclusive, reverse = (operation.attributes[n] for n in ("exclusive", "reverse"))
    (y,) = operation.emit()
    return [y], lambda gradients: (
        tf.cumsum(gradients[0], axis, exclusive, not reverse),
        None,
    )


def _top_k(operation: rule.Operation):
    """TopKV2(x [..., N], k) -> values and indices [..., k]."""
    x, _ = operation.inputs
    values, indices = operation.emit()

    def backward(gradients):
        if gradients[0] is None:
            return None, None
        hot = tf.one_hot(indices, x.shape[-1], dtype=x.dtype)
        return tf.reduce_sum(hot * gradients[0][..., None], axis=-2), None

    return [values, indices], backward


def _last_sum(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(x, axis=-1, keepdims=True)


def _softmax(operation: rule.Operation):
    """Softmax(logits) over the last axis."""
    (y,) = operation.emit()

    def backward(gradients):
        product = gradients[0] * y
        return (product - y * _last_sum(product),)

    return [y], backward


def _log_softmax(operation: rule.Operation):
    """LogSoftmax(logits) over the last axis."""
    (logits,) = operation.inputs
    y = _log_probabilities(logits)

    def backward(gradients):
        (gradient,) = gradients
        return (gradient - tf.exp(y) * _last_sum(gradient),)

    return [y], backward


def _log_probabilities(logits: tf.Tensor) -> tf.Tensor:
    shifted = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
    return shifted - tf.math.log(_last_sum(tf.exp(shifted)))


def _cross_entropy(operation: rule.Operation):
    """SoftmaxCrossEntropyWithLogits(logits, labels) -> loss and its gradient."""
    logits, labels = operation.inputs
    shape = rule.static_shape(logits)
    log_probabilities = _log_probabilities(logits)
    difference = tf.exp(log_probabilities) - labels
    loss = -tf.reduce_sum(labels * log_probabilities, axis=-1)

    def backward(gradients):
        gradient, second = gradients
        if second is not None:
            raise operation.refuse("no gradient of its gradient", "its second output")
        kept = tf.reshape(gradient, [shape[0], 1])
        to_labels = None
        if operation.wanted[1]:
            to_labels = rule.sum_to(
                -kept * log_probabilities, rule.static_shape(labels)
            )
        return rule.sum_to(kept * difference, shape), to_labels

    return [loss, difference], backward


def _sparse_cross_entropy(operation: rule.Operation):
    """SparseSoftmaxCrossEntropyWithLogits(logits, labels) -> loss, its gradient."""
    logits, labels = operation.inputs
    shape = rule.static_shape(logits)
    chosen = tf.one_hot(labels, shape[1], dtype=logits.dtype)
    log_probabilities = _log_probabilities(logits)
    difference = tf.exp(log_probabilities) - chosen
    loss = -tf.reduce_sum(chosen * log_probabilities, axis=-1)

    def backward(gradients):
        if gradients[1] is not None:
            raise operation.refuse("no gradient of its gradient", "its second output")
        return tf.reshape(gradients[0], [shape[0], 1]) * difference, None

    return [loss, difference], backward


RULES: dict[str, rule.Rule] = {
    "Cumsum": _cumsum,
    "LogSoftmax": _log_softmax,
    "Max": _extremum,
    "Mean": _sum,
    "Min": _extremum,
    "Softmax": _softmax,
    "SoftmaxCrossEntropyWithLogits": _cross_entropy,
    "SparseSoftmaxCrossEntropyWithLogits": _sparse_cross_entropy,
    "Sum": _sum,
    "TopKV2": _top_k,
}
