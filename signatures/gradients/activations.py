"""Activations: each gradient from what the forward pass holds already.

A mask is made by arithmetic, never by a comparison: a normal float times 2**127 is at
least 2 in magnitude, so that clamping it gives exactly 0 or 1, and delegates take
products and clamps where they take no GREATER, CAST or SELECT.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from signatures.gradients import rule


def is_positive(tensor: tf.Tensor) -> tf.Tensor:
    """1 where a tensor that is nowhere negative is positive, 0 elsewhere."""
    return tf.minimum(tensor * _huge(tensor.dtype), 1)


def _huge(dtype: tf.DType) -> tf.Tensor:
    """Twice the inverse of the smallest normal number: 2**127 for float32."""
    return tf.constant(2.0 / float(np.finfo(dtype.as_numpy_dtype).tiny), dtype)


def relu(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Relu(x); the gradient at 0 is 0."""
    (y,) = operation.emit()
    return [y], lambda gradients: (gradients[0] * is_positive(y),)


def relu6(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Relu6(x); the gradients at 0 and 6 are 0."""
    (y,) = operation.emit()
    return [y], lambda gradients: (
        gradients[0] * is_positive(y) * is_positive(6.0 - y),
    )


def leaky_relu(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """LeakyRelu(x); the slope at 0 is alpha."""
    (x,) = operation.inputs
    alpha = operation.attributes["alpha"]

    def backward(gradients):
        (gradient,) = gradients
        passed = gradient * is_positive(tf.nn.relu(x))
        return (passed + (gradient - passed) * alpha,)

    return [_leaky(x, alpha)], backward


def _leaky(x: tf.Tensor, alpha: tf.Tensor | float) -> tf.Tensor:
    return tf.nn.relu(x) + tf.minimum(x, 0) * alpha


def builtin_prelu(x: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """What the converter makes a PRELU of, where alpha has an axis less than x."""
    return tf.nn.relu(x) + tf.nn.relu(-x) * -alpha


def prelu(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """PRelu(x, alpha): relu(x) - alpha * relu(-x), the gradient at 0 is 0, any slope.

    The operator takes half the time of its parts, but in tflite-runtime 2.14, whose
    kernel takes ten times as long as they. Of the forward pass x alone is kept.
    """
    x, alpha = operation.inputs
    by_kernel = operation.target == rule.AI_EDGE_LITERT
    y = builtin_prelu(x, alpha) if by_kernel else _leaky(x, alpha)

    def backward(gradients):
        (gradient,) = gradients
        to_x = to_alpha = None
        zero = rule.late_zero(gradient)
        if operation.wanted[0]:
            to_x = gradient * _slope(x, alpha, zero + _huge(x.dtype))
        if operation.wanted[1]:
            to_alpha = rule.sum_to(
                gradient * tf.minimum(x, zero), rule.static_shape(alpha)
            )
        return to_x, to_alpha

    return [y], backward


def _slope(x: tf.Tensor, alpha: tf.Tensor, huge: tf.Tensor) -> tf.Tensor:
    """1 where x is positive, alpha where it is negative, 0 where it is 0.

    Nearer to 0 than alpha times the smallest normal number the slope is less than it.
    Not by PRELU of the sign: no delegate takes it, so that it parts what they take, and
    runs on one thread.
    """
    return tf.maximum(tf.minimum(x * huge, 1), tf.minimum(x * -huge, alpha))


def _from_output(
    derivative: Callable[[tf.Tensor], tf.Tensor],
) -> rule.Rule:
    """The rule of an activation whose derivative is a function of its output."""

    def apply(operation: rule.Operation):
        (y,) = operation.emit()
        return [y], lambda gradients: (gradients[0] * derivative(y),)

    return apply


def softplus(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Softplus(x) = max(x, 0) + log(1 + exp(-|x|)).

    It has no builtin operator, and the converter's log(1 + exp(x)) overflows above 88.
    """
    (x,) = operation.inputs
    y = tf.nn.relu(x) + tf.math.log(1.0 + tf.exp(-tf.abs(x)))
    return [y], lambda gradients: (gradients[0] * tf.sigmoid(x),)


# Source: Eigen's generic_fast_erf_float: of odd powers from x, of even ones from 1;
# between -4 and 4, beyond which erf is 1 in float32.
_ERF_ABOVE = (
    -1.60960333262415e-02, -2.95459980854025e-03, -7.34990630326855e-04,
    -5.69250639462346e-05, -2.10102402082508e-06, 2.77068142495902e-08,
    -2.72614225801306e-10,
)  # fmt: skip
_ERF_BELOW = (
    -1.42647390514189e-02, -7.37332916720468e-03, -1.68282697438203e-03,
    -2.13374055278905e-04, -1.45660718464996e-05,
)  # fmt: skip


def _polynomial(square: tf.Tensor, factors: tuple[float, ...]) -> tf.Tensor:
    *rest, last = factors
    total = square * last + rest.pop()
    while rest:
        total = total * square + rest.pop()
    return total


def erf(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Erf(x) or Erfc(x), neither of them a builtin operator, within 4e-7."""
    (x,) = operation.inputs
    near = tf.minimum(tf.maximum(x, -4.0), 4.0)
    square = near * near
    y = near * _polynomial(square, _ERF_ABOVE) / _polynomial(square, _ERF_BELOW)
    sign = 1.0
    if operation.type == "Erfc":
        y, sign = 1.0 - y, -1.0
    slope = sign * 2.0 / math.sqrt(math.pi)
    return [y], lambda gradients: (gradients[0] * (slope * tf.exp(-(x * x))),)


def softsign(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Softsign(x) = x / (1 + |x|)."""
    (x,) = operation.inputs
    below = 1.0 + tf.abs(x)
    return [x / below], lambda gradients: (gradients[0] / (below * below),)


def expm1(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Expm1(x) = exp(x) - 1: near 0 it keeps the digits that 1 has left."""
    (x,) = operation.inputs
    power = tf.exp(x)
    return [power - 1.0], lambda gradients: (gradients[0] * power,)


def elu(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Elu(x); the derivative is 1 above 0 and y + 1 below."""
    (y,) = operation.emit()
    return [y], lambda gradients: (gradients[0] * (tf.minimum(y, 0) + 1.0),)


# Source: tensorflow/core/kernels/relu_op_functor.h.
_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934, 1.7580993408473768599


def selu(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Selu(x), written out: scale * x above 0, scale * alpha * (exp(x) - 1) below."""
    (x,) = operation.inputs
    below = tf.minimum(_SELU_ALPHA * (tf.exp(tf.minimum(x, 0)) - 1.0), 0)
    y = _SELU_SCALE * tf.nn.relu(x) + below

    def backward(gradients):
        (gradient,) = gradients
        under = is_positive(tf.nn.relu(-x))
        return (
            gradient * (_SELU_SCALE * (1.0 - under) + (below + _SELU_ALPHA) * under),
        )

    return [y], backward


RULES: dict[str, rule.Rule] = {
    "Elu": elu,
    "Erf": erf,
    "Erfc": erf,
    "Expm1": expm1,
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Relu": relu,
    "Relu6": relu6,
    "Selu": selu,
    "Sigmoid": _from_output(lambda y: y * (1.0 - y)),
    "Softplus": softplus,
    "Softsign": softsign,
    "Tanh": _from_output(lambda y: 1.0 - y * y),
}
