"""An inference graph whose every constant is a weight, or an expression of weights.

The converter would fold a BatchNorm into the convolution before it and leave numbers
that nothing tells the weights of. So what depends on weights alone is taken out of the
graph here, as the expressions of `checkpoints.folds`, and scales and offsets of
channels are pushed into the convolution or product that they follow.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints import folds
from signatures import affine
from signatures.gradients import graph, trace

_SAME = ("Identity", "StopGradient")
_RESHAPES = ("ExpandDims", folds.RESHAPE, "Squeeze")
# The end of a dilated convolution, which Keras makes of a plain one.
_UNDILATED = "BatchToSpaceND"
Expression = list[Any]  # As `checkpoints.folds` has it.
# Most numbers that an expression holds itself.
_SMALL = 64


class FoldingError(ValueError):
    """A graph with a constant that no expression can tell."""


class Folded:
    """A traced inference function.

    Attributes:
      expressions: Name of each constant -> its expression; a constant that is a weight
        as it is carries the weight's name.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        weights: Mapping[str, np.ndarray],
        inputs: Sequence[tf.TensorSpec],
    ) -> None:
        """Traces `function({name: weight}, *inputs)`.

        Raises:
          FoldingError: If a constant depends on weights through an operator that has no
            place in expressions.
        """
        found: list[trace.Program] = []
        names = list(weights)

        def call(*tensors):
            given, images = tensors[: len(names)], tensors[len(names) :]
            found.append(
                trace.trace(
                    lambda values, *args: function(dict(zip(names, values)), *args),
                    given,
                    images,
                )
            )

        specs = [tf.TensorSpec(w.shape, tf.float32) for w in weights.values()]
        tf.function(call, autograph=False).get_concrete_function(*specs, *inputs)
        (self._program,) = found
        self.expressions: dict[str, Any] = {}
        bound = list(self._program.bound)
        self._images = bound[len(names) : len(names) + len(inputs)]
        self._steady: dict[trace.Value, Any] = {
            value: [folds.WEIGHT, name, [*weights[name].shape]]
            for value, name in zip(self._program.weights, names)
        }
        self._moving = set(self._images)
        self._zeros: set[trace.Value] = set()
        for node in self._program.nodes:
            self._settle(node)
        # A run in a graph of its own, to know the constants before they are needed.
        tf.function(
            lambda *images: self._emit(None, images), autograph=False
        ).get_concrete_function(*inputs)

    def __call__(self, constants: Mapping[str, tf.Tensor], *images: tf.Tensor) -> Any:
        """Emits the function with a value for each of `expressions`."""
        return self._emit(constants, images)

    def values(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every constant, computed of the weights."""
        return {n: folds.evaluate(e, weights) for n, e in self.expressions.items()}

    def _settle(self, node: trace.Node) -> None:
        """Finds the expression of what a node computes, if it needs no image."""
        if self._moving.intersection(node.inputs):
            self._moving.update(node.outputs)
            return
        if not node.outputs or not node.outputs[0].dtype.is_floating:
            return
        output = node.outputs[0]
        if node.type in (*_SAME, *_RESHAPES):
            source = self._steady.get(node.inputs[0])
            if source is not None:
                self._steady[output] = affine.reshaped(source, output.shape.as_list())
        elif node.type == folds.TRANSPOSE:
            source, axes = self._steady.get(node.inputs[0]), node.inputs[1].constant
            if source is not None and axes is not None:
                self._steady[output] = [folds.TRANSPOSE, source, axes.tolist()]
        elif node.type == "Const":
            value = output.constant
            if value is None and node.operation is not None:
                value = tf.get_static_value(node.operation.outputs[0])
            if value is not None and not np.any(value):
                self._zeros.add(output)
            if value is not None and np.size(value) <= _SMALL:
                numbers = np.asarray(value, np.float32)
                self._steady[output] = [
                    folds.CONSTANT, [*numbers.shape], numbers.ravel().tolist()
                ]  # fmt: skip
        elif node.type == "MatMul" and self._zeros.intersection(node.inputs):
            self._zeros.add(output)  # of a recurrent layer's first state
        elif _is_whole(node) and node.inputs[0] in self._steady:
            self._steady[output] = self._steady[node.inputs[0]]
        elif node.type in folds.OPERATORS:
            operands = [self._steady.get(value) for value in node.inputs]
            if None not in operands:
                self._steady[output] = [node.type, *operands]
            elif any(o is not None and folds.weights(o) for o in operands):
                raise _unknown(node)
        elif any(v in self._steady and folds.weights(self._steady[v])
                 for v in node.inputs):
            raise _unknown(node)

    def _emit(self, constants: Mapping[str, tf.Tensor] | None, images) -> Any:
        run = _Run(self, constants)
        run.tensors.update(zip(self._images, images))
        return run.outputs()

    # What a run reads.

    @property
    def program(self) -> trace.Program:
        return self._program

    def steady(self, value: trace.Value) -> Any:
        """The expression of a value that depends on weights; None of any other."""
        expression = self._steady.get(value)
        return expression if expression and folds.weights(expression) else None

    def settled(self, value: trace.Value) -> bool:
        """Whether a value needs no image."""
        return value not in self._moving

    def vector(self, value: trace.Value, channels: int) -> Any:
        """The expression of one number a channel, or of one for all; None of others."""
        expression = self._steady.get(value)
        shape = value.shape.as_list()
        fits = math.prod(shape) in (1, channels) and math.prod(shape[:-1]) == 1
        if expression is None or not fits:
            return None
        each = [channels] if shape[-1:] == [channels] else []
        return affine.reshaped(expression, each)

    def name_of(self, expression: Any) -> str:
        """The name of a constant, of which each expression has one."""
        if expression[0] == folds.WEIGHT:
            name = expression[1]
        else:
            text = json.dumps(expression)
            names = {json.dumps(e): n for n, e in self.expressions.items()}
            name = names.get(text, f"fold/{len(self.expressions)}")
        self.expressions[name] = expression
        return name


class _Run:
    """One emission in the current graph."""

    def __init__(
        self, folded: Folded, constants: Mapping[str, tf.Tensor] | None
    ) -> None:
        self._folded, self._constants = folded, constants
        program = folded.program
        self.tensors: dict[trace.Value, tf.Tensor] = {
            v: t for v, t in program.bound.items() if v not in program.weights
        }
        self._pending: dict[trace.Value, affine.Affine] = {}
        self._uses = collections.Counter(
            v for node in program.nodes for v in node.inputs
        )
        self._uses.update(tf.nest.flatten(program.outputs))

    def outputs(self) -> Any:
        for node in self._folded.program.nodes:
            if not node.outputs or self._folded.steady(node.outputs[0]) is None:
                self._node(node)
        return tf.nest.map_structure(self._tensor, self._folded.program.outputs)

    def _node(self, node: trace.Node) -> None:
        held = self._linear(node) or self._pushed(node)
        if held is not None:
            self._pending[node.outputs[0]] = held
            return
        inputs = [self._tensor(value) for value in node.inputs]
        self.tensors.update(zip(node.outputs, graph.emitted(node, inputs), strict=True))

    def _linear(self, node: trace.Node) -> affine.Affine | None:
        if node.type not in affine.LINEAR or node.operation is None:
            return None
        kernel = self._folded.steady(node.inputs[affine.LINEAR[node.type][1]])
        image = node.inputs[affine.LINEAR[node.type][0]]
        if kernel is None or self._folded.steady(image) is not None:
            return None
        get = node.operation.get_attr
        if node.type == "MatMul":
            plain = not (get("transpose_a") or get("transpose_b"))
        else:
            plain = get("data_format") == b"NHWC"
        return self._absorbed(affine.Affine(node, image, kernel)) if plain else None

    def _absorbed(self, held: affine.Affine) -> affine.Affine:
        """Takes in the scale before a filter, and the offset where it reads no padding.

        The converter would, and leave what no expression tells.
        """
        before, node = self._pending.get(held.source), held.node
        assert node is not None and node.operation is not None
        inputs = held.source.shape[-1]
        if before is None or before.after:
            return held
        # Zeros that pad an image are those of a scaled one.
        fits = node.type == "MatMul" or (
            node.type in ("Conv2D", "DepthwiseConv2dNative")
            and (before.offset is None
                 or node.operation.get_attr("padding") == b"VALID")
        )  # fmt: skip
        if not fits or affine.shape_of(held.kernel)[-2] != inputs:  # in groups
            return held
        kernel, offset = held.kernel, None
        if before.offset is not None:
            through = "ThroughEach" if node.type.startswith("Depthwise") else "Through"
            offset = [through, affine.spread(before.offset, inputs), held.kernel]
        if before.node is not None:
            without = dataclasses.replace(before, offset=None)
            self.tensors[held.source] = self._realised(without)
            return affine.Affine(node, held.source, kernel, offset)
        if before.kernel is not None:
            scale = affine.reshaped(affine.spread(before.kernel, inputs), [inputs, 1])
            kernel = ["Mul", kernel, scale]
        return affine.Affine(node, before.source, kernel, offset)

    def _pushed(self, node: trace.Node) -> affine.Affine | None:
        """A scale or an offset of each channel, of a result that nothing else reads."""
        if len(node.outputs) != 1:
            return None
        for place, value in enumerate(node.inputs):
            held = self._pending.get(value)
            if held is not None and self._uses[value] != 1:
                held = None
            if node.type in _SAME:
                return held
            if node.type in (*_RESHAPES, _UNDILATED):
                return affine.moved(held, node)
            if len(node.inputs) != 2 or value.shape != node.outputs[0].shape:
                continue
            if not value.shape.rank or self._folded.settled(value):
                continue
            channels = value.shape[-1]
            vector = self._folded.vector(node.inputs[1 - place], channels)
            if vector is None:
                continue
            held = held or affine.Affine(None, value, None)
            found = affine.combined(node.type, held, vector, channels, place)
            if found is not None:
                return found
        return None

    def _tensor(self, value: trace.Value) -> tf.Tensor:
        if value not in self.tensors:
            held = self._pending.get(value)
            if held is None:
                self.tensors[value] = self._constant(self._folded.steady(value))
            else:
                self.tensors[value] = self._realised(held)
        return self.tensors[value]

    def _realised(self, held: affine.Affine) -> tf.Tensor:
        # The converter takes a dilated convolution for one, but with its bias behind.
        offset = None
        if any(node.type == _UNDILATED for node in held.after):
            offset, held = held.offset, dataclasses.replace(held, offset=None)
        result = self._scaled(held) if held.node is None else self._filtered(held)
        for node in held.after:
            others = [self._tensor(value) for value in node.inputs[1:]]
            (result,) = graph.emitted(node, [result, *others])
        return result if offset is None else self._biased(result, offset)

    def _scaled(self, held: affine.Affine) -> tf.Tensor:
        result = self._tensor(held.source)
        if held.kernel is not None:
            result = result * self._constant(held.kernel)
        if held.offset is not None:
            result = result + self._constant(held.offset)
        return result

    def _filtered(self, held: affine.Affine) -> tf.Tensor:
        node = held.node
        assert node is not None
        image, place, _ = affine.LINEAR[node.type]
        sources = dict(enumerate(node.inputs)) | {image: held.source}
        tensors = [
            self._constant(held.kernel) if i == place else self._tensor(source)
            for i, source in sources.items()
        ]
        (result,) = graph.emitted(node, tensors)
        return result if held.offset is None else self._biased(result, held.offset)

    def _biased(self, result: tf.Tensor, offset: Any) -> tf.Tensor:
        spread = affine.spread(offset, result.shape[-1])
        return tf.nn.bias_add(result, self._constant(spread))

    def _constant(self, expression: Any) -> tf.Tensor:
        if not folds.weights(expression):
            return tf.constant(folds.evaluate(expression, {}))
        name = self._folded.name_of(expression)
        if self._constants is not None:
            return self._constants[name]
        return tf.zeros(affine.shape_of(expression))


def _is_whole(node: trace.Node) -> bool:
    """Whether it gathers every row once, in order: of a table of positions."""
    if node.type != "GatherV2":
        return False
    table, *others = node.inputs
    index, axis = (value.constant for value in others)
    rows = table.shape[0]
    return axis == 0 and index is not None and np.array_equal(index, np.arange(rows))


def _unknown(node: trace.Node) -> FoldingError:
    return FoldingError(
        f"A constant must be made of weights by {', '.join(folds.OPERATORS)}. "
        f"Received: {node.type} '{node.name}'."
    )
