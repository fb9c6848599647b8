"""A confusion matrix as a picture, legible from one class to eighty."""

from __future__ import annotations

import io
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from checkpoints import atomic

if TYPE_CHECKING:
    from matplotlib import axes as matplotlib_axes
    from matplotlib import figure as matplotlib_figure

# Sides of a cell in inches: where there are few, at least, and of all together.
_LARGEST, _SMALLEST, _WHOLE = 0.62, 0.16, 9.0

# The page is at least as wide, in inches, so that a title has room.
_NARROWEST = 6.0

_DPI = 110
_POINTS = 72  # In an inch.

# Sizes of text in points, its characters' width in them, and the longest name.
_SMALL, _LARGE = 6.0, 10.0
_CHARACTER = 0.62
_LONGEST = 28

# Share of a cell that its number may take, and the size below which it is left out.
_INSIDE, _READABLE = 0.85, 5.0

_NOTHING = "no detection"


def draw(
    confusion: Sequence[Sequence[int]],
    classes: Sequence[str],
    title: Sequence[str],
    path: pathlib.Path,
) -> None:
    """Draws the matrix into a file.

    Args:
      path: Of the PNG, which is the old one or the new one at any moment.

    Other args are those of `page`.

    Raises:
      ImportError: If matplotlib cannot be imported.
      OSError: If the picture cannot be written.
    """
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name may be in letters that the font lacks; boxes stand for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        page(confusion, classes, title).savefig(stream, format="png", dpi=_DPI)
    atomic.write(path, [stream.getvalue()])


def page(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], title: Sequence[str]
) -> matplotlib_figure.Figure:
    """Draws the matrix; the colour of a cell is its share of the row.

    Args:
      confusion: [K][K + 1] images, as `metrics.Metrics` has it.
      classes: K names.
      title: Lines.

    Raises:
      ImportError: If matplotlib cannot be imported.
    """
    # Not pyplot, which keeps figures and looks for a screen.
    from matplotlib import figure

    count = len(classes)
    cell = min(_LARGEST, max(_SMALLEST, _WHOLE / (count + 1)))
    text = min(_LARGE, max(_SMALL, 0.6 * cell * _POINTS))
    names = [_shortened(name) for name in classes]
    rows = [f"{name} ({sum(row)})" for name, row in zip(names, confusion, strict=True)]
    columns = [*names, _NOTHING]
    width = (count + 1) * cell + _inches(rows, text) + 1
    wide = max(_NARROWEST, width)
    most = int(wide / _inches(["x"], _LARGE))
    head = [part for line in title for part in textwrap.wrap(line, most) or [""]]
    height = count * cell + _inches(columns, text) + 0.25 * len(head) + 1
    drawn = figure.Figure(figsize=(wide, height), layout="constrained", dpi=_DPI)
    axes = drawn.subplots()
    shares = [[number / max(1, sum(row)) for number in row] for row in confusion]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.axvline(count - 0.5, color="black", linewidth=1)
    axes.set_xticks(range(count + 1), columns, rotation=90, fontsize=text)
    axes.set_yticks(range(count), rows, fontsize=text)
    axes.set_xlabel("class of the best detection")
    axes.set_ylabel("right class (images)")
    heading = drawn.suptitle("\n".join(head), fontsize=_LARGE)
    for label in (heading, *axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)  # A dollar in a name is a dollar.
    drawn.draw_without_rendering()  # Lays out: only now is a cell's size known.
    _write_numbers(axes, confusion, shares)
    return drawn


def _write_numbers(
    axes: matplotlib_axes.Axes,
    confusion: Sequence[Sequence[int]],
    shares: Sequence[Sequence[float]],
) -> None:
    """Writes what is not zero into the cells, if it fits in all of them."""
    cell = axes.get_window_extent().width / len(confusion[0]) / _DPI
    digits = max(len(str(number)) for row in confusion for number in row)
    size = min(_LARGE, _INSIDE * cell / _inches(["0" * digits], 1.0))
    if size < _READABLE:
        return
    for down, row in enumerate(confusion):
        for across, number in enumerate(row):
            if number:
                colour = "white" if shares[down][across] > 0.5 else "black"
                axes.text(
                    across, down, str(number), color=colour, fontsize=size,
                    ha="center", va="center",
                )  # fmt: skip


def _inches(texts: Sequence[str], size: float) -> float:
    """Width of the longest, about, in text of a size in points."""
    return _CHARACTER * size / _POINTS * max(map(len, texts))


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
