"""Axis strings -> permutation, so that no permutation is typed as digits.

`OHWI` and `HWIO` say where a convolution's output channels, height, width and input
channels lie; `1` is an axis of size one that both layouts have.
"""

from __future__ import annotations

import numpy as np


def permutation(source: str, target: str) -> tuple[int, ...]:
    """Axes for `numpy.transpose` that bring `source` into the order of `target`.

    Args:
      source: One letter an axis, in the order in which the array has them.
      target: The same letters in the order wanted.

    Returns:
      For each axis of the target its place in the source.

    Raises:
      ValueError: If the two do not name the same axes, each once.
    """
    if sorted(source) != sorted(target) or len(set(source)) != len(source):
        raise ValueError(
            "Two layouts must name the same axes, each once. "
            f"Received: {source!r} and {target!r}."
        )
    return tuple(source.index(axis) for axis in target)


def moved(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """Brings an array from one layout into another, its numbers as they are.

    Args:
      array: With an axis for each letter of `source`.
      source: Its layout.
      target: The layout wanted. An axis that only one of the two has is of size one:
        it is left out, or put in.

    Returns:
      A contiguous array, of the same dtype.

    Raises:
      ValueError: If an axis that is left out has another size, or a layout names an
        axis twice.
    """
    kept = "".join(axis for axis in source if axis in target)
    left_out = tuple(i for i, axis in enumerate(source) if axis not in target)
    wanted = "".join(axis for axis in target if axis in source)
    value = np.squeeze(array, left_out).transpose(permutation(kept, wanted))
    put_in = tuple(i for i, axis in enumerate(target) if axis not in source)
    return np.asarray(np.expand_dims(value, put_in), order="C")


def moved_shape(shape: tuple[int, ...], source: str, target: str) -> tuple[int, ...]:
    """The shape that `moved` gives an array of `shape`."""
    size_of = dict(zip(source, shape, strict=True))
    return tuple(size_of.get(axis, 1) for axis in target)
