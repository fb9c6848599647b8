"""The reference for training: the Keras model, `tf.GradientTape`, Keras' optimizers.

Nothing of `signatures.gradients` or `signatures.optimizers` runs here: gradients are
TensorFlow's own kernels, steps are `keras.optimizers`'.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from signatures import optimizers, stateless

# Optimizer -> our slot's name -> the attribute of Keras' optimizer that lists them.
_SLOTS: dict[str, dict[str, str]] = {
    "adam": {"m": "_momentums", "v": "_velocities"},
    "adamw": {"m": "_momentums", "v": "_velocities"},
    "momentum": {"velocity": "momentums"},
    "sgd": {},
}


class Reference:
    """The Keras model in float32, and in float64 to tell how far rounding reaches."""

    def __init__(
        self,
        build: Callable[[], keras.Model],
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        loss: Callable,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Builds the model once for each precision.

        Args:
          build: Makes the model, from image to outputs.
          weights: Every weight of it.
          trained: Names of the weights that train.
          loss: From outputs and targets to the losses, `loss` among them.
          rates: Multiple of the learning rate of each weight where it is not 1.
        """
        self._weights, self._trained, self._loss = weights, tuple(trained), loss
        self._rates = [(rates or {}).get(name, 1.0) for name in self._trained]
        self._models, self._gradients = {}, {}
        self._optimizers: dict = {}
        for dtype in ("float32", "float64"):
            with precision(dtype):
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

    def straight(
        self, batch: Mapping[str, np.ndarray], shares: Sequence[float], within: float
    ) -> float:
        """How far the loss goes along its gradient as the gradient says.

        In float64, by central differences about the first weights. The farther weights
        move, the less a finite difference in float32 loses to rounding.

        Args:
          batch: The inputs of `train` by name, without the learning rate.
          shares: Changes of the loss, from end to end, as shares of it.
          within: How far the change may be from the share, relative.

        Returns:
          The largest such share, or the smallest where there is none.
        """
        variables = self._reset("float64")
        image, targets = _tensors(batch, "float64")
        loss, gradients = self._gradients["float64"](image, targets)
        squares = max(sum(float(tf.reduce_sum(g * g)) for g in gradients), 1e-60)
        start = [variable.numpy() for variable in variables]
        for share in sorted(shares, reverse=True):
            asked = share * abs(float(loss))
            measured = 0.0
            for sign in (1.0, -1.0):
                for variable, value, gradient in zip(variables, start, gradients):
                    variable.assign(value + sign * asked / 2 / squares * gradient)
                found = self._loss(self._models["float64"](image), **targets)
                measured += sign * float(found["loss"])
            if abs(measured - asked) <= within * asked:
                return share
        return min(shares)

    def step(
        self,
        state: Mapping[str, np.ndarray],
        batch: Mapping[str, np.ndarray],
        settings: optimizers.Settings,
        rate: float,
        dtype: str,
        only: Sequence[str] = (),
    ) -> tuple[float, dict[str, np.ndarray]]:
        """Takes one training step from any state.

        Args:
          state: Every variable of the file by name: weights, slots, the step.
          batch: The inputs of `train` by name, without the learning rate.
          settings: The optimizer.
          rate: The learning rate.
          dtype: `float32` or `float64`.
          only: Names of the weights that move; none stands for all that train.

        Returns:
          The loss before the step, and the state after it, but for the step's number.
        """
        variables = self._reset(dtype)
        optimizer = self._optimizer(settings, dtype, variables)
        slots = _slots(optimizer, settings)

        def set_state() -> None:
            for name, variable in zip(self._trained, variables):
                variable.assign(state[name])
            for slot, values in slots.items():
                for name, value in zip(self._trained, values, strict=True):
                    value.assign(state[f"{name}/{slot}"])
            optimizer.iterations.assign(int(state["step"]))

        set_state()
        loss, gradients = self._gradients[dtype](*_tensors(batch, dtype))
        moved = set(only or self._trained)
        gradients = [
            gradient if name in moved else tf.zeros_like(gradient)
            for name, gradient in zip(self._trained, gradients)
        ]
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
        after = {n: np.asarray(v) for n, v in state.items() if n != "step"}
        # Keras' optimizers have one rate for all: a step of all for each rate, of which
        # the weights that learn at it are taken.
        for multiple in sorted(set(self._rates)):
            set_state()
            optimizer.learning_rate.assign(rate * multiple)
            optimizer.apply(gradients, variables)
            for place, name in enumerate(self._trained):
                if self._rates[place] == multiple and name in moved:
                    after[name] = variables[place].numpy().copy()
                    for slot, values in slots.items():
                        after[f"{name}/{slot}"] = values[place].numpy().copy()
        return float(loss), after

    def fresh_state(self, settings: optimizers.Settings) -> dict[str, Any]:
        """The state that a fresh file starts from."""
        state: dict[str, Any] = {n: np.asarray(self._weights[n]) for n in self._trained}
        for slot in _SLOTS[settings.name]:
            for name in self._trained:
                state[f"{name}/{slot}"] = np.zeros_like(state[name])
        return {**state, "step": np.int32(0)}

    def _optimizer(
        self,
        settings: optimizers.Settings,
        dtype: str,
        variables: list[keras.Variable],
    ) -> keras.optimizers.Optimizer:
        key = (settings, dtype)
        if key not in self._optimizers:
            made = keras_optimizer(settings)
            with precision(dtype):
                made.build(variables)
            self._optimizers[key] = made
        return self._optimizers[key]

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

    def rate(
        self, batch: Mapping[str, np.ndarray], settings: optimizers.Settings
    ) -> float:
        """A learning rate for a batch and an optimizer.

        Returns:
          The rate at which the weight that moves most moves by 1e-3 of its size in the
          first step; exact in float32.
        """
        self._reset("float32")
        _, gradients = self._gradients["float32"](*_tensors(batch, "float32"))
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
        sizes, slopes = [], []
        for name, gradient, multiple in zip(self._trained, gradients, self._rates):
            size = float(np.abs(self._weights[name]).max()) / multiple
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
def precision(dtype: str) -> Iterator[None]:
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


def keras_optimizer(settings: optimizers.Settings) -> keras.optimizers.Optimizer:
    """Keras' own, its learning rate to be set."""
    adam = {
        "beta_1": settings.beta_1,
        "beta_2": settings.beta_2,
        "epsilon": settings.epsilon,
    }
    if settings.name == "adam":
        return keras.optimizers.Adam(**adam)
    if settings.name == "adamw":
        return keras.optimizers.AdamW(**adam, weight_decay=settings.weight_decay)
    momentum = settings.momentum if settings.name == "momentum" else 0.0
    return keras.optimizers.SGD(momentum=momentum)


def _slots(
    optimizer: keras.optimizers.Optimizer, settings: optimizers.Settings
) -> dict[str, list[keras.Variable]]:
    """Our slot's name -> Keras' variables for it, in the order of the weights."""
    return {
        slot: getattr(optimizer, attribute)
        for slot, attribute in _SLOTS[settings.name].items()
    }
