"""What a session gives back of what a signature gave."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Losses:
    """What a step, or an evaluation, found.

    Attributes:
      loss: What training minimises.
      class_loss: Its class term, of a detector; otherwise NaN.
      box_loss: Its box term, likewise.
      gradient_norm: Before clipping; None from `evaluate`, which takes no gradient.
    """

    loss: float
    class_loss: float = math.nan
    box_loss: float = math.nan
    gradient_norm: float | None = None


def losses(found: Mapping[str, np.ndarray]) -> Losses:
    """The losses among the outputs of a signature, by name."""
    names = [field.name for field in dataclasses.fields(Losses)]
    return Losses(**{name: float(found[name]) for name in names if name in found})


def own(array: Any) -> np.ndarray:
    """Returns an array that the interpreter does not hold."""
    array = np.asarray(array)
    return array if array.flags.owndata else array.copy()
