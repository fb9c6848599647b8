"""--ops=select: TensorFlow's own gradients and checkpoints, through the Flex delegate.

This is the way of TensorFlow's on-device training overview, for comparison with ours
and for apps that carry the delegate. Source: the overview's notebook,
tensorflow/lite/g3doc/examples/on_device_training/overview.ipynb; unlike there,
variables are saved under names that do not collide, and slots and step are saved too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from checkpoints import manifest


class Select:
    """To be inherited before a `module.Module`: its file needs the Flex delegate."""

    ops = "select"
    targets: tuple[str, ...] = (manifest.ANY,)  # The kernels are TensorFlow's.
    # Of the module.
    _state: list[tuple[str, str, tf.Variable]]
    _read: Any
    _assign: Any

    def _forward(
        self, function: Callable[..., Any], weights: Sequence[tf.Tensor], *args: Any
    ) -> Any:
        return function(weights, *args)

    def _differentiate(
        self,
        function: Callable[..., Any],
        weights: Sequence[tf.Tensor],
        *args: Any,
        others: Sequence[tf.Tensor] = (),
    ) -> tuple[Any, list[tf.Tensor]]:
        outputs = function([*weights, *others], *args)
        loss = tf.nest.flatten(outputs)[0]
        gradients = tf.gradients(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return outputs, gradients

    def _saved_name(self, name: str) -> str:
        """The name of a variable in the checkpoint."""
        return name

    def _save(self, tensors):
        path = tensors["checkpoint_path"]
        tf.raw_ops.Save(
            filename=path,
            tensor_names=[self._saved_name(name) for name, _, _ in self._state],
            data=list(self._read().values()),
        )
        return {"checkpoint_path": path}

    def _restore(self, tensors):
        """Reads everything, then assigns: a checkpoint is taken whole or not at all."""
        path = tensors["checkpoint_path"]
        restored = {
            name: tf.raw_ops.Restore(
                file_pattern=path,
                tensor_name=self._saved_name(name),
                dt=variable.dtype,
            )
            for name, _, variable in self._state
        }
        self._assign(restored)
        return {"restored": tf.constant(len(self._state), tf.int32)}
