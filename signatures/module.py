"""What every trainable `tf.Module` shares: its variables, tracing, save and restore.

A module owns one variable for each trained weight, for what a step updates beside them,
for every slot, and for the step; every other weight is a constant of the graph, so that
the converter and XNNPACK see plain convolutions there.

Inputs and outputs of a signature are passed by their place in the contract and carry
the names `in_0`, ... and `out_0`, ... until conversion puts the contract's names into
the file: TensorFlow allows no slash in a signature's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints import manifest
from signatures import contract, optimizers
from signatures.gradients import graph


class Module(tf.Module):
    """Holds the variables; a method `_<key>` of the subclass stands for a signature.

    Attributes:
      ops: `builtin`, or `select` where `select.Select` is inherited: the operators that
        its file needs.
      targets: What `target` may be.
      target: The runtimes that its file is fast in.
    """

    ops = "builtin"
    targets: tuple[str, ...] = manifest.TARGETS

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        settings: optimizers.Settings,
        rates: Mapping[str, float] | None = None,
        updated: Sequence[str] = (),
        target: str = manifest.ANY,
    ) -> None:
        """Takes the weights over: those that change become variables, others constants.

        Args:
          weights: Every weight.
          trained: Names of the weights to train, in the file's order.
          settings: The optimizer.
          rates: Of the trained weights, as `optimizers.Optimizer` takes them.
          updated: Names of those that a step updates without a gradient: statistics.
          target: The runtimes that the file is to be fast in, one of
            `manifest.TARGETS`.

        Raises:
          ValueError: If there is no such target.
        """
        super().__init__()
        if target not in self.targets:
            raise ValueError(
                f"With ops={self.ops!r} target must be one of "
                f"{', '.join(self.targets)}. Received: {target!r}."
            )
        self.target = target
        changing = {*trained, *updated}
        self._frozen = {n: w for n, w in weights.items() if n not in changing}
        self._weights = {n: tf.Variable(weights[n], name=n) for n in trained}
        self._updated = {n: tf.Variable(weights[n], name=n) for n in updated}
        self._optimizer = optimizers.Optimizer(settings, self._weights, rates)
        self._state = [
            *((n, manifest.WEIGHT, v) for n, v in self._weights.items()),
            *((n, manifest.STATE, v) for n, v in self._updated.items()),
            *self._optimizer.state(),
        ]

    @property
    def specs(self) -> tuple[manifest.VariableSpec, ...]:
        """Every variable: weights, what steps update beside them, slots, the step."""
        return tuple(
            manifest.VariableSpec(name, _shape(role, v), v.dtype.name, role)
            for name, role, v in self._state
        )

    @property
    def frozen(self) -> Mapping[str, np.ndarray]:
        """The weights that are constants."""
        return self._frozen

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets the variables that `state` names."""
        for name, _, variable in self._state:
            if name in state:
                variable.assign(np.reshape(state[name], variable.shape))

    def functions(
        self, signatures: Sequence[manifest.SignatureSpec]
    ) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Traces every signature of a contract.

        Args:
          signatures: From `contract`.

        Returns:
          Key -> concrete function with inputs `in_0`, ... and outputs `out_0`, ...
        """
        return {s.key: self._trace(s) for s in signatures}

    def _trace(
        self, signature: manifest.SignatureSpec
    ) -> tf.types.experimental.ConcreteFunction:
        method = getattr(self, f"_{signature.key}")

        def call(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
            named = {s.name: a for s, a in zip(signature.inputs, arguments)}
            outputs = method(named)
            return {
                f"out_{i}": tf.identity(tf.ensure_shape(outputs[s.name], s.shape))
                for i, s in enumerate(signature.outputs)
            }

        return tf.function(
            call,
            input_signature=[
                tf.TensorSpec(s.shape, tf.as_dtype(s.dtype), name=f"in_{i}")
                for i, s in enumerate(signature.inputs)
            ],
            autograph=False,
        ).get_concrete_function()

    def _save(self, tensors):
        return {**self._read(), "format_version": tensors["format_version"]}

    def _restore(self, tensors):
        """Takes what `_save` gave; of another version's tensors it counts none."""
        self._assign(tensors)
        ours = tf.equal(tensors["format_version"], contract.FORMAT_VERSION)
        return {"restored": len(self._state) * tf.cast(ours, tf.int32)}

    def _read(self) -> dict[str, tf.Tensor]:
        """Every variable in the shape that `specs` tells."""
        values = {name: v.read_value() for name, _, v in self._state}
        for name, role, _ in self._state:
            if role == manifest.STEP:
                values[name] = optimizers.as_scalar(values[name])
        return values

    def _assign(self, values: Mapping[str, tf.Tensor]) -> None:
        """Takes what `_read` gave."""
        for name, role, variable in self._state:
            value = values[name]
            variable.assign(value[None] if role == manifest.STEP else value)

    def _values(self, names: Sequence[str] = ()) -> list[tf.Tensor]:
        """Of these weights; none stands for all that train."""
        return [self._weights[n].read_value() for n in names or self._weights]

    def _constants(self) -> dict[str, tf.Tensor]:
        return {name: tf.constant(value) for name, value in self._frozen.items()}

    # How a function of the weights is emitted; `select.Select` leaves it to TensorFlow.

    def _forward(
        self, function: Callable[..., Any], weights: Sequence[tf.Tensor], *args: Any
    ) -> Any:
        return graph.forward(function, weights, *args, target=self.target)

    def _differentiate(
        self,
        function: Callable[..., Any],
        weights: Sequence[tf.Tensor],
        *args: Any,
        **options: Any,
    ) -> tuple[Any, list[tf.Tensor]]:
        return graph.value_and_gradients(
            function, weights, *args, target=self.target, **options
        )


def _shape(role: str, variable: tf.Variable) -> tuple[int, ...]:
    """Of what a variable holds: the step is a scalar, stored with an axis."""
    return () if role == manifest.STEP else tuple(variable.shape)
