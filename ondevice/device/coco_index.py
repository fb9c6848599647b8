"""What a COCO file holds beside its hands: its categories and pictures.

Files are read record by record: COCO-WholeBody's take half a gigabyte.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from ondevice.detection import targets
from ondevice.device import annotations, images, json_records

HAND = 21

_KEYS = ("images", "annotations", "categories")

# Numbers of a palm's and of a hand's `keypoints`.
NUMBERS = (3 * annotations.KEYPOINTS, 3 * HAND)

# Width times height may differ from the picture's own by this share: they are rounded
# when a picture is made smaller.
_ASPECT = 0.02

_MOST_CATEGORIES = 10_000
_LONGEST_NAME = 200


@dataclasses.dataclass(slots=True)
class Picture:
    """A picture, and the hands that were found of it so far.

    Attributes:
      path: The file.
      width: In pixels, as the file says it.
      height: In pixels.
      labels: Hands to be learnt from.
      unlabelled: Boxes of others.
      is_noted: Whether there are annotations of it.
      has_class: Whether one is of a class.
    """

    path: pathlib.Path
    width: float
    height: float
    labels: list[targets.Label] = dataclasses.field(default_factory=list)
    unlabelled: list[targets.Box] = dataclasses.field(default_factory=list)
    is_noted: bool = False
    has_class: bool = False


@dataclasses.dataclass(frozen=True)
class Index:
    """What is to be known before the hands.

    Attributes:
      names: Of the categories, by their ids.
      with_hands: Ids of the categories with keypoints of hands, in order of appearance.
      pictures: By their ids.
    """

    names: dict[Any, str]
    with_hands: dict[Any, None]
    pictures: dict[Any, Picture]


def find(path: pathlib.Path) -> pathlib.Path | None:
    """The COCO file that `path` is or holds: itself, or the one in `annotations/`."""
    if path.is_file():
        return path
    for folder in (path / "annotations", path):
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if len(files) == 1:
            return files[0]
    return None


def read(path: pathlib.Path, data: bytes, faults: annotations.Faults) -> Index:
    """Reads all but the hands.

    Args:
      path: The file, for messages and to find the pictures.
      data: What it holds.
      faults: What is wrong with pictures is added.

    Raises:
      ValueError: If it is no COCO file.
      TooManyFaults: If there are.
    """
    found = Index({}, {}, {})
    taken: dict[pathlib.Path, int] = {}
    for key, place, record in records(path, data):
        if key == "images":
            _add_picture(path, place, record, taken, found, faults)
        elif key == "categories" and _has_id(record):
            name = record.get("name")
            if isinstance(name, str):
                found.names[record["id"]] = name[:_LONGEST_NAME]
            _bound_categories(path, found.names)
        elif key == "annotations" and has_hand_keypoints(record):
            category = record.get("category_id")
            if is_id(category):
                found.with_hands[category] = None
                _bound_categories(path, found.with_hands)
    return found


def records(
    path: pathlib.Path, data: bytes
) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Yields (key, place, record) of the three lists.

    Raises:
      ValueError: If it is no COCO file.
    """
    seen: set[str] = set()
    try:
        for key, items in json_records.lists(data):
            if key not in _KEYS:
                continue
            if items is None or key in seen:
                raise ValueError(f"`{key}` must be one list")
            seen.add(key)
            for place, record in enumerate(items):
                if not isinstance(record, dict):
                    raise ValueError(f"`{key}` must hold objects only, at {place}")
                yield key, place, record
        if len(seen) < len(_KEYS):
            raise ValueError(f"of these there is {sorted(seen)}")
    except ValueError as error:
        raise ValueError(
            f"{path}: must be a COCO file, JSON with the lists {', '.join(_KEYS)}: "
            f"{error}."
        ) from None


def is_id(value: Any) -> bool:
    """Whether it is a text, or an integer that a float holds: larger hashes repeat."""
    return isinstance(value, str) or type(value) is int and annotations.is_finite(value)


def has_hand_keypoints(note: Mapping[str, Any]) -> bool:
    """Whether an annotation has as many keypoints as a palm or a hand."""
    listed = note.get("keypoints")
    return isinstance(listed, list) and len(listed) in NUMBERS


def _add_picture(
    path: pathlib.Path,
    place: int,
    entry: Mapping[str, Any],
    taken: dict[pathlib.Path, int],
    index: Index,
    faults: annotations.Faults,
) -> None:
    where = f"{path}: image {place}"
    try:
        file = _file(path, entry)
        where += f" ({file.name})"
        before = taken.setdefault(file, place)
        if before != place:
            raise ValueError(f"must be listed once. It is image {before}, too.")
        if not _has_id(entry) or entry["id"] in index.pictures:
            raise ValueError(
                "must have an `id` of its own, a whole number or a text. "
                f"Received: {annotations.quoted(entry.get('id'))}."
            )
        picture = Picture(file, _side(entry, "width"), _side(entry, "height"))
        _check_size(picture)
        index.pictures[entry["id"]] = picture
    except ValueError as error:
        faults.append(f"{where}: {error}")


def _file(path: pathlib.Path, entry: Mapping[str, Any]) -> pathlib.Path:
    name = entry.get("file_name")
    quoted = annotations.quoted(name)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"`file_name` must be a text. Received: {quoted}.")
    relative = pathlib.PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(
            f"`file_name` must stay in the data's folder. Received: {quoted}."
        )
    bases = [path.parent]
    if path.parent.name == "annotations":
        bases.append(path.parent.parent)
    for base in bases:
        for folder in (base, base / "images", base / path.stem):
            try:
                if (folder / relative).is_file():
                    return folder / relative
            except OSError:  # Too many bytes for a name, and the like.
                continue
    raise ValueError(f"{quoted} must lie in {path.parent} or its folder `images`.")


def _side(entry: Mapping[str, Any], key: str) -> float:
    if not annotations.is_finite(entry.get(key)) or entry[key] <= 0:
        raise ValueError(
            f"the image's `{key}` must be positive. "
            f"Received: {annotations.quoted(entry.get(key))}."
        )
    return float(entry[key])


def _check_size(picture: Picture) -> None:
    """Refuses labels that were drawn on a picture lying on its side."""
    width, height = picture.width, picture.height
    try:
        real_width, real_height = images.size(picture.path)
    except images.ImageError:
        return  # It is listed where all pictures are decoded.
    one, other = width * real_height, height * real_width
    if abs(one - other) > _ASPECT * max(one, other):
        raise ValueError(
            "`width` and `height` must be those of the picture, set upright by its "
            f"EXIF: {real_width} x {real_height}. Received: {width:g} x {height:g}."
        )


def _has_id(entry: Mapping[str, Any]) -> bool:
    return is_id(entry.get("id"))


def _bound_categories(path: pathlib.Path, found: Sized) -> None:
    if len(found) > _MOST_CATEGORIES:
        raise ValueError(f"{path}: must have at most {_MOST_CATEGORIES} categories.")
