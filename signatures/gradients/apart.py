"""Two samples whose large images are taken one after the other, small ones together.

Together they share every call of a kernel and the weights that it reads, but two large
images leave the processor's caches between one operator and the next, which costs more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from signatures.gradients import rule, trace

# How many samples are parted: each has operators of its own.
SAMPLES = 2
# Numbers of an image, .4 MB: two, and what is made of them, are more than the second
# cache of a processor holds, 1 MB of a Zen 4's.
_LARGE = 100_000

_APART, _TOGETHER = "Apart", "Together"

_Values = tuple[trace.Value, ...]

# Operators that make a sample's image of that sample's and of what all samples share.
_OF_ONE_IMAGE = frozenset(
    (
        "BiasAdd",
        "BiasedConv2D",
        "Conv2D",
        "DepthwiseConv2dNative",
        "MaxPool",
        "PRelu",
        "Pad",
        "Relu",
        "Relu6",
    )
)
_OF_EACH_NUMBER = frozenset(("Add", "AddV2", "Maximum", "Minimum", "Mul", "Sub"))


def large(program: trace.Program) -> trace.Program:
    """Takes two samples apart where their images are large.

    All that is done to the first one's comes before what is done to the second's. A
    program of another number of samples is left as it is.
    """
    parting = _Parting()
    for node in program.nodes:
        parting.add(node)
    for value in tf.nest.flatten(program.outputs):
        parting.join(value)
    parting.flush()
    return dataclasses.replace(program, nodes=parting.nodes)


class _Parting:
    """A program's nodes while it is gone through.

    Attributes:
      nodes: Those that are in order.
    """

    def __init__(self) -> None:
        self.nodes: list[trace.Node] = []
        self._waiting: list[list[trace.Node]] = [[] for _ in range(SAMPLES)]
        self._parts: dict[trace.Value, _Values] = {}
        self._whole: set[trace.Value] = set()

    def add(self, node: trace.Node) -> None:
        """Appends a node, or one for each sample."""
        images = _images(node)
        if not images:
            for value in node.inputs:
                self.join(value)
            self.nodes.append(node)
            return
        for value in images:
            self._part(value)
        (whole,) = node.outputs
        self._parts[whole] = _values(whole)
        for i, waiting in enumerate(self._waiting):
            inputs = tuple(
                self._parts[value][i] if value in images else value
                for value in node.inputs
            )
            outputs = (self._parts[whole][i],)
            waiting.append(dataclasses.replace(node, inputs=inputs, outputs=outputs))

    def join(self, value: trace.Value) -> None:
        """Makes a value of its samples', where it is not known as a whole."""
        if value not in self._parts or value in self._whole:
            return
        self.flush()
        self._whole.add(value)
        self._append(_TOGETHER, self._parts[value], (value,))

    def flush(self) -> None:
        """Appends what waits for its turn, a sample after the other."""
        for waiting in self._waiting:
            self.nodes.extend(waiting)
            waiting.clear()

    def _part(self, value: trace.Value) -> None:
        if value in self._parts:
            return
        self._parts[value] = _values(value)
        self._whole.add(value)
        self._append(_APART, (value,), self._parts[value])

    def _append(self, kind: str, inputs: _Values, outputs: _Values) -> None:
        self.nodes.append(trace.Node(kind, kind.lower(), inputs, outputs, None))


def _values(whole: trace.Value) -> _Values:
    shape = tf.TensorShape([1, *whole.shape[1:]])
    return tuple(trace.Value(shape, whole.dtype) for _ in range(SAMPLES))


def _images(node: trace.Node) -> list[trace.Value]:
    """The inputs that hold a large image a sample; none where it is not to be parted.

    A node is if it makes one tensor [2, H, W, C] of others of that form, and of what
    is the same for each sample.
    """
    if node.type in _OF_ONE_IMAGE:
        images = list(node.inputs[:1])
    elif node.type in _OF_EACH_NUMBER:
        whole = node.outputs[0].shape
        images = [value for value in node.inputs if value.shape == whole]
        shared = [value for value in node.inputs if value.shape != whole]
        if any(v.shape.rank == 4 and v.shape[0] != 1 for v in shared):
            return []
    else:
        return []
    everything = (*images, *node.outputs)
    if not all(_of_samples(value) for value in everything):
        return []
    largest = max(math.prod(value.shape[1:]) for value in everything)
    return images if largest > _LARGE else []


def _of_samples(value: trace.Value) -> bool:
    return value.shape.rank == 4 and value.shape[0] == SAMPLES


def _apart(operation: rule.Operation) -> tuple[Sequence[tf.Tensor], rule.Backward]:
    """Apart(whole [2, ...]) -> [1, ...] for each sample."""
    (whole,) = operation.inputs

    def backward(gradients):
        return [tf.concat(gradients, 0)]  # What one sample has the others have.

    return tf.split(whole, SAMPLES), backward


def _together(operation: rule.Operation) -> tuple[Sequence[tf.Tensor], rule.Backward]:
    """Together([1, ...] of each sample) -> the whole [2, ...]."""
    parts = operation.inputs

    def backward(gradients):
        return tf.split(gradients[0], len(parts))

    return [tf.concat(parts, 0)], backward


RULES: dict[str, rule.Rule] = {_APART: _apart, _TOGETHER: _together}
