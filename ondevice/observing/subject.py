"""A network that observations are made on: its files, right and faulty; its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from ondevice.observing import runs

# What may be wrong with a file that was converted.
RIGHT = "right"
SWAPPED = "swapped"  # the loss is given prediction and target the other way round
TWICE = "twice"  # a softmax goes before a loss that takes another
REVERSED = "reversed"  # gradients pass through a REVERSE_V2 over two axes, and back
COLLIDING = "colliding"  # variables are saved under Keras 3's names

# Keeps a target away from 0 in a logarithm, as Keras does (keras.config.epsilon()).
_LEAST = 1e-7


@dataclasses.dataclass(frozen=True)
class Variant:
    """Which file of a subject.

    Attributes:
      ops: `builtin` or `select`.
      whole: Whether every weight trains; else the last layers alone.
      fault: One of the faults above.
    """

    ops: str = "builtin"
    whole: bool = True
    fault: str = RIGHT


class Steps(Protocol):
    """Takes steps in TensorFlow, as `reference.Reference` does."""

    def step(
        self,
        state: Mapping[str, Any],
        batch: Mapping[str, np.ndarray],
        settings: Any,
        rate: float,
        dtype: str,
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Returns the loss before the step, and the state after it but the number."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to observe.

    Attributes:
      name: Of the network, as `networks.make` takes it.
      seed: Of its pictures.
      model: Makes the trainable file of a variant; makes each once.
      reconvert: Makes a new fresh trainable file from a state, through Keras.
      weights: What TensorFlow held when the right file was converted, by name.
      keras: Of the same weights, for steps in TensorFlow.
      batches: What `train` takes, but for the learning rate.
      rate: A learning rate at which it learns.
      gentle: One at which logits stay small for a few dozen steps.
      fast: One at which they grow large, and the right loss falls all the same.
      probe: What `infer` takes.
      settings: Of the optimizer, as `keras` takes them.
    """

    name: str
    seed: int
    model: Callable[[Variant], bytes]
    reconvert: Callable[[Mapping[str, np.ndarray]], bytes]
    weights: Mapping[str, np.ndarray]
    keras: Callable[[], Steps]
    batches: Sequence[Mapping[str, np.ndarray]]
    rate: float
    gentle: float
    fast: float
    probe: Mapping[str, np.ndarray]
    settings: Any


def swapped_entropy(probabilities: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Keras' categorical cross-entropy given its arguments the other way round.

    Both official samples call `loss_fn(prediction, y)` where Keras has
    `loss(y_true, y_pred)`: -sum(prediction * log(y)), y kept away from zero.

    Args:
      probabilities: [..., K] float32, the model's.
      wanted: [..., K], one-hot.
    """
    return -tf.reduce_sum(probabilities * tf.math.log(tf.maximum(wanted, _LEAST)), -1)


def softmax(logits: tf.Tensor) -> tf.Tensor:
    """exp(l_k) / sum_j exp(l_j), over the last axis."""
    powers = tf.exp(logits - tf.stop_gradient(tf.reduce_max(logits, -1, True)))
    return powers / tf.reduce_sum(powers, -1, keepdims=True)


def turned_over(gradient: tf.Tensor) -> tf.Tensor:
    """The gradient itself, by way of a REVERSE_V2 over two axes.

    tflite-runtime 2.14 computes that operator wrongly; reversing again by a choice of
    rows, which every runtime does right, undoes a right one.
    """
    if gradient.shape.rank < 2:
        return gradient
    turned = tf.reverse(gradient, [0, 1])
    for axis in (0, 1):
        turned = tf.gather(turned, range(gradient.shape[axis])[::-1], axis=axis)
    return turned


class Colliding:
    """To be inherited first: saves as the overview does, by Keras 3's `weight.name`."""

    def _saved_name(self, name: str) -> str:
        return runs.keras_name(name)
