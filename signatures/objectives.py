"""What a model that is no detector minimises: a loss by name, Keras' own, a function.

Each gives one number a sample, so that a sample's weight can take it out: a last batch
that is filled up counts as the batch that it was.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Smaller than any sum of weights, so that a batch of padding has the loss 0.
_LEAST_WEIGHT = 1e-12


def softmax_cross_entropy(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """-sum_k y_k log softmax(outputs)_k; logits and y [..., K]."""
    return tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=outputs)


def sparse_softmax_cross_entropy(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The same from logits [..., K] and classes y [...] int32."""
    hot = tf.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
    return softmax_cross_entropy(outputs, hot)


def sigmoid_cross_entropy(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Of independent yes-or-no logits; y of their shape."""
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=outputs)


def mean_squared_error(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """(outputs - y)**2."""
    return tf.math.squared_difference(outputs, y)


def mean_absolute_error(outputs: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """abs(outputs - y)."""
    return tf.abs(outputs - y)


LOSSES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "mean_absolute_error": mean_absolute_error,
    "mean_squared_error": mean_squared_error,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
    "sparse_softmax_cross_entropy": sparse_softmax_cross_entropy,
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """A loss, and how it is called.

    Attributes:
      function: (outputs, y) -> one loss a sample, [B, ...], or a scalar.
      sparse: Whether y are classes rather than of the outputs' shape.
      weighted: Whether it takes the samples' weights as a third argument.
      activation: What it applies to the outputs itself, `softmax` or `sigmoid`, where
        that is known.
    """

    function: Callable[..., tf.Tensor]
    sparse: bool = False
    weighted: bool = False
    activation: str = ""

    def __call__(self, outputs: Any, y: Any, sample_weights: tf.Tensor) -> tf.Tensor:
        """The weighted mean over the samples, a scalar.

        Raises:
          ValueError: If the loss is neither a scalar nor of one row a sample.
        """
        if self.weighted:
            return self.function(outputs, y, sample_weights)
        loss = self.function(outputs, y)
        batch = sample_weights.shape[0]
        if loss.shape.rank == 0:
            return loss
        if loss.shape[0] != batch:
            raise ValueError(
                f"A loss must be a scalar or have one row for each of the {batch} "
                f"samples. Received: the shape {loss.shape}."
            )
        each = tf.reduce_mean(tf.reshape(loss, [batch, -1]), axis=1)
        total = tf.maximum(tf.reduce_sum(sample_weights), _LEAST_WEIGHT)
        return tf.reduce_sum(each * sample_weights) / total


def of(loss: Any) -> Objective:
    """Reads what a user gave.

    Args:
      loss: A name of `LOSSES`; an instance of `keras.losses.Loss`, whose reduction does
        not count; a function of `keras.losses`; or a function (outputs, y) or
        (outputs, y, sample_weights).

    Raises:
      ValueError: If it is none of these.
    """
    if isinstance(loss, str) and loss in LOSSES:
        applied = loss.removeprefix("sparse_").partition("_cross_entropy")
        return Objective(
            LOSSES[loss],
            sparse=loss.startswith("sparse"),
            activation=applied[0] if applied[1] else "",
        )
    if isinstance(loss, keras.losses.Loss):
        sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        logits = getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
        binary = isinstance(loss, keras.losses.BinaryCrossentropy)
        return Objective(
            lambda outputs, y: loss.call(y, outputs),
            sparse=sparse,
            activation=("sigmoid" if binary else "softmax") if logits else "",
        )
    if callable(loss) and not isinstance(loss, type):
        parameters = inspect.signature(loss).parameters
        if next(iter(parameters), "") == "y_true":  # Keras' own, the other way round
            sparse = loss.__name__.startswith("sparse")
            return Objective(lambda outputs, y: loss(y, outputs), sparse=sparse)
        needed = [p for p in parameters.values() if p.default is p.empty]
        return Objective(loss, weighted=len(needed) > 2)
    raise ValueError(
        f"A loss must be one of {', '.join(LOSSES)}, a keras.losses.Loss or a function "
        f"(outputs, y). Received: {loss!r}."
    )
