"""Element by element: sums, products, powers, choices; with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from signatures.gradients import activations, rule


def _unary(derivative: Callable[..., tf.Tensor]) -> rule.Rule:
    """The rule of y = f(x) from gradient(g, x, y)."""

    def apply(operation: rule.Operation):
        (x,) = operation.inputs
        (y,) = operation.emit()
        return [y], lambda gradients: (derivative(gradients[0], x, y),)

    return apply


def _binary(*derivatives: Callable[..., tf.Tensor]) -> rule.Rule:
    """The rule of z = f(x, y) from both gradient(g, x, y, z), summed to its shape."""

    def apply(operation: rule.Operation):
        x, y = operation.inputs
        (z,) = operation.emit()

        def backward(gradients):
            return [
                rule.sum_to(
                    derivative(gradients[0], x, y, z), rule.static_shape(tensor)
                )
                if wanted
                else None
                for derivative, tensor, wanted in zip(
                    derivatives, (x, y), operation.wanted
                )
            ]

        return [z], backward

    return apply


def _add_n(operation: rule.Operation):
    """AddN as sums of two, which every delegate takes."""
    total = operation.inputs[0]
    for term in operation.inputs[1:]:
        total = total + term
    return [total], lambda gradients: [gradients[0]] * len(operation.inputs)


def _bias_add(operation: rule.Operation):
    """BiasAdd(x [..., C], bias [C])."""
    x, bias = operation.inputs
    layout = operation.attributes.get("data_format", b"NHWC")
    if layout != b"NHWC":
        raise operation.refuse("the layout NHWC", layout)
    y = x + bias

    def backward(gradients):
        (gradient,) = gradients
        to_bias = None
        if operation.wanted[1]:
            to_bias = rule.sum_to(gradient, rule.static_shape(bias))
        return gradient, to_bias

    return [y], backward


def _select(operation: rule.Operation):
    """SelectV2 or Select(condition, x, y): the mask as a float, products."""
    condition, x, y = operation.inputs
    if operation.type == "Select" and condition.shape.rank == 1 != x.shape.rank:
        raise operation.refuse("a condition of its shape", condition.shape)
    (z,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        zeros = tf.zeros([], gradient.dtype)
        chosen = (
            tf.where(condition, gradient, zeros),
            tf.where(condition, zeros, gradient),
        )
        return None, *(
            rule.sum_to(share, rule.static_shape(tensor)) if wanted else None
            for share, tensor, wanted in zip(chosen, (x, y), operation.wanted[1:])
        )

    return [z], backward


def _larger(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """1 where x > y, 0 elsewhere."""
    return activations.is_positive(tf.nn.relu(x - y))


def _maximum(sign: int) -> rule.Rule:
    """Maximum (1) or Minimum (-1); where both are equal, x is paid."""

    def to_y(g, x, y, z):
        return g * (_larger(y, x) if sign > 0 else _larger(x, y))

    return _binary(lambda *a: a[0] - to_y(*a), to_y)


def _power(operation: rule.Operation):
    """Pow(x, y) for an exponent that is a constant or is not trained."""
    x, y = operation.inputs
    if operation.wanted[1]:
        raise operation.refuse("an exponent that does not depend on a weight", y)
    (z,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        slope = y * tf.pow(x, y - 1.0)
        return rule.sum_to(gradient * slope, rule.static_shape(x)), None

    return [z], backward


def _sign(x: tf.Tensor) -> tf.Tensor:
    """-1, 0 or 1."""
    return activations.is_positive(tf.nn.relu(x)) - activations.is_positive(
        tf.nn.relu(-x)
    )


def _add(g, x, y, z):
    return g


RULES: dict[str, rule.Rule] = {
    "Abs": _unary(lambda g, x, y: g * _sign(x)),
    "Add": _binary(_add, _add),
    "AddN": _add_n,
    "AddV2": _binary(_add, _add),
    "BiasAdd": _bias_add,
    "Cos": _unary(lambda g, x, y: -g * tf.sin(x)),
    "Div": _binary(lambda g, x, y, z: g / y, lambda g, x, y, z: -g * (z / y)),
    "DivNoNan": _binary(
        lambda g, x, y, z: tf.math.divide_no_nan(g, y),
        lambda g, x, y, z: -g * tf.math.divide_no_nan(z, y),
    ),
    "Exp": _unary(lambda g, x, y: g * y),
    "Log": _unary(lambda g, x, y: g / x),
    "Log1p": _unary(lambda g, x, y: g / (1.0 + x)),
    "Maximum": _maximum(1),
    "Minimum": _maximum(-1),
    "Mul": _binary(lambda g, x, y, z: g * y, lambda g, x, y, z: g * x),
    "Neg": _unary(lambda g, x, y: -g),
    "Pow": _power,
    "RealDiv": _binary(lambda g, x, y, z: g / y, lambda g, x, y, z: -g * (z / y)),
    "Reciprocal": _unary(lambda g, x, y: -g * y * y),
    "Rsqrt": _unary(lambda g, x, y: -0.5 * g * (y * y * y)),
    "Select": _select,
    "SelectV2": _select,
    "Sin": _unary(lambda g, x, y: g * tf.cos(x)),
    "Sqrt": _unary(lambda g, x, y: 0.5 * g / y),
    "Square": _unary(lambda g, x, y: g * (x + x)),
    "SquaredDifference": _binary(
        lambda g, x, y, z: 2.0 * g * (x - y), lambda g, x, y, z: 2.0 * g * (y - x)
    ),
    "Sub": _binary(_add, lambda g, x, y, z: -g),
}
