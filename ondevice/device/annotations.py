"""Annotated data sets: what their readers share, and that of yirueilu-b's JSON.

A folder of pictures and a folder of JSON files with the same names (`image` and
`annotation`, or with `train_` before), or both in one folder. A file lists hands:
`label`, `bounding_box` [xmin, ymin, xmax, ymax] and `key_points` [x1, y1, ..., x7, y7],
in units of the picture's width and height. `label` is a class name, or else its number
from 1 on.
Source: github.com/yirueilu-b/blaze-palm-tf2, README.md.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ondevice.detection import targets
from ondevice.device import images, samples

KEYPOINTS = 7

# A box or keypoint may leave the picture by this much, in its units; further out is
# a unit misunderstood.
_OUTSIDE = 0.5

_MAX_JSON_BYTES = 512 * 2**20


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
    found, faults = [], []
    by_stem: dict[str, pathlib.Path] = {}
    for picture in _pictures(pictures):
        path = notes / f"{picture.stem}.json"
        other = by_stem.setdefault(picture.stem, picture)
        if other != picture:
            faults.append(f"{path}: must be of one picture, not {other} and {picture}.")
            continue
        hands, fault = load(path)
        if not fault and not isinstance(hands, list):
            fault = f"{path}: must hold a list of hands."
        if fault:
            faults.append(fault)
            continue
        labels = []
        for index, hand in enumerate(hands):
            try:
                labels.append(_hand(hand, classes))
            except ValueError as error:
                faults.append(f"{path}: hand {index}: {error}")
        found.append(samples.Sample(picture, None, tuple(labels)))
    faults += [
        f"{path}: must have a picture of its name in {pictures}."
        for path in _notes(notes)
        if path.stem not in by_stem
    ]
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
        raise ValueError(f"`{key}` must be {wanted}. Received: {str(values)[:200]}.")
    return [float(value) for value in values]


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


def load(path: pathlib.Path) -> tuple[Any, str]:
    """The JSON in a file, or what is wrong with it."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return None, f"{path}: must have at most {_MAX_JSON_BYTES} bytes."
        return json.loads(path.read_bytes()), ""
    except FileNotFoundError:
        return None, f"{path}: is missing."
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{path}: must be JSON: {str(error)[:200]}."


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
        f"Received: {label!r}."
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
