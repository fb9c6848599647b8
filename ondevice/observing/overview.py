"""The overview's small network as a subject: ten digits in 28 x 28 pixels.

The pictures are drawn. Source: TensorFlow's on-device training overview,
tensorflow/lite/g3doc/examples/on_device_training/overview.ipynb.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ondevice import convert
from ondevice.observing import pictures, subject
from ondevice.verification import reference
from signatures import keras_model, objectives, optimizers, trainable

NAME = "overview"
_BATCH, _BATCHES, _CLASSES = 32, 2, 10
_RATE = 1e-3  # Adam's, the one that Keras has for a default.
_FAST = 0.1


class _Reversed(keras_model.KerasTrainable):
    """Its gradients pass through REVERSE_V2."""

    def _differentiate(self, function, weights, *args, **options):
        found, gradients = super()._differentiate(function, weights, *args, **options)
        return found, [subject.turned_over(gradient) for gradient in gradients]


class _Colliding(subject.Colliding, keras_model.SelectKeras):
    """Its variables are saved under names that collide, as the overview's are."""


def make(seed: int) -> subject.Subject:
    """The network with random weights, with Adam.

    Args:
      seed: Of the pictures, and of the weights.
    """
    settings = optimizers.Settings("adam", clip_norm=0.0)
    losses = {
        subject.SWAPPED: lambda outputs, y: subject.swapped_entropy(
            subject.softmax(outputs), y
        ),
        subject.TWICE: lambda outputs, y: objectives.softmax_cross_entropy(
            subject.softmax(outputs), y
        ),
    }
    build = functools.partial(_network, seed)

    def module(variant: subject.Variant) -> keras_model.KerasTrainable:
        network = build()
        network.get_layer("hidden").trainable = variant.whole
        loss = losses.get(variant.fault, "softmax_cross_entropy")
        faulty = {subject.REVERSED: _Reversed, subject.COLLIDING: _Colliding}
        if variant.fault in faulty:
            return faulty[variant.fault](network, loss, settings, _BATCH)
        return trainable.of_keras(network, loss, settings, _BATCH, ops=variant.ops)

    @functools.cache
    def model(variant: subject.Variant) -> bytes:
        return _written(module(variant))

    def reconvert(state: Mapping[str, np.ndarray]) -> bytes:
        made = module(subject.Variant())
        made.load(state)
        return _written(made)

    weights = module(subject.Variant()).parameters()
    random = np.random.default_rng(seed)
    batches = [_batch(random) for _ in range(_BATCHES)]
    return subject.Subject(
        name=NAME,
        seed=seed,
        model=model,
        reconvert=reconvert,
        weights=weights,
        keras=lambda: _InKeras(build, weights),
        batches=batches,
        rate=_RATE,
        gentle=_RATE,
        fast=_FAST,
        probe={"x": batches[0]["x"][:1]},
        settings=settings,
    )


def _network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, "relu", name="hidden"),
            keras.layers.Dense(_CLASSES, name="logits"),
        ],
        name=NAME,
    )


def _written(module: keras_model.KerasTrainable) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        convert.write(module, directory)
        return (pathlib.Path(directory) / "model.tflite").read_bytes()


def _batch(random: np.random.Generator) -> dict[str, np.ndarray]:
    """What `train` takes, but for the rate."""
    shown = [pictures.digit(random) for _ in range(_BATCH)]
    numbers = [number for _, number in shown]
    return {
        "x": np.stack([pixels for pixels, _ in shown]),
        "y": np.eye(_CLASSES, dtype=np.float32)[numbers],
        "sample_weights": np.ones(_BATCH, np.float32),
    }


class _InKeras:
    """Steps in TensorFlow, of batches as the file takes them."""

    def __init__(self, build: Any, weights: Mapping[str, np.ndarray]) -> None:
        def loss(outputs: tf.Tensor, y: tf.Tensor, sample_weights: tf.Tensor):
            each = objectives.softmax_cross_entropy(outputs, y)
            total = tf.reduce_sum(sample_weights * each)
            return {"loss": total / tf.reduce_sum(sample_weights)}

        self._reference = reference.Reference(build, weights, list(weights), loss)

    def step(self, state, batch, settings, rate, dtype):
        """As `reference.Reference.step`."""
        named = {"image" if n == "x" else n: array for n, array in batch.items()}
        return self._reference.step(state, named, settings, rate, dtype)
