"""The reference for training: the Keras model, `tf.GradientTape`, Keras' optimizers.

Nothing of `signatures.gradients` or `signatures.optimizers` runs here: gradients are
TensorFlow's own kernels, steps are `keras.optimizers`'.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        self._trained, self._loss = tuple(trained), loss
        self._first = {name: weights[name] for name in self._trained}
        self._rates = {name: (rates or {}).get(name, 1.0) for name in self._trained}
        self._models: dict[str, keras.Model] = {}
        self._variables: dict[str, list[keras.Variable]] = {}
        self._gradients: dict[str, Callable] = {}
        for dtype in ("float32", "float64"):
            with precision(dtype):
                self._models[dtype] = build()
            named = stateless.named_variables(self._models[dtype])
            for name, variable in named.items():
                variable.assign(weights[name])
            self._variables[dtype] = [named[name] for name in self._trained]
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
            _, gradients = self._gradients[dtype](*self._given(batch, dtype))
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
        start, image, targets = self._given(batch, "float64")
        loss, gradients = self._gradients["float64"](start, image, targets)
        squares = max(sum(float(tf.reduce_sum(g * g)) for g in gradients), 1e-60)
        for share in sorted(shares, reverse=True):
            asked = share * abs(float(loss))
            measured = 0.0
            for sign in (1.0, -1.0):
                moved = [
                    value + sign * asked / 2 / squares * gradient
                    for value, gradient in zip(start, gradients)
                ]
                found, _ = self._gradients["float64"](moved, image, targets)
                measured += sign * float(found)
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
        loss, gradients = self._gradients[dtype](*self._given(batch, dtype, state))
        moved = set(only or self._trained)
        named = {n: g for n, g in zip(self._trained, gradients) if n in moved}
        if norm := settings.clip_norm:
            clipped, _ = tf.clip_by_global_norm(list(named.values()), norm)
            named = dict(zip(named, clipped))
        after = {n: np.asarray(v) for n, v in state.items() if n != "step"}
        # Keras' optimizers have one rate for all.
        for multiple in sorted(set(self._rates.values())):
            group = {n: g for n, g in named.items() if self._rates[n] == multiple}
            if group:
                after |= _stepped(state, group, settings, rate * multiple, dtype)
        return float(loss), after

    def fresh_state(self, settings: optimizers.Settings) -> dict[str, Any]:
        """The state that a fresh file starts from."""
        state: dict[str, Any] = {n: np.asarray(w) for n, w in self._first.items()}
        for slot in _SLOTS[settings.name]:
            for name in self._trained:
                state[f"{name}/{slot}"] = np.zeros_like(state[name])
        return {**state, "step": np.int32(0)}

    def _given(
        self,
        batch: Mapping[str, np.ndarray],
        dtype: str,
        state: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[list[tf.Tensor], tf.Tensor, dict[str, tf.Tensor]]:
        """The weights, the first ones for None; the image; and the targets by name."""
        values = state or self._first
        tensors = dict(zip(batch, _cast(batch.values(), dtype)))
        weights = _cast((values[name] for name in self._trained), dtype)
        return weights, tensors.pop("image"), tensors

    def _differentiate(self, dtype, weights, image, targets):
        variables = self._variables[dtype]
        for variable, weight in zip(variables, weights, strict=True):
            variable.assign(weight)
        values = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._loss(self._models[dtype](image), **targets)["loss"]
        return loss, tape.gradient(loss, values, unconnected_gradients="zero")

    def rate(
        self, batch: Mapping[str, np.ndarray], settings: optimizers.Settings
    ) -> float:
        """A learning rate for a batch and an optimizer.

        Returns:
          The rate at which the weight that moves most moves by 1e-3 of its size in the
          first step; exact in float32.
        """
        _, gradients = self._gradients["float32"](*self._given(batch, "float32"))
        if settings.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, settings.clip_norm)
        sizes, slopes = [], []
        for (name, weight), gradient in zip(self._first.items(), gradients):
            size = float(np.abs(weight).max()) / self._rates[name]
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


def _cast(values: Iterable[np.ndarray], dtype: str) -> list[tf.Tensor]:
    return [tf.constant(value, dtype) for value in values]


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


def _stepped(
    state: Mapping[str, np.ndarray],
    gradients: Mapping[str, tf.Tensor],
    settings: optimizers.Settings,
    rate: float,
    dtype: str,
) -> dict[str, np.ndarray]:
    """The weights that have a gradient, and their slots, after a step of Keras'.

    Its optimizers treat each element by itself, so that all weights can be one vector;
    weight by weight they take thirty times as long.
    """

    def joined(arrays: Iterable[Any]) -> tf.Tensor:
        return tf.concat([tf.reshape(tf.cast(a, dtype), [-1]) for a in arrays], 0)

    weights = keras.Variable(joined(state[name] for name in gradients), dtype=dtype)
    optimizer = keras_optimizer(settings)
    with precision(dtype):
        optimizer.build([weights])
    held = {"": weights}
    for slot, attribute in _SLOTS[settings.name].items():
        (held[f"/{slot}"],) = getattr(optimizer, attribute)
        held[f"/{slot}"].assign(joined(state[f"{name}/{slot}"] for name in gradients))
    optimizer.iterations.assign(int(state["step"]))
    optimizer.learning_rate.assign(rate)
    optimizer.apply([joined(gradients.values())], [weights])
    ends = np.cumsum([np.size(state[name]) for name in gradients])[:-1]
    return {
        f"{name}{suffix}": part.reshape(np.shape(state[name]))
        for suffix, variable in held.items()
        for name, part in zip(gradients, np.split(variable.numpy(), ends), strict=True)
    }
