"""Depthwise convolutions whose filters change, as sums of shifted products.

For runtimes whose own kernel of it is slow: delegates take slices, products and sums.
The taps of a row of the window multiply all rows that the window reads; their sums are
moved up or down once, a slice for each row. In the backward pass each tap has a slice
of the gradient, which serves both gradients: times the weights of its tap it is a term
of the image's, times the image and summed up a tap of the filter's.

All of that is done band by band, some rows or samples at a time, so that what it holds
stays near the processor.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

import tensorflow as tf

from signatures.gradients import rule, window

# Numbers of a band. Half as many lie in a cache of 1 MB, but were no faster on a Zen 4,
# and each band has operators of its own, which take memory.
_BAND = 160_000
# Bands of a convolution: as many as tflite-runtime 2.14 delegates a concatenation of.
# More, for a large batch, would make files of more operators than readers bear.
_PARTS = 4


def convolve(padded: tf.Tensor, flat: tf.Tensor, over: window.Window) -> tf.Tensor:
    """[B, H', W', C] from the padded image and the filter [h * w, C]."""
    rows, columns = over.rows, over.columns
    phases = window.split(padded, over)
    taps = _taps(flat, over)
    bands = []
    width = columns.out * rule.static_shape(flat)[1]
    for samples, first, count in _bands(over.batch, rows.out, width):
        lines: dict[int, tf.Tensor] = {}
        for j in range(columns.kernel):
            b, left = columns.place(j)
            strips = {
                a: _cut(
                    phases[a, b],
                    samples,
                    (first, count + rows.reach - 1),
                    (left, columns.out),
                )
                for a in rows.phases
            }
            for i in range(rows.kernel):
                term = strips[rows.place(i)[0]] * taps[i, j]
                lines[i] = rule.plus(lines.get(i), term)
        total = None
        for i, line in lines.items():
            line = window.cut(line, (rows.place(i)[1], count), (0, None))
            total = rule.plus(total, line)
        bands.append((samples, total))
    return _joined(bands)


def gradients(
    image: tf.Tensor,
    gradient: tf.Tensor,
    flat: tf.Tensor,
    over: window.Window,
    wanted: Sequence[bool],
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """The gradients of an image and of a filter.

    Args:
      image: [B, H, W, C], not padded.
      gradient: Of the result, [B, H', W', C].
      flat: The filter, [h * w, C].
      over: The window.
      wanted: Whether that of the image is, and that of the filter.

    Returns:
      [B, H, W, C] and [h * w, C]; None where it is not wanted.
    """
    rows, columns = over.rows, over.columns
    channels = rule.static_shape(flat)[1]
    grid = over.grid
    height, width = grid.rows.out, grid.columns.out
    (top, _), (left, _) = rows.overhang, columns.overhang
    spread = window.resize_edges(gradient, rows.overhang, columns.overhang)
    phases = window.split(window.pad(image, grid), grid) if wanted[1] else {}
    taps = _taps(flat, over)
    bands = collections.defaultdict(list)
    sums: dict[tuple[int, int], tf.Tensor] = {}
    for samples, first, count in _bands(over.batch, height, width * channels):
        totals: dict[tuple[int, int], tf.Tensor] = {}
        parts = {
            key: _cut(part, samples, (first, count), (0, width))
            for key, part in phases.items()
        }
        for b in range(columns.stride):
            for j, across in columns.readers(b):
                for a in range(rows.stride):
                    for i, down in rows.readers(a):
                        shifted = _cut(
                            spread,
                            samples,
                            (first + top + down, count),
                            (left + across, width),
                        )
                        if wanted[0]:
                            term = shifted * taps[i, j]
                            totals[a, b] = rule.plus(totals.get((a, b)), term)
                        if wanted[1]:
                            term = rule.sum_of_images(shifted * parts[a, b])
                            sums[i, j] = rule.plus(sums.get((i, j)), term)
        for key, total in totals.items():
            bands[key].append((samples, total))
    to_image = to_filters = None
    if wanted[0]:
        joined = {place: _joined(found) for place, found in bands.items()}
        to_image = window.merge(joined, grid)
    if wanted[1]:
        to_filters = tf.concat([sums[tap] for tap in over.taps], 0)
    return to_image, to_filters


def _bands(
    batch: int, rows: int, width: int
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Cuts [batch, rows, width] into bands.

    Yields:
      (first sample, how many), the first row, how many rows.
    """
    number = min(_PARTS, -(-batch * rows * width // _BAND))
    groups = min(number, batch)
    samples = [batch * i // groups for i in range(groups + 1)]
    parts = min(number // groups, rows)
    edges = [rows * i // parts for i in range(parts + 1)]
    for sample, behind in zip(samples, samples[1:]):
        for first, end in zip(edges, edges[1:]):
            yield (sample, behind - sample), first, end - first


def _joined(bands: Sequence[tuple[tuple[int, int], tf.Tensor]]) -> tf.Tensor:
    """Puts bands together: those of the same samples by rows, then the samples."""
    by_samples = collections.defaultdict(list)
    for samples, band in bands:
        by_samples[samples].append(band)
    return window.concat([window.concat(found, 1) for found in by_samples.values()], 0)


def _cut(
    image: tf.Tensor,
    samples: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> tf.Tensor:
    """A part of [B, H, W, C]; each side is given as (first, count)."""
    shape = rule.static_shape(image)
    size = [samples[1], rows[1], columns[1], shape[3]]
    if tuple(size) == shape:
        return image
    return tf.slice(image, [samples[0], rows[0], columns[0], 0], size)


def _taps(flat: tf.Tensor, over: window.Window) -> dict[tuple[int, int], tf.Tensor]:
    """Each tap's weights, [1, C]."""
    size = [1, rule.static_shape(flat)[1]]
    return {tap: tf.slice(flat, [n, 0], size) for n, tap in enumerate(over.taps)}
