"""The algebra of folding: filters, scales and offsets of channels, as expressions.

Expressions are those of `checkpoints.folds`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from checkpoints import folds
from signatures.gradients import trace

# Operators that are linear in the image, with where they take it and their filter, and
# the shape to which a scale of C channels is brought so that it fits the filter.
LINEAR: dict[str, tuple[int, int, Callable[[tuple[int, ...], int], list[int]]]] = {
    "Conv2D": (0, 1, lambda kernel, channels: [channels]),
    "Conv2DBackpropInput": (2, 1, lambda kernel, channels: [channels, 1]),
    "DepthwiseConv2dNative": (0, 1, lambda kernel, channels: [*kernel[2:]]),
    "MatMul": (0, 1, lambda kernel, channels: [channels]),
}

_SUMS = ("Add", "AddV2", "BiasAdd")


@dataclasses.dataclass
class Affine:
    """Something linear that is not emitted yet, since it may yet be folded.

    Attributes:
      node: A linear operator with a filter; None for a scale of each channel.
      source: What it takes.
      kernel: The filter; of a scale one number a channel, or None for 1.
      offset: What is to be added, one number a channel or one for all; None for 0.
      after: What moves the result's cells, its channels kept, one after the other.
    """

    node: trace.Node | None
    source: trace.Value
    kernel: Any
    offset: Any = None
    after: tuple[trace.Node, ...] = ()


def moved(affine: Affine | None, node: trace.Node) -> Affine | None:
    """The same with its cells moved by a node, where that leaves the channels apart."""
    if affine is None or node.inputs[0].shape[-1:] != node.outputs[0].shape[-1:]:
        return None
    return dataclasses.replace(affine, after=(*affine.after, node))


def combined(
    kind: str, affine: Affine, vector: Any, channels: int, place: int
) -> Affine | None:
    """A scale or an offset of each channel, taken in.

    Args:
      kind: The operator's type.
      affine: One of its operands.
      vector: The expression of the other, one number a channel or one for all.
      channels: C.
      place: Of the affine operand, 0 or 1.

    Returns:
      What the operator gives; None where it is no such operator.
    """
    kernel, offset, scale = affine.kernel, affine.offset, vector
    if kind in (*_SUMS, "Sub") and place == 0 and _is_zero(vector):
        return affine  # as of a Rescaling
    if kind == "Mul" or (kind == "RealDiv" and place == 0):
        if affine.node is not None and shape_of(vector):
            fit = LINEAR[affine.node.type][2](shape_of(kernel), channels)
            scale = reshaped(vector, fit)
        if kernel is None and kind == "RealDiv":
            kernel = [folds.CONSTANT, [], [1.0]]
        kernel = scale if kernel is None else [kind, kernel, scale]
        offset = None if offset is None else [kind, offset, vector]
    elif kind in _SUMS:
        offset = vector if offset is None else ["Add", offset, vector]
    elif kind == "Sub" and place == 0:
        offset = ["Neg", vector] if offset is None else ["Sub", offset, vector]
    else:
        return None
    return dataclasses.replace(affine, kernel=kernel, offset=offset)


def _is_zero(expression: Any) -> bool:
    return expression[0] == folds.CONSTANT and not any(expression[2])


def spread(expression: Any, channels: int) -> Any:
    """One number a channel, where there may be one for all."""
    if shape_of(expression):
        return expression
    return ["Add", expression, [folds.CONSTANT, [channels], [0.0] * channels]]


def reshaped(expression: Any, shape: list[int]) -> Any:
    """The expression in another shape; nothing where it has it already."""
    while expression[0] == folds.RESHAPE:
        expression = expression[1]
    if list(shape_of(expression)) == list(shape):
        return expression
    return [folds.RESHAPE, expression, [int(size) for size in shape]]


def shape_of(expression: Any) -> tuple[int, ...]:
    """Of what an expression gives."""
    kind, *parts = expression
    if kind in (folds.WEIGHT, folds.RESHAPE):
        return tuple(parts[1])
    if kind == folds.CONSTANT:
        return tuple(parts[0])
    if kind == folds.TRANSPOSE:
        shape = shape_of(parts[0])
        return tuple(shape[axis] for axis in parts[1])
    if kind == "Through":
        return shape_of(parts[1])[-1:]
    if kind == "ThroughEach":
        return (math.prod(shape_of(parts[1])[-2:]),)
    return tuple(np.broadcast_shapes(*map(shape_of, parts)))
