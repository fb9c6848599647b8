"""A Keras model as a pure function of named weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Every variable of the model by a name that no other has.

    The name is the variable's path without the model's own: `<layer>/<attribute>`,
    deeper where layers nest. Keras 3 calls every kernel `kernel`, so the variable's own
    name would collide.

    Raises:
      ValueError: If two variables have one name.
    """
    named: dict[str, keras.Variable] = {}
    for variable in model.variables:
        name = variable.path.removeprefix(f"{model.name}/")
        if name in named:
            raise ValueError(
                "Every variable of a model must have a name of its own. "
                f"Received: two called {name!r}."
            )
        named[name] = variable
    return named


class Stateless:
    """Calls a Keras model with weights given as tensors instead of its variables.

    Attributes:
      names: Every weight's name.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        name_of = {id(v): name for name, v in named_variables(model).items()}
        self._trainable = [name_of[id(v)] for v in model.trainable_variables]
        self._other = [name_of[id(v)] for v in model.non_trainable_variables]
        self.names = frozenset(name_of.values())

    def __call__(self, weights: Mapping[str, tf.Tensor], inputs: Any) -> Any:
        """Runs the model.

        Args:
          weights: A tensor for each of `names`; others are passed over.
          inputs: What the model takes.

        Returns:
          What the model gives.
        """
        return self.run(weights, inputs)[0]

    def run(
        self,
        weights: Mapping[str, tf.Tensor],
        inputs: Any,
        training: bool | None = None,
    ) -> tuple[Any, dict[str, tf.Tensor], list[tf.Tensor]]:
        """Runs the model, and tells what else it gives.

        Args:
          weights: As in a call.
          inputs: As in a call.
          training: What layers as BatchNormalization and Dropout are told.

        Returns:
          The outputs; the weights that the model assigned, by name; and its own losses,
          those of regularizers among them.
        """
        given = [weights[name] for name in self._other]
        with _unrolled(self._model):
            outputs, after, losses = self._model.stateless_call(
                [weights[name] for name in self._trainable],
                given,
                inputs,
                training=training,
                return_losses=True,
            )
        assigned = {
            name: new
            for name, old, new in zip(self._other, given, after)
            if new is not old
        }
        return outputs, assigned, losses


@contextlib.contextmanager
def _unrolled(model: keras.Model) -> Iterator[None]:
    """Recurrent layers take step after step, without a loop, while it lasts.

    A loop has no gradient in builtin operators; every length is known here.
    """
    # Private, but the only way to the layers that wrappers and layers hold.
    layers = [r for r in model._flatten_layers() if isinstance(r, keras.layers.RNN)]
    before = [layer.unroll for layer in layers]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in zip(layers, before):
            layer.unroll = unroll
