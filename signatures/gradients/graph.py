"""Reverse-mode differentiation into builtin TFLite operators.

`value_and_gradients` traces a function once, emits its operators again in the current
graph, each in the form that its rule chooses for training, and walks back over those
that lie between a weight and the loss. What does not depend on a weight is copied as it
is, so that a frozen trunk keeps its constant filters, and nothing is differentiated
below the first trained weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from checkpoints import manifest
from signatures.gradients import (
    activations,
    apart,
    randomness,
    rule,
    rules,
    siblings,
    trace,
)

GradientError = rule.GradientError


def value_and_gradients(
    function: Callable[..., Any],
    weights: Sequence[tf.Tensor],
    *args: Any,
    others: Sequence[tf.Tensor] = (),
    target: str = manifest.ANY,
    generator: randomness.Generator | None = None,
) -> tuple[Any, list[tf.Tensor]]:
    """Evaluates a loss and its gradients; to be called while a tf.function is traced.

    Args:
      function: Called once as `function([*weights, *others], *args)` with tensors of
        the same shapes; returns the loss, or a structure whose first element (in the
        order of `tf.nest.flatten`) is the loss: a scalar float32 or float64.
      weights: The tensors to differentiate by; static shapes. What the function closes
        over instead counts as frozen.
      *args: Further tensors or structures of them, not differentiated by.
      others: Weights that change from call to call, too, but are not differentiated by:
        what they go into takes the same form. What leads to their gradients alone is
        emitted and needed by nothing, so that it is pruned.
      target: The runtimes to be fast in, one of `manifest.TARGETS`.
      generator: Draws the random numbers that the function asks for; their gradient is
        that of the numbers drawn.

    Returns:
      What the function returned, emitted in the current graph, and one gradient for
      each weight, in its shape; zeros where the loss does not depend on it.

    Raises:
      GradientError: If an operator between a weight and the loss has no rule, a shape
        is unknown, a weight is no float, the loss is not a scalar, or random numbers
        are asked for without a generator.
      RuntimeError: If no function is being traced.
    """
    program = trace.trace(function, [*weights, *others], args)
    program = siblings.joined(program, len(weights))
    loss = tf.nest.flatten(program.outputs)[0]
    if loss.shape.rank != 0 or not loss.dtype.is_floating:
        raise GradientError(
            "The first element that the function returns must be the loss, a scalar. "
            f"Received: shape {loss.shape}, {loss.dtype.name}."
        )
    emitted = _Emitter(program, loss, target, generator)
    return emitted.outputs(), emitted.gradients()[: len(weights)]


def forward(
    function: Callable[..., Any],
    weights: Sequence[tf.Tensor],
    *args: Any,
    target: str = manifest.ANY,
) -> Any:
    """Evaluates a function in the form that suits weights which change.

    A convolution starts from its bias, as delegates start theirs with constant filters:
    see `convolution`.

    Args:
      function: As in `value_and_gradients`; may return any structure of tensors.
      weights: The tensors that change from call to call.
      *args: Further tensors or structures of them.
      target: As in `value_and_gradients`.

    Returns:
      What the function returned, emitted in the current graph.
    """
    program = trace.with_biases(trace.trace(function, weights, args))
    return _Emitter(program, None, target, None).outputs()


class _Emitter:
    """Emits a program in the current graph, then its gradient."""

    def __init__(
        self,
        program: trace.Program,
        loss: trace.Value | None,
        target: str,
        generator: randomness.Generator | None,
    ) -> None:
        if target not in manifest.TARGETS:
            raise GradientError(
                f"target must be one of {', '.join(manifest.TARGETS)}. "
                f"Received: {target!r}."
            )
        if target != manifest.TFLITE_RUNTIME:  # There operators take memory.
            program = apart.large(program)
        self._generator = generator
        self._program = program
        self._loss = loss
        self._tensors: dict[trace.Value, tf.Tensor] = dict(program.bound)
        self._active = _active(program)
        self._target = _narrowed(target, program, self._active)
        self._backward: list[tuple[trace.Node, rule.Operation, rule.Backward]] = []
        differentiated = _differentiated(program, self._active, loss)
        for node in program.nodes:
            self._emit(node, node in differentiated)

    def outputs(self) -> Any:
        return tf.nest.map_structure(self._tensors.__getitem__, self._program.outputs)

    def gradients(self) -> list[tf.Tensor]:
        assert self._loss is not None
        collected: dict[trace.Value, tf.Tensor] = {
            self._loss: tf.ones([], self._loss.dtype)
        }
        for node, operation, backward in reversed(self._backward):
            outputs = [collected.pop(value, None) for value in node.outputs]
            if all(gradient is None for gradient in outputs):
                continue
            with tf.name_scope(f"{node.name}/gradient"):
                inputs = backward(outputs)
                for value, wanted, gradient in zip(
                    node.inputs, operation.wanted, inputs, strict=True
                ):
                    if wanted and gradient is not None:
                        _accumulate(collected, value, gradient, node)
        return [
            collected[weight]
            if weight in collected
            else tf.zeros(weight.shape, weight.dtype)
            for weight in self._program.weights
        ]

    def _emit(self, node: trace.Node, differentiated: bool) -> None:
        inputs = tuple(self._tensors[value] for value in node.inputs)
        wanted = tuple(value in self._active for value in node.inputs)
        chosen = rules.RULES.get(node.type)
        if not any(wanted) or chosen is None:
            if differentiated:
                raise _without_rule(node)
            if node.type in randomness.DRAWN:
                outputs = self._drawn(node)
            else:
                outputs = emitted(node, inputs)
        else:
            operation = _operation(
                node, inputs, wanted, differentiated, self._target
            )
            outputs, backward = chosen(operation)
            if differentiated:
                self._backward.append((node, operation, backward))
        self._tensors.update(zip(node.outputs, outputs, strict=True))

    def _drawn(self, node: trace.Node) -> Sequence[tf.Tensor]:
        if self._generator is None:
            raise GradientError(
                "A function that draws random numbers must be given a generator. "
                f"Received: none, for {node.type} '{node.name}'."
            )
        (value,) = node.outputs
        shape = randomness.shape_of(node.name, value.shape)
        return [self._generator.draw(node.type, shape, value.dtype)]


def _active(program: trace.Program) -> set[trace.Value]:
    """The values that a path of floats leads to from a weight."""
    active = set(program.weights)
    for node in program.nodes:
        if node.type not in rules.CONSTANT and active.intersection(node.inputs):
            active.update(v for v in node.outputs if v.dtype.is_floating)
    return active


def _narrowed(target: str, program: trace.Program, active: set[trace.Value]) -> str:
    """`any`, or AI_EDGE_LITERT where a depthwise filter changes."""
    changes = any(
        node.type == "DepthwiseConv2dNative" and node.inputs[1] in active
        for node in program.nodes
    )
    return rule.AI_EDGE_LITERT if changes and target == manifest.ANY else target


def _differentiated(
    program: trace.Program, active: set[trace.Value], loss: trace.Value | None
) -> set[trace.Node]:
    """The nodes on a path of floats from a weight to the loss."""
    reached = active.intersection([loss])
    found = set()
    for node in reversed(program.nodes):
        if reached.intersection(node.outputs):
            found.add(node)
            reached.update(active.intersection(node.inputs))
    return found


def _operation(
    node: trace.Node,
    inputs: tuple[tf.Tensor, ...],
    wanted: tuple[bool, ...],
    differentiated: bool,
    target: str,
) -> rule.Operation:
    attributes: Mapping[str, Any] = {}
    if node.operation is not None:
        attributes = {
            key: node.operation.get_attr(key)
            for key in node.operation.node_def.attr
            if not key.startswith("_") or key == rule.CUSTOM
        }

    def emit(*others: tf.Tensor) -> Sequence[tf.Tensor]:
        return _copy(node, others or inputs)

    return rule.Operation(
        node.type,
        node.name,
        inputs,
        wanted,
        differentiated,
        attributes,
        target,
        emit,
    )


def emitted(node: trace.Node, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Emits a node that no gradient is asked of, in builtin operators."""
    if node.type not in rules.WRITTEN_OUT:
        return _copy(node, inputs)
    unwanted = (False,) * len(inputs)
    given = _operation(node, tuple(inputs), unwanted, False, manifest.ANY)
    return rules.RULES[node.type](given)[0]


def _copy(node: trace.Node, inputs: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    if node.type == "BiasedConv2D":
        assert node.operation is not None
        image, filters, bias = inputs
        (result,) = trace.copy(node.operation, [image, filters])
        return [result + bias]
    if node.operation is not None:
        return trace.copy(node.operation, inputs, node.name)
    if node.type == "Const":
        (value,) = node.outputs
        return [tf.constant(value.constant, value.dtype, name=node.name)]
    if node.type == "PRelu":
        return [activations.builtin_prelu(*inputs)]
    raise AssertionError(node.type)


def _accumulate(
    collected: dict[trace.Value, tf.Tensor],
    value: trace.Value,
    gradient: tf.Tensor,
    node: trace.Node,
) -> None:
    if gradient.shape != value.shape:
        raise AssertionError(
            f"The gradient of {node.type} '{node.name}' has shape {gradient.shape}, "
            f"its input {value.shape}."
        )
    known = collected.get(value)
    collected[value] = gradient if known is None else known + gradient


def _without_rule(node: trace.Node) -> GradientError:
    return GradientError(
        "Every operator between a trained weight and the loss must have a gradient in "
        f"builtin operators. Received: {node.type} '{node.name}'. "
        f"Available: {', '.join(sorted(set(rules.RULES) | rules.CONSTANT))}."
    )
