"""The reference for training: the Keras model, `tf.GradientTape`, Keras' optimizers.

Nothing of `signatures.gradients` or `signatures.optimizers` runs here: gradients are
TensorFlow's own kernels, steps are `keras.optimizers`'.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

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
      states: Steps done -> every variable by name, slots included, the step left out.
    """

    rate: float
    losses: np.ndarray
    states: Mapping[int, Mapping[str, np.ndarray]]


class Reference:
    """The Keras model in float32, and in float64 to tell how far rounding reaches."""

    def __init__(
        self,
        build: Callable[[], keras.Model],
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        loss: Callable,
    ) -> None:
        """Builds the model once for each precision.

        Args:
          build: Makes the model, from image to outputs.
          weights: Every weight of it.
          trained: Names of the weights that train.
          loss: From outputs and targets to the losses, `loss` among them.
        """
        self._weights, self._trained, self._loss = weights, tuple(trained), loss
        self._models, self._gradients = {}, {}
        for dtype in ("float32", "float64"):
            with _precision(dtype):
                self._models[dtype] = build()
            self._gradients[dtype] = tf.function(
                functools.partial(self._differentiate, dtype), autograph=False
            )

    def sensitivity(self, batch: Mapping[str, np.ndarray]) -> float:
        """How much rounding moves the gradient: float32 against float64.

        A PReLU's input within rounding of zero takes one slope in one arithmetic and
        the other in the next; where one does, no two programs agree.

        Args:
          batch: The inputs of `train` by name, without the learning rate.

        Returns:
          The largest max|difference| / max|gradient| of any trained weight.
        """
        found = {}
        for dtype in self._models:
            self._reset(dtype)
            _, gradients = self._gradients[dtype](*_tensors(batch, dtype))
            found[dtype] = [g.numpy() for g in gradients]
        return max(
            float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))
            for one, other in zip(found["float32"], found["float64"])
        )

    def train(
        self,
        batch: Mapping[str, np.ndarray],
        settings: optimizers.Settings,
        steps: int,
        dtype: str,
    ) -> Trajectory:
        """Trains on one batch.

        Args:
          batch: The inputs of `train` by name, without the learning rate.
          settings: The optimizer.
          steps: How many.
          dtype: `float32` or `float64`.

        Returns:
          The run, at a rate at which the weight that moves most moves by 1e-3 of its
          size in the first step.
        """
        variables = self._reset(dtype)
        inputs = _tensors(batch, dtype)
        rate = self._rate(batch, settings)
        optimizer = _optimizer(settings, rate)
        with _precision(dtype):
            optimizer.build(variables)
        states = {0: _state(optimizer, settings.name, self._trained, variables)}
        losses = []
        for step in range(1, steps + 1):
            loss, gradients = self._gradients[dtype](*inputs)
            if settings.clip_norm:
                gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
            optimizer.apply(gradients, variables)
            losses.append(float(loss))
            if step in (1, steps):
                states[step] = _state(
                    optimizer, settings.name, self._trained, variables
                )
        return Trajectory(rate, np.array(losses), states)

    def _reset(self, dtype: str) -> list[keras.Variable]:
        """Gives every variable its first value; returns those that train."""
        named = stateless.named_variables(self._models[dtype])
        for name, variable in named.items():
            variable.assign(self._weights[name])
        return [named[name] for name in self._trained]

    def _differentiate(self, dtype, image, targets):
        model = self._models[dtype]
        named = stateless.named_variables(model)
        values = [named[name].value for name in self._trained]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._loss(model(image), **targets)["loss"]
        return loss, tape.gradient(loss, values, unconnected_gradients="zero")

    def _rate(
        self, batch: Mapping[str, np.ndarray], settings: optimizers.Settings
    ) -> float:
        self._reset("float32")
        _, gradients = self._gradients["float32"](*_tensors(batch, "float32"))
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
        sizes, slopes = [], []
        for name, gradient in zip(self._trained, gradients):
            size = float(np.abs(self._weights[name]).max())
            if size:  # New class heads start at zero: they have no size to speak of.
                sizes.append(size)
                slopes.append(float(np.abs(gradient).max()))
        if not sizes:
            return 1e-3
        if settings.name.startswith("adam"):
            rate = 1e-3 * min(sizes)  # its first step is the rate
        else:
            rate = 1e-3 / max(s / w for s, w in zip(slopes, sizes))
        return float(np.float32(rate))


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Keras layers and slots made inside are of this dtype."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floatx)


def _tensors(batch: Mapping[str, np.ndarray], dtype: str):
    """The image, and the targets by name."""
    tensors = {name: tf.constant(value, dtype) for name, value in batch.items()}
    return tensors.pop("image"), tensors


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
