"""Optimizers: pure update rules, then the `tf.Module` that owns their slots.

The rules are those of `keras.optimizers`, epsilon included, so that a step here and a
step there can be compared slot by slot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from checkpoints import manifest
from signatures.gradients import rule

STEP = "step"


@dataclasses.dataclass(frozen=True)
class Settings:
    """An optimizer and what it was set to; the learning rate is an input.

    Attributes:
      name: A key of `RULES`.
      clip_norm: Gradients are scaled down to this global norm; 0 leaves them alone.
      momentum: Of momentum.
      beta_1: Decay of Adam's first moment.
      beta_2: Decay of Adam's second moment.
      epsilon: Added to the root of Adam's second moment.
      weight_decay: Of AdamW, times the learning rate, as a share of the weight.
    """

    name: str = "adam"
    clip_norm: float = 1.0
    momentum: float = 0.9
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.004

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise ValueError(
                f"The optimizer must be one of {', '.join(RULES)}. "
                f"Received: {self.name!r}."
            )
        if not 0 <= self.clip_norm < float("inf"):
            raise ValueError(
                "clip_norm must be 0 (off) or a positive number. "
                f"Received: {self.clip_norm}."
            )


def sgd_step(weight, gradient, slots, rate, step, settings):
    """w <- w - rate * g."""
    return weight - rate * gradient, ()


def momentum_step(weight, gradient, slots, rate, step, settings):
    """v <- momentum * v - rate * g;  w <- w + v.

    Source: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html.
    """
    (velocity,) = slots
    velocity = settings.momentum * velocity - rate * gradient
    return weight + velocity, (velocity,)


def adam_step(weight, gradient, slots, rate, step, settings):
    """m, v <- moving means of g, g**2;  w <- w - a * m / (sqrt(v) + epsilon).

    a = rate * sqrt(1 - beta_2**t) / (1 - beta_1**t), t counting from 1.

    Source: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, section 2's last form.
    """
    m, v = slots
    m = m + (gradient - m) * (1.0 - settings.beta_1)
    v = v + (gradient * gradient - v) * (1.0 - settings.beta_2)
    scale = rate * tf.sqrt(1.0 - tf.pow(settings.beta_2, step))
    scale = scale / (1.0 - tf.pow(settings.beta_1, step))
    return weight - scale * m / (tf.sqrt(v) + settings.epsilon), (m, v)


def adamw_step(weight, gradient, slots, rate, step, settings):
    """w <- w - rate * decay * w, then Adam's step.

    Source: Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2.
    """
    weight = weight - weight * (settings.weight_decay * rate)
    return adam_step(weight, gradient, slots, rate, step, settings)


@dataclasses.dataclass(frozen=True)
class Rule:
    """An update rule and the names of the slots that it keeps for each weight."""

    update: Callable
    slots: tuple[str, ...]


RULES = {
    "adam": Rule(adam_step, ("m", "v")),
    "adamw": Rule(adamw_step, ("m", "v")),
    "momentum": Rule(momentum_step, ("velocity",)),
    "sgd": Rule(sgd_step, ()),
}


def global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    """The root of the sum of all squares; a scalar, 0 or more.

    Squares of the same shape are added up before they are summed: fewer operators, most
    of which delegates take.
    """
    squares: dict[tuple[int, ...], tf.Tensor] = {}
    for gradient in gradients:
        shape = tuple(gradient.shape.as_list())
        squares[shape] = rule.plus(squares.get(shape), gradient * gradient)
    total = tf.zeros([])
    for square in squares.values():
        total += tf.reduce_sum(square)
    return tf.sqrt(total)


def as_scalar(one: tf.Tensor) -> tf.Tensor:
    """[1] -> []; not by a RESHAPE, whose result would have no shape before it runs."""
    return tf.reduce_sum(one, axis=0)


class Optimizer(tf.Module):
    """Owns the slots and the step, and moves the weights."""

    def __init__(
        self,
        settings: Settings,
        weights: Mapping[str, tf.Variable],
        rates: Mapping[str, float] | None = None,
    ) -> None:
        """Creates the slots.

        Args:
          settings: Which rule, and its numbers.
          weights: The variables to train, by name.
          rates: By name, the multiple of the learning rate that a weight learns at; 1
            where it is not named.

        Raises:
          ValueError: If a rate is of no weight, or not positive.
        """
        rates = dict(rates or {})
        wrong = {n: r for n, r in rates.items() if n not in weights or not r > 0}
        if wrong:
            raise ValueError(
                "Rates must be positive, each of a weight that trains. "
                f"Received: {wrong}."
            )
        super().__init__()
        self._settings = settings
        self._rule = RULES[settings.name]
        self._weights, self._rates = dict(weights), rates
        self.slots = {
            name: [
                tf.Variable(tf.zeros(weight.shape), name=f"{name}/{slot}")
                for slot in self._rule.slots
            ]
            for name, weight in weights.items()
        }
        # A scalar, stored with an axis: what a variable without axes is read into has
        # no shape before it is read, and of a graph with such a tensor tflite-runtime
        # 2.14 delegates nothing, nor of any graph behind it in the file.
        self._step = tf.Variable([0], dtype=tf.int32, name=STEP)

    def state(self) -> list[tuple[str, str, tf.Variable]]:
        """(name, role, variable) of every slot, and of the step last."""
        slots = [
            (f"{name}/{slot}", manifest.SLOT, variable)
            for name, variables in self.slots.items()
            for slot, variable in zip(self._rule.slots, variables)
        ]
        return [*slots, (STEP, manifest.STEP, self._step)]

    @property
    def step(self) -> tf.Tensor:
        """Steps taken so far, a scalar int32."""
        return as_scalar(self._step.read_value())

    def apply(
        self,
        values: Sequence[tf.Tensor],
        gradients: Sequence[tf.Tensor],
        rate: tf.Tensor,
        names: Sequence[str] = (),
    ) -> tf.Tensor:
        """Takes one step.

        Args:
          values: The weights as they were read for the gradient, in order.
          gradients: One for each weight.
          rate: The learning rate, a float32 scalar.
          names: Of these weights; none stands for all. The others and their slots stay
            as they are.

        Returns:
          The gradients' global norm before clipping, a scalar.
        """
        norm = global_norm(gradients)
        if self._settings.clip_norm:
            limit = self._settings.clip_norm
            shrink = limit / tf.maximum(norm, limit)
            gradients = [gradient * shrink for gradient in gradients]
        step = self.step + 1
        t = tf.cast(step, tf.float32)
        moved = names or tuple(self._weights)
        for name, value, gradient in zip(moved, values, gradients, strict=True):
            slots = tuple(slot.read_value() for slot in self.slots[name])
            multiple = self._rates.get(name, 1.0)
            own_rate = rate if multiple == 1.0 else rate * multiple
            value, slots = self._rule.update(
                value, gradient, slots, own_rate, t, self._settings
            )
            self._weights[name].assign(value)
            for slot, updated in zip(self.slots[name], slots):
                slot.assign(updated)
        self._step.assign(tf.reshape(step, [1]))
        return norm
