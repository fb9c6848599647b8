"""The reference: Keras' own layers, losses and optimizers under `tf.GradientTape`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import random as keras_random

from ondevice.verification import reference
from signatures import stateless
from tests import keras_models


def build(case: keras_models.Case, dtype: str = "float32") -> keras.Model:
    """The model; the same weights and names whenever it is built in float32."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    with reference.precision(dtype):
        return case.build()


class Reference:
    """A Keras model that trains in float64, from weights that are given."""

    def __init__(
        self,
        case: keras_models.Case,
        weights: Mapping[str, np.ndarray],
        optimizer: keras.optimizers.Optimizer,
        dtype: str = "float64",
    ) -> None:
        self.model = build(case, dtype)
        self._case, self._optimizer, self._dtype = case, optimizer, dtype
        self._named = stateless.named_variables(self.model)
        for name, variable in self._named.items():
            if name in weights:
                variable.assign(weights[name])
        with reference.precision(dtype):
            optimizer.build(self.model.trainable_variables)

    def step(
        self, inputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]
    ) -> float:
        """Takes a step; returns the loss before it."""
        images = [self._cast(x) for x in inputs]
        targets = [self._cast(y) for y in targets]
        single = len(images) == 1
        with tf.GradientTape() as tape:
            outputs = self.model(images[0] if single else images, training=True)
            loss = self._loss(outputs, targets)
        variables = self.model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        self._optimizer.apply(gradients, variables)
        return float(loss)

    @property
    def has_statistics(self) -> bool:
        """Whether training takes a batch's statistics, and evaluation others."""
        return any(
            isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for layer in self.model._flatten_layers()
        )

    def state(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(v) for name, v in self._named.items()}

    def infer(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        images = [self._cast(x) for x in inputs]
        outputs = self.model(images[0] if len(images) == 1 else images, training=False)
        return [np.asarray(y) for y in keras.tree.flatten(outputs)]

    def _loss(self, outputs: Any, targets: Sequence[tf.Tensor]) -> tf.Tensor:
        losses = self._case.keras_loss
        losses = losses if isinstance(losses, list) else [losses]
        outputs = keras.tree.flatten(outputs)
        # Not f(y, out): that is float32 whatever it is given.
        terms = [
            tf.reduce_mean(f.call(y, out))
            for f, y, out in zip(losses, targets, outputs, strict=True)
        ]
        return tf.add_n([*terms, *self.model.losses])

    def _cast(self, array: np.ndarray) -> tf.Tensor:
        kind = self._dtype if array.dtype.kind == "f" else array.dtype
        return tf.constant(array, kind)


def uniform(shape: tuple[int, ...], seed: int, step: int, draw: int) -> np.ndarray:
    """What `randomness.Generator` draws as its `draw`-th tensor, one number at a time.

    Written from the description, in Python's own integers.
    """
    total = int(np.prod(shape, dtype=int))
    columns = shape[-1] if len(shape) > 1 else min(total, 4096)
    index = np.arange(total).astype(object)
    row, column = index // columns, index % columns
    parts = []
    for prime in (46337, 46307):
        key = pow(seed % prime + 12347, 3, prime)
        key = pow(step % prime + key + 31337, 3, prime)
        key = pow(key + draw * 20011 % prime, 3, prime)

        def cube(x, prime=prime):
            return x * x * x % prime

        one = cube(cube(row * 12347 % prime + key) + 31337)
        two = cube(cube(column * 31337 % prime + key + 12347) + 20011)
        mixed = cube(cube(one + two) + key).astype(np.float32)
        parts.append(mixed * np.float32(1 / prime))
    both = parts[0] + parts[1]
    return (both - np.floor(both)).reshape(shape)


@contextlib.contextmanager
def drawn(seed: int, step: int) -> Iterator[None]:
    """Keras' dropout draws what a step of the file draws."""
    count = 0

    def dropout(inputs, rate, noise_shape=None, **_):
        nonlocal count
        count += 1
        shape = [
            size if kept is None else kept
            for size, kept in zip(inputs.shape, noise_shape or [None] * 9)
        ]
        keep = uniform(tuple(shape), seed, step, count) >= np.float32(rate)
        return inputs * tf.constant(keep, inputs.dtype) / (1 - rate)

    with mock.patch.object(keras_random, "dropout", dropout):
        yield
