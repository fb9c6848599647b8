"""Sliding windows as slices: the geometry that convolutions and pools share.

A strided window is taken apart into phases. Phase (a, b) of a padded image holds its
rows a, a + stride, ... and columns b, b + stride, ...; in it, a tap of the window is a
plain slice. So every operator here is a pad, a stride-1 slice, a reshape or a
concatenation, which the delegates of all runtimes take.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import tensorflow as tf

from signatures.gradients import rule

# Below so many an image is padded as lines of numbers.
_FEW_CHANNELS = 8


@dataclasses.dataclass(frozen=True)
class Axis:
    """The window along one axis of an image.

    Attributes:
      size: Of the image.
      kernel: Of the window, in taps.
      stride: Between windows.
      dilation: Between taps.
      before: Padding before the image.
      out: Number of windows.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    out: int

    @property
    def reach(self) -> int:
        """Blocks of `stride` cells that a window touches."""
        return (self.kernel - 1) * self.dilation // self.stride + 1

    @property
    def blocks(self) -> int:
        """Blocks of `stride` cells that all windows touch: the size of a phase."""
        return self.out - 1 + self.reach

    @property
    def after(self) -> int:
        """Padding behind the image up to whole blocks; negative: cells never read."""
        return self.blocks * self.stride - self.before - self.size

    @property
    def unread(self) -> int:
        """Cells of the whole blocks behind the last one that a window reads."""
        return self.stride - 1 - (self.kernel - 1) * self.dilation % self.stride

    def place(self, tap: int) -> tuple[int, int]:
        """The phase in which a tap lies, and its block there."""
        offset = tap * self.dilation
        return offset % self.stride, offset // self.stride

    def taps(self, phase: int) -> list[int]:
        """The taps that read a phase."""
        return [t for t in range(self.kernel) if self.place(t)[0] == phase]

    @property
    def phases(self) -> list[int]:
        """The phases that any tap reads; always the first ones where dilation is 1."""
        return sorted({self.place(t)[0] for t in range(self.kernel)})

    @property
    def grid(self) -> Axis:
        """Takes the image itself apart, without padding before it."""
        stride = self.stride
        return Axis(self.size, stride, stride, 1, 0, -(-self.size // stride))

    def readers(self, residue: int) -> list[tuple[int, int]]:
        """The taps that read the image's cells residue, residue + stride, ...

        Returns:
          (tap, shift) of each: the window that reads the nth of these cells by the tap
          is the one at n + shift.
        """
        found = []
        for tap in range(self.kernel):
            distance = residue + self.before - tap * self.dilation
            if distance % self.stride == 0:
                found.append((tap, distance // self.stride))
        return found

    @property
    def shifts(self) -> list[int]:
        """Those of all taps."""
        return [s for r in range(self.stride) for _, s in self.readers(r)]

    @property
    def overhang(self) -> tuple[int, int]:
        """Windows before the first and behind the last that the shifts ask for."""
        before = max(0, -min(self.shifts))
        return before, max(0, max(self.shifts) + self.grid.out - self.out)


@dataclasses.dataclass(frozen=True)
class Window:
    """A window over [batch, height, width, channels]."""

    batch: int
    rows: Axis
    columns: Axis

    @property
    def grid(self) -> Window:
        """Blocks of `stride` cells from the image's first one, side by side."""
        return Window(self.batch, self.rows.grid, self.columns.grid)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """All taps, row-major."""
        return [
            (i, j) for i in range(self.rows.kernel) for j in range(self.columns.kernel)
        ]


def window_of(
    operation: rule.Operation,
    image: Sequence[int],
    kernel: Sequence[int],
    out: Sequence[int],
    strides: str = "strides",
) -> Window:
    """Reads the window of a convolution or a pool from its attributes.

    Args:
      operation: An operator in the layout NHWC.
      image: [batch, height, width, channels] of the image.
      kernel: (height, width) of the window.
      out: [batch, height, width, channels] of the result.
      strides: Name of the attribute that holds the strides.

    Raises:
      GradientError: If the layout is another.
    """
    attributes = operation.attributes
    layout = attributes.get("data_format", b"NHWC")
    if layout != b"NHWC":
        raise operation.refuse("the layout NHWC", layout)
    stride = attributes[strides]
    dilation = attributes.get("dilations", [1, 1, 1, 1])
    if stride[0] != 1 or stride[3] != 1:
        raise operation.refuse("strides over height and width alone", stride)
    axes = []
    for i in (1, 2):
        span = (kernel[i - 1] - 1) * dilation[i] + 1
        if attributes["padding"] == b"EXPLICIT":
            before = attributes["explicit_paddings"][2 * i]
        elif attributes["padding"] == b"SAME":
            before = max((out[i] - 1) * stride[i] + span - image[i], 0) // 2
        else:
            before = 0
        axes.append(
            Axis(image[i], kernel[i - 1], stride[i], dilation[i], before, out[i])
        )
    return Window(image[0], axes[0], axes[1])


def resize_edges(
    image: tf.Tensor,
    rows: tuple[int, int],
    columns: tuple[int, int],
    value: float = 0.0,
) -> tf.Tensor:
    """Pads an image by (before, after); negative numbers crop."""
    shape = rule.static_shape(image)
    edges = (rows, columns)
    if any(e < 0 for pair in edges for e in pair):
        begin = [0, *(max(-before, 0) for before, _ in edges), 0]
        end = [shape[1] - max(-rows[1], 0), shape[2] - max(-columns[1], 0)]
        size = [shape[0], end[0] - begin[1], end[1] - begin[2], shape[3]]
        image = tf.slice(image, begin, size)
    pads = [[max(before, 0), max(after, 0)] for before, after in edges]
    if not any(p for pair in pads for p in pair):
        return image
    batch, height, width, channels = rule.static_shape(image)
    if channels < _FEW_CHANNELS and any(pads[1]):
        # Cells are copied one by one where columns are added, lines whole.
        lines = tf.reshape(image, [batch, height, width * channels])
        sides = [channels * p for p in pads[1]]
        lines = tf.pad(lines, [[0, 0], pads[0], sides], constant_values=value)
        return tf.reshape(
            lines, [batch, height + sum(pads[0]), width + sum(pads[1]), channels]
        )
    return tf.pad(image, [[0, 0], *pads, [0, 0]], constant_values=value)


def pad(image: tf.Tensor, over: Window, value: float = 0.0) -> tf.Tensor:
    """Pads or crops an image to whole blocks."""
    rows, columns = over.rows, over.columns
    return resize_edges(
        image, (rows.before, rows.after), (columns.before, columns.after), value
    )


def pad_read(image: tf.Tensor, over: Window) -> tf.Tensor:
    """Pads or crops an image to the cells that are read: windows end where it does."""
    rows, columns = over.rows, over.columns
    return resize_edges(
        image,
        (rows.before, rows.after - rows.unread),
        (columns.before, columns.after - columns.unread),
    )


def unpad(image: tf.Tensor, over: Window) -> tf.Tensor:
    """The transpose of `pad`."""
    rows, columns = over.rows, over.columns
    return resize_edges(
        image, (-rows.before, -rows.after), (-columns.before, -columns.after)
    )


def cut(
    image: tf.Tensor, rows: tuple[int, int | None], columns: tuple[int, int | None]
) -> tf.Tensor:
    """A part of [B, H, W, C], given as (first, count); None: all."""
    shape = rule.static_shape(image)
    size = [shape[0], rows[1] or shape[1], columns[1] or shape[2], shape[3]]
    if tuple(size) == shape:
        return image
    return tf.slice(image, [0, rows[0], columns[0], 0], size)


def split(padded: tf.Tensor, over: Window) -> dict:
    """Takes a padded image apart.

    Returns:
      {(a, b): [batch, rows.blocks, columns.blocks, channels]} for phases with a tap.
    """
    rows, columns = over.rows, over.columns
    channels = rule.static_shape(padded)[3]
    whole = [over.batch, rows.blocks, columns.blocks, channels]
    if rows.stride == columns.stride > 1:
        square = tf.nn.space_to_depth(padded, rows.stride)
        return {
            (a, b): tf.slice(
                square, [0, 0, 0, (a * columns.stride + b) * channels], whole
            )
            for a in rows.phases
            for b in columns.phases
        }
    length = columns.stride * columns.blocks * channels
    cells = over.batch * rows.blocks * columns.blocks
    lines = unstack(
        padded, over.batch * rows.blocks, rows.stride, length, rows.phases
    )
    return {
        (a, b): tf.reshape(cell, whole)
        for a, line in lines.items()
        for b, cell in unstack(
            line, cells, columns.stride, channels, columns.phases
        ).items()
    }


def unstack(
    tensor: tf.Tensor, outer: int, stride: int, inner: int, phases: list[int]
) -> dict[int, tf.Tensor]:
    """The phases of a tensor seen as [outer, stride, inner]."""
    if stride == 1:
        return {0: tensor}
    tensor = tf.reshape(tensor, [outer, stride, inner])
    return {p: tf.slice(tensor, [0, p, 0], [outer, 1, inner]) for p in phases}


def merge(phases: dict, over: Window) -> tf.Tensor:
    """The inverse of `split`: puts phases together, and drops the padding.

    Args:
      phases: {(a, b): [batch, rows.blocks, columns.blocks, channels]}; missing: zeros.
      over: The window.

    Returns:
      [batch, rows.size, columns.size, channels].
    """
    rows, columns = over.rows, over.columns
    some = next(iter(phases.values()))
    channels = rule.static_shape(some)[3]
    whole = [over.batch, rows.blocks, columns.blocks, channels]
    phases = {
        place: phases[place] if place in phases else tf.zeros(whole, some.dtype)
        for place in itertools.product(rows.phases, columns.phases)
    }
    if rows.stride == columns.stride > 1 and len(phases) == rows.stride**2:
        square = tf.concat([phases[place] for place in sorted(phases)], 3)
        return unpad(tf.nn.depth_to_space(square, rows.stride), over)
    lines = {
        a: stack(
            {b: phases[a, b] for b in columns.phases},
            over.batch * rows.blocks * columns.blocks,
            columns.stride,
            channels,
        )
        for a in rows.phases
    }
    length = columns.blocks * columns.stride
    padded = tf.reshape(
        stack(lines, over.batch * rows.blocks, rows.stride, length * channels),
        [over.batch, rows.blocks * rows.stride, length, channels],
    )
    return unpad(padded, over)


def stack(
    parts: dict[int, tf.Tensor], outer: int, stride: int, inner: int
) -> tf.Tensor:
    """The inverse of `unstack`; phases that are missing are zeros."""
    if stride == 1:
        return parts[0]
    shaped = {p: tf.reshape(part, [outer, 1, inner]) for p, part in parts.items()}
    if sorted(shaped) == list(range(len(shaped))):  # zeros, if any, come last
        joined = concat(list(shaped.values()), 1)
        missing = stride - len(shaped)
        return tf.pad(joined, [[0, 0], [0, missing], [0, 0]]) if missing else joined
    zeros = tf.zeros_like(next(iter(shaped.values())))
    return concat([shaped.get(p, zeros) for p in range(stride)], 1)


def concat(parts: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Concatenates; a single part is given back as it is."""
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis)


def tap_slice(phases: dict, over: Window, tap: tuple[int, int]) -> tf.Tensor:
    """What one tap reads: [batch, rows.out, columns.out, channels]."""
    (a, i), (b, j) = over.rows.place(tap[0]), over.columns.place(tap[1])
    return cut(phases[a, b], (i, over.rows.out), (j, over.columns.out))


def spread(gradient: tf.Tensor, over: Window) -> tf.Tensor:
    """Pads the gradient of the windows so that `tap_of_gradient` is a slice of it."""
    rows, columns = over.rows.reach - 1, over.columns.reach - 1
    return resize_edges(gradient, (rows, rows), (columns, columns))


def tap_of_gradient(
    spreaded: tf.Tensor, over: Window, tap: tuple[int, int]
) -> tf.Tensor:
    """The gradients of the windows that read, by a tap, each cell of its phase.

    Returns:
      [batch, rows.blocks, columns.blocks, channels].
    """
    i = over.rows.reach - 1 - over.rows.place(tap[0])[1]
    j = over.columns.reach - 1 - over.columns.place(tap[1])[1]
    return cut(spreaded, (i, over.rows.blocks), (j, over.columns.blocks))
