"""What a gradient rule is: the vocabulary that the rule modules share.

A rule is called with an `Operation` of the traced function, its inputs already emitted
in the current graph. It emits the operator in a form that suits training, and returns
the outputs with a function that turns their gradients into those of the inputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# Gradients of the outputs (None: the loss does not see it) to gradients of the inputs
# (None: not wanted, or zero).
Backward = Callable[[Sequence[Any]], Sequence[Any]]
Rule = Callable[["Operation"], tuple[Sequence[tf.Tensor], Backward]]

# What the target `any` becomes where the filter of a depthwise convolution changes: the
# kernel of tflite-runtime 2.14 for it is so slow that nothing is left out for its sake.
AI_EDGE_LITERT = "ai_edge_litert"

# The attribute that names the gradient which tf.custom_gradient gave an IdentityN.
CUSTOM = "_gradient_op_type"


class GradientError(ValueError):
    """A function that cannot be differentiated in builtin operators."""

    # AutoGraph raises an error again as itself only where its constructor is this one.
    __init__ = Exception.__init__


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operator of the traced function, as a rule sees it.

    Attributes:
      type: The operator's type, for example "Conv2D".
      name: Its name, which starts with the name of the Keras layer.
      inputs: Its inputs, in the current graph, static shapes.
      wanted: For each input, whether it depends on a trained weight.
      differentiated: Whether the backward pass will be asked for.
      attributes: Its attributes by name.
      target: The runtimes to be fast in, one of `manifest.TARGETS` or AI_EDGE_LITERT.
      emit: Emits the operator as it is, with other inputs if given.
    """

    type: str
    name: str
    inputs: tuple[tf.Tensor, ...]
    wanted: tuple[bool, ...]
    differentiated: bool
    attributes: Mapping[str, Any]
    target: str
    emit: Callable[..., Sequence[tf.Tensor]]

    def constant(self, index: int) -> np.ndarray:
        """The value of an input that must be known while tracing: axes, sizes.

        Raises:
          GradientError: If it is computed from what is known at run time only.
        """
        value = tf.get_static_value(self.inputs[index])
        if value is None:
            raise GradientError(
                f"Input {index} of {self} must be a constant. "
                f"Received: {self.inputs[index]}."
            )
        return np.asarray(value)

    def refuse(self, requirement: str, received: object) -> GradientError:
        """The error of a variant that no rule covers, to be raised by the caller."""
        return GradientError(
            f"The gradient of {self} needs {requirement}. Received: {received}."
        )

    def __str__(self) -> str:
        return f"{self.type} '{self.name}'"


def static_shape(tensor: tf.Tensor) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
      GradientError: If it is not fully known.
    """
    if not tensor.shape.is_fully_defined():
        raise GradientError(
            "Every shape must be known while tracing. "
            f"Received: '{tensor.name}' of shape {tensor.shape}."
        )
    return tuple(tensor.shape.as_list())


def known(operation: tf.Operation, index: int) -> np.ndarray:
    """The value of an input of a traced operator that constants alone lead to.

    Raises:
      GradientError: If it is computed from what is known at run time only.
    """
    tensor = operation.inputs[index]
    value = tf.get_static_value(tensor)
    if value is not None:
        return np.asarray(value)
    with tf.Graph().as_default() as graph:
        (copied,) = tf.import_graph_def(
            tensor.graph.as_graph_def(), return_elements=[tensor.name]
        )
        try:
            with tf.compat.v1.Session(graph=graph) as session:
                return np.asarray(session.run(copied))
        except tf.errors.InvalidArgumentError:  # An argument must be fed.
            raise GradientError(
                f"Input {index} of {operation.type} '{operation.name}' must be a "
                f"constant. Received: {tensor}."
            ) from None


def late_zero(gradient: tf.Tensor) -> tf.Tensor:
    """0, with the rank of a gradient, and not known before the gradient is.

    Runtimes run whatever is ready and keep the result until it is read, wherever it
    stands in the file. What is made of the forward pass and of this zero waits.
    """
    rank = gradient.shape.rank
    first = tf.slice(gradient, [0] * rank, [1] * rank)
    return tf.minimum(tf.nn.relu(first), 0)


def sum_to(tensor: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Undoes broadcasting: sums over the axes along which `shape` was repeated."""
    have = static_shape(tensor)
    want = tuple(shape)
    if have == want:
        return tensor
    lead = len(have) - len(want)
    axes = tuple(
        i
        for i in range(len(have))
        if i < lead or (want[i - lead] == 1 and have[i] != 1)
    )
    if axes:
        tensor = sum_over(tensor, axes)
    return tensor if static_shape(tensor) == want else tf.reshape(tensor, want)


def plus(total: tf.Tensor | None, term: tf.Tensor) -> tf.Tensor:
    """Adds a term to a sum that may not have begun."""
    return term if total is None else total + term


def sum_over(tensor: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
    """Sums over axes, which are dropped.

    Neighbouring axes are merged first, and one SUM a group of them is emitted.
    Where something follows the group, the SUM is one over the axes 1 and 2 of rank 4,
    the only one that tflite-runtime 2.14 delegates; an image is summed so as it lies,
    since merging its axes would copy it.
    """
    shape = static_shape(tensor)
    if len(shape) == 4 and shape[3] > 1 and tuple(axes) in ((1, 2), (0, 1, 2)):
        if 0 not in axes:
            return tf.reduce_sum(tensor, axis=[1, 2])
        return tf.reshape(sum_of_images(tensor), [shape[3]])
    merged: list[tuple[int, bool]] = []
    for i, size in enumerate(shape):
        summed = i in axes
        if merged and (merged[-1][1] == summed):
            merged[-1] = (merged[-1][0] * size, summed)
        else:
            merged.append((size, summed))
    if len(merged) != len(shape):
        tensor = tf.reshape(tensor, [size for size, _ in merged])
    for i in reversed(range(len(merged))):
        if not merged[i][1]:
            continue
        sizes = [size for size, _ in merged]
        outer, inner = math.prod(sizes[:i]), math.prod(sizes[i + 1 :])
        if inner == 1:
            # Builtin SUM adds one after the other: in two steps it errs less.
            part = _divisor(sizes[i])
            if part > 1:
                tensor = _sum_middle(tensor, outer, sizes[i] // part, part)
            if outer == 1 and len(axes) == len(shape):
                # Not a RESHAPE to a scalar: its empty list of sizes passes for one that
                # is not known, and runtimes plan the memory of what follows anew.
                return tf.reduce_sum(tensor)
            tensor = tf.reduce_sum(tf.reshape(tensor, [outer, -1]), axis=1)
        else:
            tensor = _sum_middle(tensor, outer, sizes[i], inner)
        tensor = tf.reshape(tensor, sizes[:i] + sizes[i + 1 :])
        del merged[i]
    want = [size for i, size in enumerate(shape) if i not in axes]
    return tensor if list(static_shape(tensor)) == want else tf.reshape(tensor, want)


def sum_of_images(images: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [1, C], over the axes 1 and 2 first (see `sum_over`)."""
    batch, _, _, channels = static_shape(images)
    total = tf.reduce_sum(images, axis=[1, 2])
    return total if batch == 1 else _sum_middle(total, 1, batch, channels)


def _sum_middle(tensor: tf.Tensor, outer: int, count: int, inner: int) -> tf.Tensor:
    return tf.reduce_sum(tf.reshape(tensor, [outer, 1, count, inner]), axis=[1, 2])


def _divisor(count: int) -> int:
    """The largest divisor up to the square root; 1 for short sums."""
    if count < 256:
        return 1
    return next(d for d in range(math.isqrt(count), 0, -1) if count % d == 0)
