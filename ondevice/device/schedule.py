"""The learning rate of each step: a pure function, so that a resumed run repeats it."""

from __future__ import annotations

import math

COSINE, CONSTANT = "cosine", "constant"
NAMES = (COSINE, CONSTANT)

# Steps over which the rate rises to its full height. Adam's first steps have the size
# of the rate whatever the gradient, and the first gradients of new heads are noise.
WARM_UP = 20

# The cosine ends at this share of the rate and not at 0, where a step would be lost.
FLOOR = 0.01


def rate(
    name: str, base: float, step: int, epoch_steps: int, total_steps: int
) -> float:
    """The learning rate of one step.

    It rises linearly over the first `WARM_UP` steps, or the first epoch where that is
    shorter; so the steps of a constant schedule do not depend on how many follow.

    Args:
      name: `cosine` (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983,
        without restarts) or `constant`.
      base: The rate at its height.
      step: Counts from 0.
      epoch_steps: Steps in an epoch.
      total_steps: Steps in the whole run; steps beyond have the last one's rate.

    Raises:
      ValueError: If there is no such schedule.
    """
    if name not in NAMES:
        raise ValueError(f"The schedule must be one of {NAMES}. Received: {name!r}.")
    warm_up = max(1, min(WARM_UP, epoch_steps))
    if step < warm_up:
        base *= (step + 1) / warm_up
    if name == CONSTANT:
        return base
    done = min(1.0, step / max(1, total_steps - 1))
    return base * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2)
