"""What arrays hold, in a few numbers: norms, and how far two of them are apart.

All is computed in float64, one array at a time.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Figures:
    """Of one array, over its finite numbers; an empty one has zeros.

    Attributes:
      l2: Root of the sum of squares.
      largest: The largest magnitude.
      mean: Arithmetic mean.
      not_finite: How many numbers are not finite.
    """

    l2: float
    largest: float
    mean: float
    not_finite: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two arrays of one shape.

    Attributes:
      largest: The largest |a - b|; nan where one is not finite and the other is not
        the same there.
      relative: That over the largest magnitude in both; 0 where both are zeros.
      l2: Root of the sum of squares of a - b.
      bits_equal: Whether the bytes are the same; 0.0 and -0.0 differ in them.
    """

    largest: float
    relative: float
    l2: float
    bits_equal: bool


def of(array: np.ndarray) -> Figures:
    """Returns an array's figures."""
    values = array.astype(np.float64).reshape(-1)
    finite = np.isfinite(values)
    count = int(np.count_nonzero(finite))
    if count < values.size:
        values = values[finite]
    return Figures(
        l2=_l2(values),
        largest=_largest(values),
        mean=float(values.sum() / count) if count else 0.0,
        not_finite=array.size - count,
    )


def between(one: np.ndarray, two: np.ndarray) -> Difference:
    """Returns how far two arrays of one shape are apart."""
    a, b = (array.astype(np.float64).reshape(-1) for array in (one, two))
    # An infinity is not apart from itself, nor is a nan.
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, a - b)
    largest = _largest(apart)
    if not math.isfinite(largest):
        largest = math.nan
    scale = max(_largest(array[np.isfinite(array)]) for array in (a, b))
    return Difference(
        largest=largest,
        relative=largest / scale if scale else largest,
        l2=_l2(apart),
        bits_equal=one.dtype == two.dtype and one.tobytes() == two.tobytes(),
    )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max()) if values.size else 0.0


def _l2(values: np.ndarray) -> float:
    """The norm, scaled so that squares neither overflow nor vanish."""
    scale = _largest(values)
    if not scale or not math.isfinite(scale):
        return scale
    return scale * float(np.sqrt(np.sum(np.square(values / scale))))
