"""The reference for training: the Keras model, `tf.GradientTape`, Keras' optimizers.

Nothing of `signatures.gradients` or `signatures.optimizers` runs here: gradients are
TensorFlow's own kernels, steps are `keras.optimizers`'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from signatures import optimizers, stateless

# Optimizer -> our slot's name -> the attribute of Keras' optimizer that lists them.
_SLOTS = {
    "adam": {"m": "_momentums", "v": "_velocities"},
    "adamw": {"m": "_momentums", "v": "_velocities"},
    "momentum": {"velocity": "momentums"},
    "sgd": {},
}


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A training run.

    Attributes:
      rate: The learning rate.
      losses: [steps] float64, before each step.
      norms: [steps] float64, the gradients' norms before clipping.
      states: Steps done -> every variable by name, slots included, the step left out.
    """

    rate: float
    losses: np.ndarray
    norms: np.ndarray
    states: Mapping[int, Mapping[str, np.ndarray]]


def train(
    model: keras.Model,
    weights: Mapping[str, np.ndarray],
    trained: Sequence[str],
    loss: Callable,
    batch: Mapping[str, np.ndarray],
    settings: optimizers.Settings,
    steps: int,
) -> Trajectory:
    """Trains on one batch.

    Args:
      model: From image to outputs; its variables are changed.
      weights: Every weight of the model.
      trained: Names of the weights that train.
      loss: From outputs and targets to the losses, `loss` among them.
      batch: The inputs of `train` by name, without the learning rate.
      settings: The optimizer.
      steps: How many.

    Returns:
      The run, at a rate that moves the weights by about 1e-3 of their size a step.
    """
    named = stateless.named_variables(model)
    for name, variable in named.items():
        variable.assign(weights[name])
    variables = [named[name] for name in trained]
    targets = {n: tf.constant(v) for n, v in batch.items() if n != "image"}
    image = tf.constant(batch["image"])

    @tf.function(autograph=False)
    def gradients():
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            total = loss(model(image), **targets)["loss"]
        found = tape.gradient(total, values, unconnected_gradients="zero")
        norm = tf.linalg.global_norm(found)
        if settings.clip_norm:
            found, _ = tf.clip_by_global_norm(found, settings.clip_norm, norm)
        return total, norm, found

    _, _, first = gradients()
    rate = _rate([v.numpy() for v in variables], [g.numpy() for g in first], settings)
    optimizer = _optimizer(settings, rate)
    optimizer.build(variables)
    losses, norms = [], []
    states = {0: _state(optimizer, settings.name, trained, variables)}
    for step in range(1, steps + 1):
        total, norm, found = gradients()
        optimizer.apply(found, variables)
        losses.append(float(total))
        norms.append(float(norm))
        if step in (1, steps):
            states[step] = _state(optimizer, settings.name, trained, variables)
    return Trajectory(rate, np.array(losses), np.array(norms), states)


def _rate(
    weights: list[np.ndarray],
    gradients: list[np.ndarray],
    settings: optimizers.Settings,
) -> float:
    """A rate at which one step moves the weights by 1e-3 of their size."""
    size = float(np.sqrt(sum(np.sum(w.astype(np.float64) ** 2) for w in weights)))
    count = sum(w.size for w in weights)
    slope = float(np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gradients)))
    if settings.name.startswith("adam"):
        slope = count**0.5  # Adam's first step moves every weight by the rate
    rate = 1e-3 * max(size, 1e-2 * count**0.5) / max(slope, 1e-12)
    return float(np.float32(rate))


def _optimizer(
    settings: optimizers.Settings, rate: float
) -> keras.optimizers.Optimizer:
    adam = {
        "learning_rate": rate,
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
    }
    if settings.name == "adam":
        return keras.optimizers.Adam(**adam)
    if settings.name == "adamw":
        return keras.optimizers.AdamW(**adam, weight_decay=settings.weight_decay)
    momentum = settings.momentum if settings.name == "momentum" else 0.0
    return keras.optimizers.SGD(rate, momentum=momentum)


def _state(
    optimizer: keras.optimizers.Optimizer,
    name: str,
    trained: Sequence[str],
    variables: Sequence[keras.Variable],
) -> dict[str, np.ndarray]:
    """Weights and slots under the names that the file has."""
    state = {n: v.numpy().copy() for n, v in zip(trained, variables, strict=True)}
    for slot, attribute in _SLOTS[name].items():
        values = getattr(optimizer, attribute)
        for weight, value in zip(trained, values, strict=True):
            state[f"{weight}/{slot}"] = value.numpy().copy()
    return state
