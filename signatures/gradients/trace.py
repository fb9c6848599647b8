"""A Python function as a flat list of operators.

The function is traced once; calls of other functions are inlined, some operators are
replaced by what they are made of (`expansions`), arithmetic of shapes is folded, Keras'
PReLU is recognised as one operator, random numbers lose the keys that TensorFlow draws
them by, and what the outputs do not need is dropped.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from signatures.gradients import expansions, randomness, rule

# Calls of functions, replaced by the body of what they call.
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# Stateful in TensorFlow's books, but without an effect of its own.
_WITHOUT_EFFECT = frozenset(("ReadVariableOp", "Placeholder", "VarHandleOp", *CALLS))
# Integers with at most so many elements are folded: shapes, axes, paddings.
_FOLDED_SIZE = 4096


class Value:
    """A tensor of the traced function; `constant` holds it where it is known."""

    def __init__(self, shape: tf.TensorShape, dtype: tf.DType) -> None:
        self.shape = shape
        self.dtype = dtype
        self.constant: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class Node:
    """An operator of the traced function.

    Attributes:
      type: Its type; "Const" where it was folded, "PRelu" for Keras' cluster,
        "BiasedConv2D" for a Conv2D with its bias.
      name: Its name, after those of the calls that led to it.
      inputs: What it reads.
      outputs: What it computes.
      operation: The traced operator, of a BiasedConv2D the Conv2D; None where the node
        is a folded constant or a recognised PRelu.
    """

    type: str
    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operation: tf.Operation | None


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced function.

    Attributes:
      nodes: In an order in which they can be computed.
      weights: The values of the weights, in the order given.
      bound: Arguments and captured tensors, with the tensor outside.
      outputs: The structure that the function returned, as values.
    """

    nodes: list[Node]
    weights: list[Value]
    bound: dict[Value, tf.Tensor]
    outputs: Any


def trace(
    function: Callable[..., Any],
    weights: Sequence[tf.Tensor],
    args: Sequence[Any],
) -> Program:
    """Traces `function(weights, *args)`.

    Raises:
      GradientError: If a shape is not fully known, or a weight is no float.
      RuntimeError: If no function is being traced.
    """
    if tf.executing_eagerly():
        raise RuntimeError(
            "Gradients are emitted while a tf.function is traced. "
            "Received: a call outside of one."
        )
    weights = [tf.convert_to_tensor(w) for w in weights]
    args = tf.nest.map_structure(tf.convert_to_tensor, list(args))
    for tensor in (*weights, *tf.nest.flatten(args)):
        _require_static(tensor.shape, "argument", tensor.name)
    for index, tensor in enumerate(weights):
        if not tensor.dtype.is_floating:
            raise rule.GradientError(
                f"Every weight must be a float. Received: {tensor.dtype.name} for "
                f"weight {index}."
            )
    specs = tf.nest.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype), [weights, *args]
    )
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    graph = concrete.graph
    given = [*weights, *tf.nest.flatten(args)]
    captured = {inner.ref(): outer for outer, inner in graph.captures}
    environment: dict[Any, Value] = {}
    bound: dict[Value, tf.Tensor] = {}
    arguments = [t for t in graph.inputs if t.ref() not in captured]
    for inner, outer in zip(arguments, given, strict=True):
        bound[_define(environment, inner)] = outer
    for inner, outer in ((t, captured[t.ref()]) for t in graph.inputs[len(given) :]):
        bound[_define(environment, inner)] = outer
    for value, outer in bound.items():
        if outer.dtype.is_integer or outer.dtype.is_bool:
            value.constant = _small(tf.get_static_value(outer))
    nodes: list[Node] = []
    _flatten(graph, environment, nodes)
    outputs = tf.nest.map_structure(
        lambda t: environment[t.ref()], graph.structured_outputs
    )
    nodes = _without_keys(_recognise_prelu(nodes))
    nodes = _needed(nodes, tf.nest.flatten(outputs))
    return Program(nodes, list(bound)[: len(weights)], bound, outputs)


def _define(environment: dict[Any, Value], tensor: tf.Tensor) -> Value:
    value = Value(tensor.shape, tensor.dtype)
    environment[tensor.ref()] = value
    return value


def _require_static(shape: tf.TensorShape, kind: str, name: str) -> None:
    if not shape.is_fully_defined():
        raise rule.GradientError(
            f"Every shape must be known while tracing. Received: {kind} '{name}' of "
            f"shape {shape}."
        )


def _flatten(
    graph: tf.Graph, environment: dict[Any, Value], nodes: list[Node], scope: str = ""
) -> None:
    """Appends the operators of a graph to `nodes`, some replaced by their bodies."""
    for operation in graph.get_operations():
        if all(t.ref() in environment for t in operation.outputs) and operation.outputs:
            continue  # an argument
        inputs = tuple(environment[t.ref()] for t in operation.inputs)
        expansion = expansions.of(operation)
        if operation.type in CALLS or expansion is not None:
            if expansion is not None:
                body = expansions.body(operation, expansion)
            else:
                # Private, but the only way from a function's name to its graph.
                body = graph._get_function(operation.get_attr("f").name).graph
            inner: dict[Any, Value] = {}
            for tensor, value in zip(body.inputs, inputs, strict=True):
                inner[tensor.ref()] = value
            _flatten(body, inner, nodes, f"{scope}{operation.name}/")
            for tensor, result in zip(operation.outputs, body.outputs, strict=True):
                environment[tensor.ref()] = inner[result.ref()]
            continue
        outputs = tuple(_define(environment, t) for t in operation.outputs)
        name = scope + operation.name
        node = Node(operation.type, name, inputs, outputs, operation)
        _fold(node)
        nodes.append(node)


def _fold(node: Node) -> None:
    """Computes integers that are known, so that rules find axes and shapes."""
    operation = node.operation
    assert operation is not None
    if len(node.outputs) != 1 or operation.op_def.is_stateful:
        return
    (output,) = node.outputs
    if not (output.dtype.is_integer or output.dtype.is_bool):
        return
    if output.shape.num_elements() is None or (
        output.shape.num_elements() > _FOLDED_SIZE
    ):
        return
    if node.type == "Const":
        output.constant = tf.get_static_value(operation.outputs[0])
        return
    if node.type in ("Shape", "Size", "Rank"):
        shape = node.inputs[0].shape
        if not shape.is_fully_defined():
            return
        whole = {
            "Shape": shape.as_list(),
            "Size": shape.num_elements(),
            "Rank": shape.rank,
        }
        output.constant = np.array(whole[node.type], output.dtype.as_numpy_dtype)
    elif node.inputs and all(v.constant is not None for v in node.inputs):
        output.constant = _evaluate(operation, [v.constant for v in node.inputs])
    if output.constant is not None:
        node.type, node.inputs, node.operation = "Const", (), None


def _evaluate(operation: tf.Operation, values: Sequence[Any]) -> np.ndarray:
    """Runs one operator on known values."""
    with tf.Graph().as_default() as graph:
        inputs = [
            tf.constant(v, t.dtype) for v, t in zip(values, operation.inputs)
        ]
        copied = copy(operation, inputs)
        with tf.compat.v1.Session(graph=graph) as session:
            return session.run(copied[0])


def _small(value: Any) -> np.ndarray | None:
    small = value is not None and np.size(value) <= _FOLDED_SIZE
    return np.asarray(value) if small else None


def copy(
    operation: tf.Operation, inputs: Sequence[tf.Tensor], name: str | None = None
) -> list[tf.Tensor]:
    """Emits an operator again in the current graph, with other inputs.

    Raises:
      GradientError: If it holds functions (a loop).
    """
    attributes = {
        key: value
        for key, value in operation.node_def.attr.items()
        if not key.startswith("_")
    }
    if any(v.HasField("func") or v.list.func for v in attributes.values()):
        raise rule.GradientError(
            "Loops must not be part of the function: the number of steps must be "
            "known, and written in Python's own for and if. "
            f"Received: {operation.type} '{operation.name}'."
        )
    emitted = tf.compat.v1.get_default_graph().create_op(
        operation.type,
        list(inputs),
        [t.dtype for t in operation.outputs],
        name=name or operation.name,
        attrs=attributes,
        op_def=operation.op_def,
    )
    for new, old in zip(emitted.outputs, operation.outputs):
        if not new.shape.is_fully_defined():  # Of fewer samples it is another one.
            new.set_shape(old.shape)
    return list(emitted.outputs)


def _recognise_prelu(nodes: list[Node]) -> list[Node]:
    """Makes one PRelu(x, alpha) of Keras' Relu(x) + (-alpha) * Relu(-x).

    Source: keras/src/layers/activations/prelu.py, `PReLU.call`.
    """
    producer = {output: node for node in nodes for output in node.outputs}

    def inputs_of(value: Value, kind: str) -> tuple[Value, ...]:
        node = producer.get(value)
        return node.inputs if node is not None and node.type == kind else ()

    def match(node: Node) -> tuple[Value, Value] | None:
        for positive, product in (node.inputs, node.inputs[::-1]):
            (x,) = inputs_of(positive, "Relu") or (None,)
            for factor, other in (
                pair for p in [inputs_of(product, "Mul")] if p for pair in (p, p[::-1])
            ):
                (alpha,) = inputs_of(factor, "Neg") or (None,)
                (negated,) = inputs_of(other, "Relu") or (None,)
                (y,) = (inputs_of(negated, "Neg") if negated else ()) or (None,)
                if x is not None and alpha is not None and x is y:
                    return x, alpha
        return None

    found = []
    for node in nodes:
        pair = match(node) if node.type in ("AddV2", "Add") else None
        if pair is not None and pair[0].shape == node.outputs[0].shape:
            node = Node("PRelu", node.name, pair, node.outputs, None)
        found.append(node)
    return found


def _without_keys(nodes: list[Node]) -> list[Node]:
    """Random numbers that need no key: `randomness` draws others in their place."""
    return [
        dataclasses.replace(node, inputs=()) if node.type in randomness.DRAWN else node
        for node in nodes
    ]


def with_biases(program: Program) -> Program:
    """Makes one BiasedConv2D(image, filters, bias) of a convolution and its bias.

    A Conv2D whose result goes only into a BiasAdd, or into a sum with [C] or the
    [1, 1, 1, C] that Keras makes of it.
    """
    producer = {output: node for node in program.nodes for output in node.outputs}
    outputs = tf.nest.flatten(program.outputs)
    uses = collections.Counter(v for node in program.nodes for v in node.inputs)
    uses.update(outputs)

    def match(node: Node) -> tuple[Node, Value] | None:
        if node.type not in ("Add", "AddV2", "BiasAdd") or node.operation is None:
            return None
        if node.type == "BiasAdd" and (
            node.operation.get_attr("data_format") != b"NHWC"
        ):
            return None
        for product, bias in (node.inputs, node.inputs[::-1]):
            convolution = producer.get(product)
            if convolution is None or convolution.type != "Conv2D":
                continue
            *_, channels = product.shape
            fits = bias.shape in ([channels], [1, 1, 1, channels])
            if fits and uses[product] == 1 and product.shape == node.outputs[0].shape:
                return convolution, bias
        return None

    found = []
    for node in program.nodes:
        pair = match(node)
        if pair is not None:
            convolution, bias = pair
            node = Node(
                "BiasedConv2D",
                convolution.name,
                (*convolution.inputs, bias),
                node.outputs,
                convolution.operation,
            )
        found.append(node)
    return dataclasses.replace(program, nodes=_needed(found, outputs))


def _needed(nodes: Iterable[Node], outputs: Iterable[Value]) -> list[Node]:
    """The nodes that the outputs need, and those with an effect."""
    needed = set(outputs)
    kept = []
    for node in reversed(list(nodes)):
        effect = (
            node.operation is not None
            and node.operation.op_def.is_stateful
            and node.type not in _WITHOUT_EFFECT
        )
        if effect or any(output in needed for output in node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return kept[::-1]
