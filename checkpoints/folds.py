"""Constants that are made of several weights, as expressions that numpy evaluates.

An inference file holds a convolution with its BatchNorm folded in: its filter is
`kernel * gamma / sqrt(variance + epsilon)`. The manifest tells such a constant by an
expression, so that a patch can make it anew of other weights:

    ["Mul", ["weight", "conv/kernel", [3, 3, 3, 8]], ["Rsqrt", ...]]
    ["constant", SHAPE, [NUMBERS]], ["Reshape", EXPRESSION, SHAPE],
    ["Transpose", EXPRESSION, AXES]

Operators carry TensorFlow's names and are computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from checkpoints import shapes, strict_json

WEIGHT, CONSTANT, RESHAPE, TRANSPOSE = "weight", "constant", "Reshape", "Transpose"
_SETTINGS = (RESHAPE, TRANSPOSE)  # of one expression, and integers
_Function = Callable[..., np.ndarray]
_UNARY: dict[str, _Function] = {
    "Neg": np.negative,
    "Rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "Sqrt": np.sqrt,
    "Square": np.square,
}
_ELEMENTWISE: dict[str, _Function] = {
    "Add": np.add,
    "AddV2": np.add,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "RealDiv": np.divide,
    "Sub": np.subtract,
}
# What an offset of each channel [I] becomes behind a filter [..., I, O] that reads
# no padding, [O]; and behind a depthwise one [h, w, C, M], [C * M].
_THROUGH: dict[str, _Function] = {
    "Through": lambda offset, kernel: offset @ _summed(kernel),
    "ThroughEach": lambda offset, kernel: (offset[:, None] * _summed(kernel)).ravel(),
}
OPERATORS = _UNARY | _ELEMENTWISE | _THROUGH
# Of the metadata that holds a frozen weight which a fold needs beside trained ones.
METADATA_PREFIX = "ondevice.weight/"
# Of an expression: a folded BatchNorm takes 8, a hostile file must not take the stack.
MAX_DEPTH = 64
# Elements that two small operands may be broadcast to; larger ones to the larger's.
_SMALL = 2**12


def _summed(kernel: np.ndarray) -> np.ndarray:
    """Sums over all but the last two axes, in float64."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)), dtype=np.float64)


class FoldError(ValueError):
    """An expression that cannot be evaluated."""


def weights(expression: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the weights in an expression.

    Raises:
      FoldError: If it is malformed.
    """
    return _weights(expression, 0)


def evaluate(expression: Any, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Computes an expression.

    Args:
      expression: As the manifest holds it.
      values: Name -> float32 array of every weight in it.

    Returns:
      The array, float32, which shares no memory with the values.

    Raises:
      FoldError: If it is malformed, or a weight is missing or of another shape; or if
        operands would be broadcast to many times their size.
    """
    return np.array(_evaluate(expression, values, 0))


def _weights(expression: Any, depth: int) -> dict[str, tuple[int, ...]]:
    kind, parts = _opened(expression, depth)
    if kind == WEIGHT:
        return {parts[0]: _shape(parts[1], expression)}
    if kind == CONSTANT:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for part in parts[:1] if kind in _SETTINGS else parts:
        found |= _weights(part, depth + 1)
    return found


def _evaluate(
    expression: Any, values: Mapping[str, np.ndarray], depth: int
) -> np.ndarray:
    kind, parts = _opened(expression, depth)
    if kind == WEIGHT:
        name, shape = parts[0], _shape(parts[1], expression)
        value = np.asarray(values.get(name))
        if value.shape != shape or value.dtype != np.float32:
            raise _malformed(
                f"{name[:80]!r} of {value.dtype} {value.shape}, not float32 {shape}"
            )
        return value
    if kind == CONSTANT:
        shape = _shape(parts[0], expression)
        try:
            return np.array(parts[1], np.float32).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise _malformed(f"a constant: {str(error)[:200]}") from error
    if kind == RESHAPE:
        shape = _shape(parts[1], expression)
        value = _evaluate(parts[0], values, depth + 1)
        if value.size != math.prod(shape):
            raise _malformed(f"{value.shape} to be reshaped to {shape}")
        return value.reshape(shape)
    if kind == TRANSPOSE:
        axes = _shape(parts[1], expression)
        value = _evaluate(parts[0], values, depth + 1)
        if sorted(axes) != list(range(value.ndim)):
            raise _malformed(f"{value.shape} to be transposed by {axes}")
        return value.transpose(axes)
    operands = [_evaluate(part, values, depth + 1) for part in parts]
    try:
        _require_bounded(kind, operands)
        with np.errstate(all="ignore"):  # What is not finite is refused by the patch.
            return np.asarray(OPERATORS[kind](*operands), np.float32)
    except (IndexError, TypeError, ValueError) as error:  # operands that do not fit
        raise _malformed(f"{kind}: {error}") from error


def _require_bounded(kind: str, operands: list[np.ndarray]) -> None:
    """Proves before it is computed that a result is no larger than what it is of.

    Raises:
      ValueError: If the operands do not fit, or make something larger.
    """
    if kind in _UNARY:
        return
    one, two = (operand.shape for operand in operands)
    # A filter of no rows has no numbers, and a sum of as many as it has columns.
    if kind in _THROUGH and (
        one != two[-2:-1] or math.prod(two[-2:]) > operands[1].size
    ):
        raise ValueError(f"an offset {one} for a filter {two}")
    if kind in _ELEMENTWISE:
        size = math.prod(np.broadcast_shapes(one, two))
        if size > max(_SMALL, *(operand.size for operand in operands)):
            raise ValueError(f"{one} and {two} would make {size} elements")


def _opened(expression: Any, depth: int) -> tuple[str, list[Any]]:
    if (
        depth > MAX_DEPTH
        or not isinstance(expression, list)
        or len(expression) not in (2, 3)
        or not isinstance(expression[0], str)
    ):
        raise _malformed(strict_json.shown(expression))
    kind, *parts = expression
    known = kind in (WEIGHT, CONSTANT, *_SETTINGS, *OPERATORS)
    if not known or len(parts) != (1 if kind in _UNARY else 2):
        raise _malformed(strict_json.shown(expression))
    if kind == WEIGHT and not isinstance(parts[0], str):
        raise _malformed(strict_json.shown(expression))
    return kind, parts


def _shape(value: Any, expression: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int for v in value):
        raise _malformed(strict_json.shown(expression))
    if not shapes.is_possible(value):
        raise _malformed(strict_json.shown(expression))
    return tuple(value)


def _malformed(received: str) -> FoldError:
    return FoldError(
        f"A fold must be [operator, operands], of {WEIGHT}, {CONSTANT}, {RESHAPE}, "
        f"{TRANSPOSE} and {', '.join(OPERATORS)}, whose shapes fit. "
        f"Received: {received}."
    )
