"""Annotations in COCO's format, with keypoints.

One JSON with `images`, `annotations` and `categories`; boxes [x, y, width, height] and
keypoints [x, y, visibility, ...] in pixels. A category counts where its name is a
class; a hand has the palm's box and its seven keypoints, or the whole hand's box and
its 21 in the order of MediaPipe, OpenPose and COCO-WholeBody: wrist, then each finger
from thumb to pinky, from its base to its tip. From those the palm's are derived.

A hand without all of them, and a crowd, cannot be learnt from, nor is what lies there
background: their boxes become `Sample.unlabelled`. So do hands of other categories,
told by their keypoints, in the pictures that are used. Where classes are ignored, every
category with such hands counts.
Source: cocodataset.org, format-data; cocoapi, cocoeval.py, for crowds.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from ondevice.detection import targets
from ondevice.device import annotations, images, samples

_KEYS = ("images", "annotations", "categories")

# Keypoints of a palm among a hand's 21: wrist, four finger bases from index to pinky,
# thumb's CMC and MCP. Checked on 277 photographs (Sign Language Digits Dataset): each
# keypoint of palm_full is nearest to this one of MediaPipe's hand_landmark_full, 0.07
# to 0.12 of the palm's side away (medians), and more than twice as far from any other.
_PALM_OF_HAND = (0, 5, 9, 13, 17, 1, 2)
_HAND = 21

# A palm's box is the square around the middle of its keypoints' bounding box, this many
# times as long as its longer side. On 60 of these photographs, turned by 0, 30, 60, 90,
# 135 and 180 degrees: side over side 1.02 to 1.05, middles 0.01 of the side apart, IoU
# with palm_full's box 0.92 to 0.95 (medians).
_PALM_SIDE = 1.03

# Numbers of a palm's and of a hand's `keypoints`.
_NUMBERS = (3 * annotations.KEYPOINTS, 3 * _HAND)

# Width times height may differ from the picture's own by this share: they are rounded
# when a picture is made smaller.
_ASPECT = 0.02


@dataclasses.dataclass
class _Counts:
    """What is left out, for one line of the log."""

    partial: int = 0
    crowds: int = 0
    without: int = 0
    strays: int = 0


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The COCO file that `path` is or holds: itself, or the one in `annotations/`."""
    if path.is_file():
        return path
    for folder in (path / "annotations", path):
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if len(files) == 1:
            return files[0]
    return None


def read(
    path: pathlib.Path, classes: Sequence[str] | None
) -> tuple[list[samples.Sample], list[str]]:
    """Reads a COCO file; pictures lie beside it, or in `images` or its own name there.

    Args:
      path: The file.
      classes: Names by index; None takes the hands of all categories as class 0.

    Returns:
      The pictures that hold a hand of one of the classes, or nothing at all, and what
      is wrong, with file names.
    """
    document, fault = annotations.load(path)
    if fault:
        return [], [fault]
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list)
        and all(isinstance(entry, dict) for entry in document[key])
        for key in _KEYS
    ):
        return [], [f"{path}: must be a COCO file with the lists {', '.join(_KEYS)}."]
    names = {c["id"]: c.get("name") for c in document["categories"] if _has_id(c)}
    kinds = _kinds(document["annotations"], names, classes)
    if not set(map(str, names.values())) & set(kinds):
        wanted = f"named by a class, one of {list(kinds)}"
        if classes is None:
            wanted = f"with {annotations.KEYPOINTS} or {_HAND} keypoints"
        return [], [
            f"{path}: must have a category {wanted}. "
            f"Received: {sorted(map(str, names.values()))}."
        ]
    if classes is None:
        logging.info("%s: hands of all these count as palms: %s.", path, [*kinds])
    entries, faults = _entries(path, document["images"])
    notes: dict[Any, list[tuple[int, Mapping]]] = {key: [] for key in entries}
    counts = _Counts()
    for index, note in enumerate(document["annotations"]):
        image_id = note.get("image_id")
        if isinstance(image_id, int | str) and image_id in notes:
            notes[image_id].append((index, note))
        else:
            counts.strays += 1
    found = []
    for key, (picture, entry) in entries.items():
        sample, wrong = _sample(picture, entry, notes[key], names, kinds, counts)
        faults += [f"{path}: {fault}" for fault in wrong]
        if sample is not None:
            found.append(sample)
    if counts.partial and not faults and not any(sample.labels for sample in found):
        faults.append(
            f"{path}: must have a hand with all its keypoints. Received: "
            f"{counts.partial} without."
        )
    if not faults:
        _tell(path, counts)
    return found, faults


def _kinds(
    notes: Sequence[Mapping], names: Mapping[Any, Any], classes: Sequence[str] | None
) -> dict[str, int]:
    """Categories that count, and the class of each."""
    if classes is not None:
        return {name: index for index, name in enumerate(classes)}
    found = {}
    for note in notes:
        category = note.get("category_id")
        known = isinstance(category, int | str) and category in names
        if known and _has_hand_keypoints(note):
            found[str(names[category])] = 0
    return found


def _has_hand_keypoints(note: Mapping) -> bool:
    listed = note.get("keypoints")
    return isinstance(listed, list) and len(listed) in _NUMBERS


def _sample(
    picture: pathlib.Path,
    entry: Mapping,
    notes: Sequence[tuple[int, Mapping]],
    names: Mapping[Any, Any],
    kinds: Mapping[str, int],
    counts: _Counts,
) -> tuple[samples.Sample | None, list[str]]:
    """A picture with its hands, or None where it shows none of the classes; faults."""
    labels: list[targets.Label] = []
    unlabelled: list[targets.Box] = []
    faults = []
    used = not notes
    for index, note in notes:
        try:
            name = _category(note, names)
            used |= name in kinds
            hand = _hand(note, entry, kinds.get(name), counts)
        except ValueError as error:
            faults.append(f"annotation {index} ({picture.name}): {error}")
            continue
        if isinstance(hand, targets.Label):
            labels.append(hand)
        elif hand is not None:
            unlabelled.append(hand)
    if used:
        return samples.Sample(picture, None, (*labels,), (*unlabelled,)), faults
    counts.without += 1
    return None, faults


def _entries(
    path: pathlib.Path, listed: Sequence[Mapping]
) -> tuple[dict[Any, tuple[pathlib.Path, Mapping]], list[str]]:
    """The pictures by their ids, and what is wrong with them."""
    found: dict[Any, tuple[pathlib.Path, Mapping]] = {}
    faults = []
    taken: dict[pathlib.Path, int] = {}
    for index, entry in enumerate(listed):
        where = f"{path}: image {index}"
        try:
            picture = _picture(path, entry)
            where += f" ({picture.name})"
            before = taken.setdefault(picture, index)
            if before != index:
                raise ValueError(f"must be listed once. It is image {before}, too.")
            if not _has_id(entry) or entry["id"] in found:
                raise ValueError(
                    "must have an `id` of its own, a number or a text. "
                    f"Received: {entry.get('id')!r}."
                )
            _check_size(picture, entry)
            found[entry["id"]] = picture, entry
        except ValueError as error:
            faults.append(f"{where}: {error}")
    return found, faults


def _picture(path: pathlib.Path, entry: Mapping) -> pathlib.Path:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"`file_name` must be a text. Received: {name!r}.")
    relative = pathlib.PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(
            f"`file_name` must stay in the data's folder. Received: {name!r}."
        )
    bases = [path.parent]
    if path.parent.name == "annotations":
        bases.append(path.parent.parent)
    for base in bases:
        for folder in (base, base / "images", base / path.stem):
            if (folder / relative).is_file():
                return folder / relative
    raise ValueError(f"{name!r} must lie in {path.parent} or its folder `images`.")


def _check_size(picture: pathlib.Path, entry: Mapping) -> None:
    """Refuses labels that were drawn on a picture lying on its side."""
    width, height = _size(entry)
    try:
        real_width, real_height = images.size(picture)
    except images.ImageError:
        return  # It is listed where all pictures are decoded.
    one, other = width * real_height, height * real_width
    if abs(one - other) > _ASPECT * max(one, other):
        raise ValueError(
            "`width` and `height` must be those of the picture, set upright by its "
            f"EXIF: {real_width} x {real_height}. Received: {width:g} x {height:g}."
        )


def _size(entry: Mapping) -> tuple[float, float]:
    for key in ("width", "height"):
        if not annotations.is_finite(entry.get(key)) or entry[key] <= 0:
            raise ValueError(
                f"the image's `{key}` must be positive. Received: {entry.get(key)!r}."
            )
    return float(entry["width"]), float(entry["height"])


def _category(note: Mapping, names: Mapping[Any, Any]) -> str:
    category = note.get("category_id")
    if not isinstance(category, int | str) or category not in names:
        raise ValueError(
            f"`category_id` must be one of {sorted(map(str, names))}. "
            f"Received: {category!r}."
        )
    return str(names[category])


def _hand(
    note: Mapping, entry: Mapping, kind: int | None, counts: _Counts
) -> targets.Label | targets.Box | None:
    """A hand of a class, the box of one that cannot be learnt from, or no hand.

    Args:
      note: Of `annotations`.
      entry: Of `images`.
      kind: Index of the class; None for another category.
      counts: Are raised.
    """
    if kind is None and not _has_hand_keypoints(note):
        return None
    width, height = _size(entry)
    box, flat = annotations.together(
        lambda: _box(note, width, height), lambda: _keypoints(note)
    )
    if kind is None:
        return box
    if note.get("iscrowd") == 1:
        counts.crowds += 1
        return box
    triples = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    if len(triples) == _HAND:
        triples = [triples[index] for index in _PALM_OF_HAND]
    if not triples or any(visibility == 0 for _, _, visibility in triples):
        counts.partial += 1
        return box
    if len(flat) == 3 * _HAND:
        box = _palm(triples, width, height)
    places = [(x / width, y / height) for x, y, _ in triples]
    flat = [value for place in places for value in place]
    return targets.Label(box, annotations.points(flat), kind)


def _palm(
    triples: Sequence[tuple[float, float, float]], width: float, height: float
) -> targets.Box:
    """The box of a palm with these keypoints, in pixels; in units of the picture."""
    x, y, _ = zip(*triples, strict=True)
    half = _PALM_SIDE / 2 * max(max(x) - min(x), max(y) - min(y))
    across, down = (min(x) + max(x)) / 2, (min(y) + max(y)) / 2
    corners = [(across - half) / width, (down - half) / height]
    return annotations.box([*corners, (across + half) / width, (down + half) / height])


def _box(note: Mapping, width: float, height: float) -> targets.Box:
    x, y, wide, high = annotations.floats(note, "bbox", 4)
    return annotations.box(
        [x / width, y / height, (x + wide) / width, (y + high) / height]
    )


def _keypoints(note: Mapping) -> list[float]:
    """x1, y1, v1, ..., in pixels; [] where none is labelled."""
    if not note.get("keypoints") or note.get("iscrowd") == 1:
        return []
    flat = annotations.floats(note, "keypoints")
    if len(flat) not in _NUMBERS:
        raise ValueError(
            f"`keypoints` must be {annotations.KEYPOINTS} or {_HAND} triples. "
            f"Received: {len(flat)} numbers."
        )
    return flat


def _has_id(entry: Mapping) -> bool:
    return isinstance(entry.get("id"), int | str)


def _tell(path: pathlib.Path, counts: _Counts) -> None:
    if counts.partial or counts.crowds:
        logging.warning(
            "%s: %d hands without all their keypoints and %d crowds: what is found "
            "there counts neither as right nor as wrong.", path, counts.partial,
            counts.crowds,
        )  # fmt: skip
    if counts.without or counts.strays:
        logging.info(
            "%s: left out: %d pictures with no hand of the classes, %d annotations of "
            "no picture.", path, counts.without, counts.strays,
        )  # fmt: skip
