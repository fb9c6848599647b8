"""Annotated data sets: what their readers share, and that of yirueilu-b's JSON.

A folder of pictures and a folder of JSON files with the same names (`image` and
`annotation`, or with `train_` before), or both in one folder. A file lists hands:
`label`, `bounding_box` [xmin, ymin, xmax, ymax] and `key_points` [x1, y1, ..., x7, y7],
in units of the picture's width and height. `label` is a class name, or else its number
from 1 on.
Source: github.com/yirueilu-b/blaze-palm-tf2, README.md.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from checkpoints import strict_json
from ondevice.detection import targets
from ondevice.device import images, samples

KEYPOINTS = 7

# A box or keypoint may leave the picture by this much, in its units; further out is
# a unit misunderstood.
_OUTSIDE = 0.5

# A detector has no more anchors than some thousands.
MAX_HANDS = 1000

_MAX_JSON_BYTES = 512 * 2**20

# Reading ends at so many, fewer than `samples.DataError` lists: what is hostile has one
# in every few characters.
_MOST_FAULTS = 500

# A hand's numbers whole, where there are no more.
_SHORT = strict_json.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 30, 5


class TooManyFaults(Exception):
    """There is no use in reading on."""


class Faults(list[str]):
    """What is wrong, each in short, until it is too much."""

    def append(self, fault: str) -> None:
        """Adds one.

        Raises:
          TooManyFaults: If it is the last that is taken.
        """
        super().append(fault[: samples.LONGEST])
        if len(self) >= _MOST_FAULTS:
            super().append(f"Reading ended at {_MOST_FAULTS} faults.")
            raise TooManyFaults


def find_pairs(
    folder: pathlib.Path,
) -> tuple[pathlib.Path, pathlib.Path] | None:
    """The (pictures, annotations) folders of yirueilu-b's layout, if they are there."""
    for prefix in ("", "train_"):
        pictures, notes = folder / f"{prefix}image", folder / f"{prefix}annotation"
        if pictures.is_dir() and notes.is_dir():
            return pictures, notes
    names = {path.stem for path in _notes(folder)}
    if any(path.stem in names for path in _pictures(folder)):
        return folder, folder
    return None


def read_pairs(
    pictures: pathlib.Path, notes: pathlib.Path, classes: Sequence[str] | None
) -> tuple[list[samples.Sample], list[str]]:
    """Reads yirueilu-b's annotations.

    Args:
      pictures: The folder of the pictures.
      notes: The folder of their annotations.
      classes: Names by index; None takes every hand as class 0, whatever its label.

    Returns:
      The pictures, and what is wrong, with file names.
    """
    found: list[samples.Sample] = []
    faults = Faults()
    try:
        for picture, path in _together(pictures, notes, faults):
            labels = _hands(path, classes, faults)
            if labels is not None:
                found.append(samples.Sample(picture, None, labels))
    except TooManyFaults:
        pass
    return found, faults


def box(values: Sequence[float]) -> targets.Box:
    """(xmin, ymin, xmax, ymax) in units of the picture, checked.

    Raises:
      ValueError: If it lies outside the picture or has no area.
    """
    points(values)
    xmin, ymin, xmax, ymax = values
    if not (xmin < xmax and ymin < ymax):
        raise ValueError(f"the box must have an area. Received: {list(values)}.")
    return xmin, ymin, xmax, ymax


def points(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """x1, y1, x2, y2, ... in units of the picture, checked.

    Raises:
      ValueError: If one lies outside the picture.
    """
    if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in values):
        raise ValueError(
            "coordinates must lie in the picture, in units of its width and height. "
            f"Received: {[round(value, 4) for value in values]}."
        )
    return tuple(zip(values[::2], values[1::2], strict=True))


def floats(fields: Mapping, key: str, count: int | None = None) -> list[float]:
    """The finite numbers of a list in JSON.

    Raises:
      ValueError: If it is something else, or not `count` numbers.
    """
    values = fields.get(key)
    if (
        not isinstance(values, list)
        or not all(is_finite(value) for value in values)
        or (count is not None and len(values) != count)
    ):
        wanted = f"{count} numbers" if count is not None else "numbers"
        raise ValueError(f"`{key}` must be {wanted}. Received: {quoted(values)}.")
    return [float(value) for value in values]


def quoted(value: Any) -> str:
    """What was received, in short, whatever it is and however long."""
    return _SHORT.repr(value)


def is_finite(value: Any) -> bool:
    """Whether something in JSON is a number, and one that a float holds."""
    if type(value) is int:
        return abs(value) < 2**53
    return type(value) is float and math.isfinite(value)


def together(*reads: Callable[[], Any]) -> list[Any]:
    """What each of several readers gives.

    Raises:
      ValueError: If any of them does; it joins what they all have to say.
    """
    found, faults = [], []
    for read in reads:
        try:
            found.append(read())
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(" ".join(faults))
    return found


def content(path: pathlib.Path) -> bytes:
    """What a file of annotations holds.

    Raises:
      ValueError: If it cannot be read, or is too long; the message names it.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"{path}: must have at most {_MAX_JSON_BYTES} bytes.")
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: is missing.") from None
    except OSError as error:
        raise ValueError(f"{path}: must be readable: {error}.") from None


def _text(path: pathlib.Path) -> str:
    try:
        return content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be JSON in UTF-8: {error}.") from None


def _together(
    pictures: pathlib.Path, notes: pathlib.Path, faults: Faults
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Yields each picture with its annotations; the rest become faults."""
    by_stem: dict[str, pathlib.Path] = {}
    for picture in _pictures(pictures):
        path = notes / f"{picture.stem}.json"
        other = by_stem.setdefault(picture.stem, picture)
        if other == picture:
            yield picture, path
        else:
            faults.append(f"{path}: must be of one picture, not {other} and {picture}.")
    for path in _notes(notes):
        if path.stem not in by_stem:
            faults.append(f"{path}: must have a picture of its name in {pictures}.")


def _hands(
    path: pathlib.Path, classes: Sequence[str] | None, faults: Faults
) -> tuple[targets.Label, ...] | None:
    """The hands of a picture; None where the whole file is at fault."""
    try:
        hands, wrong = strict_json.load(_text(path))
        if wrong:
            raise ValueError(f"{path}: must be JSON: {wrong[0][:200]}.")
        if not isinstance(hands, list) or len(hands) > MAX_HANDS:
            raise ValueError(f"{path}: must hold a list of at most {MAX_HANDS} hands.")
    except ValueError as error:
        faults.append(str(error))
        return None
    labels = []
    for index, hand in enumerate(hands):
        try:
            labels.append(_hand(hand, classes))
        except ValueError as error:
            faults.append(f"{path}: hand {index}: {error}")
    return tuple(labels)


def _hand(hand: Any, classes: Sequence[str] | None) -> targets.Label:
    if not isinstance(hand, dict):
        raise ValueError("must be an object.")
    return targets.Label(
        *together(
            lambda: box(floats(hand, "bounding_box", 4)),
            lambda: points(floats(hand, "key_points", 2 * KEYPOINTS)),
            lambda: _class_index(hand.get("label"), classes),
        )
    )


def _class_index(label: Any, classes: Sequence[str] | None) -> int:
    """A class name, or else its number from 1 on."""
    if classes is None:
        return 0
    text = str(label) if isinstance(label, str | int) else ""
    if text in classes:
        return list(classes).index(text)
    if _is_number(text) and 1 <= int(text) <= len(classes):
        return int(text) - 1
    raise ValueError(
        f"`label` must be one of {list(classes)} or 1..{len(classes)}. "
        f"Received: {quoted(label)}."
    )


def _is_number(text: str) -> bool:
    """Whether the text is a small number in ASCII digits."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )


def _notes(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json")
