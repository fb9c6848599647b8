"""Readers of annotated data sets: yirueilu-b's JSON, and COCO with keypoints.

- yirueilu-b/blaze-palm-tf2: a folder of pictures and a folder of JSON files with the
  same names (`image` and `annotation`, or with `train_` before), or both in one folder.
  A file lists hands: `label`, `bounding_box` [xmin, ymin, xmax, ymax] and `key_points`
  [x1, y1, ..., x7, y7], in units of the picture's width and height. `label` is a class
  name, or else its number from 1 on.
- COCO: one JSON with `images`, `annotations`, `categories`; boxes [x, y, width, height]
  and keypoints [x, y, visibility, ...] in pixels. A category counts where its name is a
  class. Hands of 21 keypoints (in MediaPipe's and OpenPose's order) give the palm's 7.

Pictures that an annotation names but the classes leave out, and hands without all their
keypoints, are faults: a step cannot leave single coordinates out.
Source: github.com/yirueilu-b/blaze-palm-tf2, README.md; cocodataset.org, format-data.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice.detection import targets
from ondevice.device import images, samples

KEYPOINTS = 7

# Wrist, four finger bases from index to pinky, thumb's CMC and MCP, among a hand's 21.
_PALM_OF_HAND = (0, 5, 9, 13, 17, 1, 2)

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
    names = {path.stem for path in folder.iterdir() if path.suffix.lower() == ".json"}
    if any(path.stem in names for path in _pictures(folder)):
        return folder, folder
    return None


def read_pairs(
    pictures: pathlib.Path, notes: pathlib.Path, classes: Sequence[str]
) -> tuple[list[samples.Sample], list[str]]:
    """Reads yirueilu-b's annotations.

    Returns:
      The pictures, and what is wrong, with file names.
    """
    found, faults = [], []
    for picture in _pictures(pictures):
        path = notes / f"{picture.stem}.json"
        hands, fault = _load(path)
        if fault:
            faults.append(fault)
            continue
        if not isinstance(hands, list):
            faults.append(f"{path}: must hold a list of hands.")
            continue
        labels = []
        for index, hand in enumerate(hands):
            try:
                labels.append(_pair_label(hand, classes))
            except ValueError as error:
                faults.append(f"{path}: hand {index}: {error}")
        found.append(samples.Sample(picture, None, tuple(labels)))
    return found, faults


def find_coco(path: pathlib.Path) -> pathlib.Path | None:
    """The COCO file that `path` is or holds: itself, or the one in `annotations/`."""
    if path.is_file():
        return path
    for folder in (path / "annotations", path):
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if len(files) == 1:
            return files[0]
    return None


def read_coco(
    path: pathlib.Path, classes: Sequence[str]
) -> tuple[list[samples.Sample], list[str]]:
    """Reads a COCO file; pictures lie beside it, or in `images` or its own name there.

    Returns:
      The pictures that hold a hand of one of the classes, or no hand at all, and what
      is wrong, with file names.
    """
    document, fault = _load(path)
    if fault:
        return [], [fault]
    keys = ("images", "annotations", "categories")
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list)
        and all(isinstance(entry, dict) for entry in document[key])
        for key in keys
    ):
        return [], [f"{path}: must be a COCO file with the lists {', '.join(keys)}."]
    names = {c.get("id"): c.get("name") for c in document["categories"] if _has_id(c)}
    hands: dict[Any, list[tuple[int, Mapping]]] = {}
    for index, note in enumerate(document["annotations"]):
        image_id = note.get("image_id")
        if isinstance(image_id, int | str):
            hands.setdefault(image_id, []).append((index, note))
    found, faults = [], []
    for index, entry in enumerate(document["images"]):
        where = f"{path}: image {index}"
        picture, fault = _coco_picture(path, entry)
        if picture is None:
            faults.append(f"{where}: {fault}")
            continue
        labels, others = [], 0
        for number, note in hands.get(entry.get("id"), []):
            category = note.get("category_id")
            name = names.get(category) if isinstance(category, int | str) else None
            if not isinstance(name, str) or name not in classes:
                others += 1
                continue
            try:
                labels.append(_coco_label(note, entry, list(classes).index(name)))
            except ValueError as error:
                faults.append(f"{path}: annotation {number} ({picture.name}): {error}")
        if labels or not others:
            found.append(samples.Sample(picture, None, tuple(labels)))
    return found, faults


def _pair_label(hand: Any, classes: Sequence[str]) -> targets.Label:
    if not isinstance(hand, dict):
        raise ValueError("must be an object.")
    box = _floats(hand, "bounding_box", 4)
    points = _floats(hand, "key_points", 2 * KEYPOINTS)
    keypoints = list(zip(points[::2], points[1::2], strict=True))
    return _label(box, keypoints, _class_index(hand.get("label"), classes))


def _class_index(label: Any, classes: Sequence[str]) -> int:
    """A class name, or else its number from 1 on."""
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


def _coco_picture(
    path: pathlib.Path, entry: Mapping
) -> tuple[pathlib.Path | None, str]:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return None, f"`file_name` must be a text. Received: {name!r}."
    relative = pathlib.PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        return None, f"`file_name` must stay in the data's folder. Received: {name!r}."
    bases = [path.parent]
    if path.parent.name == "annotations":
        bases.append(path.parent.parent)
    for base in bases:
        for folder in (base, base / "images", base / path.stem):
            if (folder / relative).is_file():
                return folder / relative, ""
    return None, f"{name!r} must lie in {path.parent} or its folder `images`."


def _coco_label(note: Mapping, entry: Mapping, class_index: int) -> targets.Label:
    width, height = (_positive(entry, key) for key in ("width", "height"))
    x, y, box_width, box_height = _floats(note, "bbox", 4)
    flat = _floats(note, "keypoints", None)
    triples = list(zip(flat[::3], flat[1::3], flat[2::3]))
    if len(flat) == 3 * 21:
        triples = [triples[index] for index in _PALM_OF_HAND]
    elif len(flat) != 3 * KEYPOINTS:
        raise ValueError(
            f"`keypoints` must be {KEYPOINTS} or 21 triples. "
            f"Received: {len(flat)} numbers."
        )
    missing = [index for index, triple in enumerate(triples) if triple[2] == 0]
    if missing:
        raise ValueError(f"every keypoint must be labelled. Missing: {missing}.")
    box = [x / width, y / height, (x + box_width) / width, (y + box_height) / height]
    return _label(box, [(x / width, y / height) for x, y, _ in triples], class_index)


def _label(
    box: Sequence[float], keypoints: Sequence[tuple[float, float]], class_index: int
) -> targets.Label:
    values = [*box, *(value for point in keypoints for value in point)]
    if not all(-_OUTSIDE <= value <= 1 + _OUTSIDE for value in values):
        raise ValueError(
            "coordinates must lie in the picture, in units of its width and height. "
            f"Received: {[round(value, 4) for value in values]}."
        )
    xmin, ymin, xmax, ymax = box
    if not (xmin < xmax and ymin < ymax):
        raise ValueError(f"the box must have an area. Received: {list(box)}.")
    return targets.Label((xmin, ymin, xmax, ymax), tuple(keypoints), class_index)


def _floats(fields: Mapping, key: str, count: int | None) -> list[float]:
    values = fields.get(key)
    if (
        not isinstance(values, list)
        or not all(_finite(value) for value in values)
        or (count is not None and len(values) != count)
    ):
        wanted = f"{count} numbers" if count is not None else "numbers"
        raise ValueError(f"`{key}` must be {wanted}. Received: {str(values)[:200]}.")
    return [float(value) for value in values]


def _positive(fields: Mapping, key: str) -> float:
    value = fields.get(key)
    if not _finite(value) or value <= 0:  # type: ignore[operator]
        raise ValueError(f"the image's `{key}` must be positive. Received: {value!r}.")
    return float(value)  # type: ignore[arg-type]


def _finite(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**53
    return type(value) is float and math.isfinite(value)


def _has_id(category: Mapping) -> bool:
    return isinstance(category.get("id"), int | str)


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )


def _load(path: pathlib.Path) -> tuple[Any, str]:
    """The JSON in a file, or what is wrong with it."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return None, f"{path}: must have at most {_MAX_JSON_BYTES} bytes."
        return json.loads(path.read_bytes()), ""
    except FileNotFoundError:
        return None, f"{path}: is missing."
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{path}: must be JSON: {str(error)[:200]}."
