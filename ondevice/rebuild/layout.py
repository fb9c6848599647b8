"""Axis strings -> permutation, so that no permutation is typed as digits.

`OHWI` and `HWIO` say where a convolution's output channels, height, width and input
channels lie; `1` is an axis of size one that both layouts have.
"""

from __future__ import annotations


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
