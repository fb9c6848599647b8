"""Depthwise convolutions whose filters change, as ones whose filters are constant.

For runtimes whose own kernel is slow: delegates take a depthwise convolution whose
filter is a constant. The image is multiplied by the weights of all taps at once, which
gives a plane for each tap, side by side in one large image, and a filter of ones adds
the planes up: it is dilated by the size of a plane and a step, so that each of its taps
lies in its own plane, where the window's tap lies. The gradient of the image is such a
sum of the gradient's planes.

The gradient of the filter is a sum of products for each tap. The image is moved by rows
and the gradient by columns, once each, and any two of them meet in a tap.

All that takes a few operators where `shifted` takes some for each tap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import tensorflow as tf

from signatures.gradients import rule, window

# Numbers in the planes of a band.
_BAND = 1_700_000
# Bands of a convolution: more, for a large batch, would make files of more operators
# than readers bear.
_MOST = 16
# Numbers along a row of the planes that are multiplied at once, at least.
_RUN = 128

# (tap, the first cell that it reads), the cells ascending by equal steps.
Taps = Sequence[tuple[int, int]]


def convolve(padded: tf.Tensor, flat: tf.Tensor, over: window.Window) -> tf.Tensor:
    """[B, H', W', C] from the padded image and the filter [h * w, C]."""
    rows, columns = over.rows, over.columns
    total = None
    for (a, b), phase in window.split(padded, over).items():
        down, across = (
            [(tap, axis.place(tap)[1]) for tap in axis.taps(residue)]
            for axis, residue in ((rows, a), (columns, b))
        )
        weights = _weights(flat, over, down, across)
        part = _sum_of_planes(phase, weights, down, across, (rows.out, columns.out))
        total = rule.plus(total, part)
    return total


def gradients(
    image: tf.Tensor,
    gradient: tf.Tensor,
    flat: tf.Tensor,
    over: window.Window,
    wanted: Sequence[bool],
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """The gradients of an image and of a filter, as `shifted.gradients` gives them."""
    rows, columns = over.rows, over.columns
    grid = over.grid
    size = grid.rows.out, grid.columns.out
    (top, _), (left, _) = rows.overhang, columns.overhang
    spread = window.resize_edges(gradient, rows.overhang, columns.overhang)
    readers = {
        (a, b): (_readers(rows, a, top), _readers(columns, b, left))
        for a in range(rows.stride)
        for b in range(columns.stride)
    }
    readers = {place: taps for place, taps in readers.items() if all(taps)}
    to_image = to_filters = None
    if wanted[0]:
        found = {
            place: _sum_of_planes(spread, _weights(flat, over, *taps), *taps, size)
            for place, taps in readers.items()
        }
        to_image = window.merge(found, grid)
    if wanted[1]:
        # Moved when the gradient is there, not kept beside the image since that was.
        image = window.pad(image + rule.late_zero(gradient), grid)
        phases = window.split(image, grid)
        sums: dict[tuple[int, int], tf.Tensor] = {}
        for place, taps in readers.items():
            sums |= _sums_of_products(phases[place], spread, *taps)
        to_filters = tf.concat([sums[tap] for tap in over.taps], 0)
    return to_image, to_filters


def _readers(axis: window.Axis, residue: int, before: int) -> Taps:
    """The taps that read a phase, and where the padded gradient of the first is."""
    return sorted(
        ((tap, before + shift) for tap, shift in axis.readers(residue)),
        key=lambda reader: reader[1],
    )


def _weights(
    flat: tf.Tensor, over: window.Window, down: Taps, across: Taps
) -> tf.Tensor:
    """Those of some taps of a filter [h * w, C], in their order: [n, 1, m, 1, C]."""
    width = over.columns.kernel
    order = [i * width + j for i, _ in down for j, _ in across]
    taps, channels = rule.static_shape(flat)
    if order != list(range(taps)):
        flat = tf.gather(flat, order, axis=0)
    return tf.reshape(flat, [len(down), 1, len(across), 1, channels])


def _sum_of_planes(
    image: tf.Tensor,
    weights: tf.Tensor,
    down: Taps,
    across: Taps,
    size: tuple[int, int],
) -> tf.Tensor:
    """The sum over taps of an image times the weights of the tap, moved.

    It is made band by band, some rows or samples at a time, so that the planes stay
    near the processor. Samples lie one below the other.

    Args:
      image: [B, H, W, C].
      weights: Of the taps, [n, 1, m, 1, C].
      down: The n taps along a column.
      across: The m taps along a row.
      size: Height and width of the result.

    Returns:
      [B, height, width, C].
    """
    batch, _, _, channels = rule.static_shape(image)
    (first, reach), (left, span) = _reach(down), _reach(across)
    height, width = size
    tall, wide = height + reach, width + span
    run = math.gcd(wide, -(-_RUN // channels))
    line = [1, wide // run, run * channels]
    image = window.cut(image, (first, tall), (left, wide))
    image = tf.reshape(image, [1, batch * tall, *line])
    if run > 1:
        weights = weights * tf.ones([1, 1, 1, run, 1], weights.dtype)
        weights = tf.reshape(weights, [len(down), 1, len(across), 1, line[2]])
    ones = tf.ones([len(down), len(across), channels, 1], image.dtype)
    numbers = len(down) * len(across) * wide * channels
    parts = []
    for start, count in _bands(batch, tall, reach, numbers):
        part = tf.slice(image, [0, start, 0, 0, 0], [1, count, *line])
        planes = tf.reshape(
            part * weights, [1, len(down) * count, len(across) * wide, channels]
        )
        dilations = count + _step(down), wide + _step(across)
        sums = tf.nn.depthwise_conv2d(
            planes, ones, [1] * 4, "VALID", dilations=dilations
        )
        samples = count // tall
        if samples > 1:  # Between them are sums of two of them.
            sums = tf.pad(sums, [[0, 0], [0, reach], [0, 0], [0, 0]])
            sums = tf.reshape(sums, [samples, tall, width, channels])
            sums = window.cut(sums, (0, height), (0, None))
        parts.append(tf.reshape(sums, [1, -1, width, channels]))
    return tf.reshape(_joined(parts), [batch, height, width, channels])


def _sums_of_products(
    image: tf.Tensor, gradient: tf.Tensor, down: Taps, across: Taps
) -> dict[tuple[int, int], tf.Tensor]:
    """For each tap the sum of an image times the gradient that the tap reads.

    Args:
      image: [B, H, W, C], a phase.
      gradient: [B, H', W', C], padded.
      down: The taps along a column.
      across: The taps along a row.

    Returns:
      {(tap along a column, tap along a row): [1, C]}.
    """
    batch, height, width, channels = rule.static_shape(image)
    first, reach = _reach(down)
    edges = [(start - first, first + reach - start) for _, start in down]
    moved = [window.resize_edges(image, edge, (0, 0)) for edge in edges]
    sums = {}
    for j, left in across:
        strip = tf.slice(
            gradient, [0, first, left, 0], [batch, height + reach, width, channels]
        )
        for (i, _), lines in zip(down, moved):
            sums[i, j] = rule.sum_of_images(strip * lines)
    return sums


def _reach(taps: Taps) -> tuple[int, int]:
    """The first cell that is read for the first result, and how far away the last."""
    return taps[0][1], taps[-1][1] - taps[0][1]


def _step(taps: Taps) -> int:
    return taps[1][1] - taps[0][1] if len(taps) > 1 else 0


def _bands(
    batch: int, tall: int, reach: int, numbers: int
) -> Iterator[tuple[int, int]]:
    """Cuts samples, one below the other, into bands: whole ones, or parts of one.

    Args:
      batch: Samples.
      tall: Rows of each.
      reach: Rows of it that are read beyond those of the result.
      numbers: In the planes of a row.

    Yields:
      The first row, how many; the parts of a sample overlap by `reach`.
    """
    at_least = -(-batch // _MOST) if batch > _MOST else 0
    together = max(_BAND // (tall * numbers), at_least)
    if together:
        for first in range(0, batch, together):
            yield first * tall, min(together, batch - first) * tall
        return
    height = tall - reach
    most = max(_BAND // numbers - reach, 1)
    parts = min(-(-height // most), _MOST // batch)
    edges = [height * i // parts for i in range(parts + 1)]
    for sample in range(batch):
        for start, end in zip(edges, edges[1:]):
            yield sample * tall + start, end - start + reach


def _joined(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Puts bands together, four at a time, as many as tflite-runtime 2.14 delegates."""
    while len(parts) > 1:
        parts = [window.concat(parts[i : i + 4], 1) for i in range(0, len(parts), 4)]
    return parts[0]
