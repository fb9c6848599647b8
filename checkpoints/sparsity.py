"""Sparse constants of a .tflite: which numbers are stored, and where they belong.

An array is stored level by level, one level for each axis in `traversal_order`. A dense
level goes through all indices of its axis; a sparse one lists them, `segments[i]` to
`segments[i + 1]` of `indices` for the i-th path through the levels before. Axes may be
cut into blocks: the axes past the array's own, in the order of `block_map`, go through
a block, and the array's own then count blocks.

Source: tensorflow/lite/schema/schema.fbs (SparsityParameters) and
tensorflow/lite/kernels/internal/utils/sparsity_format_converter.cc.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# Numbers that an array may have for each byte of its encoding: values, segments and
# indices. A byte tells 256 places apart; a wide axis with next to nothing in it could
# declare any shape. The sparse face detector has 1.1.
MAX_EXPANSION = 256


class SparsityError(ValueError):
    """A sparse encoding that contradicts itself; says what, not of which tensor."""


@dataclasses.dataclass(frozen=True, slots=True)
class Indices:
    """Where a vector of indices lies in the file; its dtype is little-endian."""

    offset: int
    count: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.count * np.dtype(self.dtype).itemsize

    def read(self, data: bytes) -> np.ndarray:
        """Returns the vector, [count] int64."""
        found = np.frombuffer(data, self.dtype, self.count, self.offset)
        return found.astype(np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """One level.

    Attributes:
      size: Indices of a dense level; sparse ones do not have it.
      segments: Of a sparse level; None for a dense one.
      indices: The same.
    """

    size: int
    segments: Indices | None = None
    indices: Indices | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Sparsity:
    """How a constant is stored; the levels are in the order of `traversal_order`."""

    traversal_order: tuple[int, ...]
    block_map: tuple[int, ...]
    levels: tuple[Level, ...]


def dense(
    values: np.ndarray, sparsity: Sparsity, shape: tuple[int, ...], data: bytes
) -> np.ndarray:
    """Puts stored numbers into their places.

    Args:
      values: [stored], in the order in which the levels are gone through.
      sparsity: Their encoding.
      shape: Of the array.
      data: The whole file, in which the indices lie.

    Returns:
      Array of that shape and of the values' dtype, zero where nothing is stored.

    Raises:
      SparsityError: If the encoding does not fit the shape or the values. Nothing is
        allocated before all its counts are proven.
    """
    sides, strides = _axes(sparsity, shape)
    _prove_counts(sparsity, sides, values.size)
    elements = math.prod(shape)
    listed = [x for one in sparsity.levels for x in (one.segments, one.indices) if x]
    encoded = values.nbytes + sum(vector.nbytes for vector in listed)
    if elements > MAX_EXPANSION * encoded:
        raise SparsityError(
            f"a sparse array must have at most {MAX_EXPANSION} numbers for each byte "
            f"of its encoding. Received: shape {shape} for {encoded} bytes"
        )
    found = np.zeros(elements, values.dtype)
    if not elements:
        return found.reshape(shape)
    places = np.zeros(1, np.int64)  # of each path through the levels so far
    for level, side, stride in zip(sparsity.levels, sides, strides, strict=True):
        if level.segments is None or level.indices is None:
            steps = np.arange(side, dtype=np.int64) * stride
            places = (places[:, np.newaxis] + steps).reshape(-1)
            continue
        segments, indices = level.segments.read(data), level.indices.read(data)
        counts = np.diff(segments)
        if segments[0] or segments[-1] != indices.size or (counts < 0).any():
            raise SparsityError(
                f"segments must rise from 0 to the {indices.size} indices of their "
                f"level. Received: {segments[:8].tolist()}"
            )
        if indices.size and not (0 <= indices.min() and indices.max() < side):
            raise SparsityError(
                f"indices must be in [0, {side}). Received: {indices.min()} to "
                f"{indices.max()}"
            )
        places = np.repeat(places, counts) + indices * stride
    if np.unique(places).size != places.size:
        raise SparsityError("each number must have a place of its own. Received: two")
    found[places] = values
    return found.reshape(shape)


def _axes(
    sparsity: Sparsity, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns how many indices each level has, and how far apart they are."""
    rank, order = len(shape), sparsity.traversal_order
    blocks = sparsity.block_map
    good = (
        len(order) == len(sparsity.levels) == rank + len(blocks)
        and sorted(order[:rank]) == list(range(rank))
        and sorted(order[rank:]) == list(range(rank, len(order)))
        and len(set(blocks)) == len(blocks)
        and all(0 <= axis < rank for axis in blocks)
    )
    if not good:
        raise SparsityError(
            f"levels must go through the {rank} axes of the array, then through those "
            f"of its blocks, each once. Received: {len(sparsity.levels)} levels, order "
            f"{order[:32]}, blocks of axes {blocks[:32]}"
        )
    block = {}  # axis -> side of its blocks
    for place in range(rank, len(order)):
        level, axis = sparsity.levels[place], blocks[order[place] - rank]
        block[axis] = level.size
        if level.segments is not None or level.size < 1 or shape[axis] % level.size:
            raise SparsityError(
                f"blocks must be dense and divide axis {axis} of {shape}. Received: "
                f"blocks of {level.size}{' sparse' * (level.segments is not None)}"
            )
    sides, strides = [], []
    for place, number in enumerate(order):
        axis = number if place < rank else blocks[number - rank]
        size, step = block.get(axis, 1), math.prod(shape[axis + 1 :])
        sides.append(shape[axis] // size if place < rank else size)
        strides.append(step * size if place < rank else step)
    return tuple(sides), tuple(strides)


def _prove_counts(sparsity: Sparsity, sides: tuple[int, ...], values: int) -> None:
    """Proves that the levels have as many paths as there are values.

    Sparse levels need a segment in the file for every path before them and dense ones
    multiply what comes after, so no level has more paths than the file has bytes.
    """
    paths = 1
    for number, (level, side) in enumerate(zip(sparsity.levels, sides, strict=True)):
        if level.segments is None or level.indices is None:
            if level.size != side:
                raise SparsityError(
                    f"level {number} must have the {side} indices of its axis. "
                    f"Received: {level.size}"
                )
            paths *= side
        elif level.segments.count != paths + 1:
            raise SparsityError(
                f"level {number} must have {paths + 1} segments. Received: "
                f"{level.segments.count}"
            )
        else:
            paths = level.indices.count
    if paths != values:
        raise SparsityError(f"there must be {paths} values. Received: {values}")
