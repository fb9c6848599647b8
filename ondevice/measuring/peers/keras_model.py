"""The rebuilt Keras model in TensorFlow: `train_on_batch`, and a compiled function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints import tflite_file, weights
from checkpoints import manifest as manifests
from ondevice import fresh
from ondevice.measuring import step_inputs
from ondevice.rebuild import network
from ondevice.verification import reference
from signatures import contract, stateless

TRAIN_ON_BATCH, FUNCTION = "train_on_batch", "function"


def prepare(options: Mapping[str, Any]) -> Callable[[], Any]:
    """Draws the model that a trainable file was made of, and traces its step.

    Args:
      options: "file", the path of the trainable file; "threads"; "way", one of the
        constants above.
    """
    tf.config.threading.set_intra_op_parallelism_threads(options["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    file = tflite_file.read(options["file"])
    manifest = manifests.of_file(file)
    assert manifest is not None
    return step(file, manifest, options["way"])


def step(
    file: tflite_file.TfliteFile, manifest: manifests.Manifest, way: str
) -> Callable[[], Any]:
    """A training step like the file's, same loss, optimizer and weights that train."""
    recipe = fresh.recipe_of(manifest)
    inner = network.build(recipe.layers, recipe.spec.name)
    named = stateless.named_variables(inner)
    state = weights.of_trainable(file, manifest)
    for name, variable in named.items():
        variable.trainable = name in recipe.trained
        if name in state:
            variable.assign(state[name])
    optimizer = reference.keras_optimizer(recipe.settings)
    optimizer.learning_rate = step_inputs.LEARNING_RATE
    optimizer.global_clipnorm = recipe.settings.clip_norm or None
    arrays = step_inputs.of_signature(manifest, contract.EVALUATE)
    image = arrays.pop("image")
    if way == TRAIN_ON_BATCH:
        model = _Trained(inner, recipe.loss)
        model.compile(optimizer)
        call = lambda: model.train_on_batch(image, arrays)  # noqa: E731
    else:
        variables = [named[name] for name in recipe.trained]
        call = _function(inner, recipe.loss, optimizer, variables, image, arrays)
    call()  # Traces.
    return call


class _Trained(keras.Model):
    """A model with a loss of all its outputs together."""

    def __init__(self, inner: keras.Model, loss: Callable) -> None:
        super().__init__(name="peer")
        self.inner, self.loss_of = inner, loss

    def call(self, image):
        return self.inner(image)

    def compute_loss(self, x=None, y=None, y_pred=None, *_, **__):
        return self.loss_of(y_pred, **y)["loss"]


def _function(
    model: keras.Model,
    loss: Callable,
    optimizer: keras.optimizers.Optimizer,
    variables: list[keras.Variable],
    image: np.ndarray,
    targets: Mapping[str, np.ndarray],
) -> Callable[[], Any]:
    optimizer.build(variables)

    @tf.function(autograph=False)
    def compiled(image, targets):
        with tf.GradientTape() as tape:
            found = loss(model(image, training=True), **targets)["loss"]
        gradients = tape.gradient(found, [v.value for v in variables])
        optimizer.apply(gradients, variables)
        return found

    # From numpy each time, as an interpreter gets them.
    return lambda: compiled(
        tf.constant(image), {name: tf.constant(a) for name, a in targets.items()}
    ).numpy()
