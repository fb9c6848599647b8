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
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from ondevice.detection import targets
from ondevice.device import annotations, coco_index, samples

# Keypoints of a palm among a hand's 21: wrist, four finger bases from index to pinky,
# thumb's CMC and MCP. Checked on 277 photographs (Sign Language Digits Dataset): each
# keypoint of palm_full is nearest to this one of MediaPipe's hand_landmark_full, 0.07
# to 0.12 of the palm's side away (medians), and more than twice as far from any other.
_PALM_OF_HAND = (0, 5, 9, 13, 17, 1, 2)

# A palm's box is the square around the middle of its keypoints' bounding box, this many
# times as long as its longer side. On 60 of these photographs, turned by 0, 30, 60, 90,
# 135 and 180 degrees: side over side 1.02 to 1.05, middles 0.01 of the side apart, IoU
# with palm_full's box 0.92 to 0.95 (medians).
_PALM_SIDE = 1.03


@dataclasses.dataclass
class _Counts:
    """What is left out, for one line of the log."""

    partial: int = 0
    crowds: int = 0
    without: int = 0
    strays: int = 0


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
    faults = annotations.Faults()
    counts = _Counts()
    try:
        data = annotations.content(path)
        index = coco_index.read(path, data, faults)
        kinds = _kinds(path, index, classes)
        _take_hands(path, data, index, kinds, counts, faults)
    except ValueError as error:
        return [], [str(error)]
    except annotations.TooManyFaults:
        return [], faults
    found = [
        samples.Sample(each.path, None, (*each.labels,), (*each.unlabelled,))
        for each in index.pictures.values()
        if each.has_class or not each.is_noted
    ]
    counts.without = len(index.pictures) - len(found)
    if counts.partial and not faults and not any(sample.labels for sample in found):
        faults.append(
            f"{path}: must have a hand with all its keypoints. Received: "
            f"{counts.partial} without."
        )
    if not faults:
        _tell(path, counts)
    return found, faults


def _kinds(
    path: pathlib.Path, index: coco_index.Index, classes: Sequence[str] | None
) -> dict[str, int]:
    """Names of the categories that count, and the class of each.

    Raises:
      ValueError: If there is none.
    """
    if classes is None:
        there = [index.names[key] for key in index.with_hands if key in index.names]
        kinds = {name: 0 for name in there}
        wanted = f"with {annotations.KEYPOINTS} or {coco_index.HAND} keypoints"
    else:
        kinds = {name: number for number, name in enumerate(classes)}
        wanted = f"named by a class, one of {list(kinds)}"
    if not set(index.names.values()) & set(kinds):
        raise ValueError(
            f"{path}: must have a category {wanted}. "
            f"Received: {sorted(name[:20] for name in index.names.values())[:20]}."
        )
    if classes is None:
        logging.info("%s: hands of all these count as palms: %s.", path, [*kinds])
    return kinds


def _take_hands(
    path: pathlib.Path,
    data: bytes,
    index: coco_index.Index,
    kinds: Mapping[str, int],
    counts: _Counts,
    faults: annotations.Faults,
) -> None:
    """Adds the hands to their pictures."""
    for key, place, note in coco_index.records(path, data):
        if key != "annotations":
            continue
        image_id = note.get("image_id")
        picture = None
        if coco_index.is_id(image_id):
            picture = index.pictures.get(image_id)
        if picture is None:
            counts.strays += 1
            continue
        try:
            _take_hand(note, picture, index.names, kinds, counts)
        except ValueError as error:
            faults.append(f"{path}: annotation {place} ({picture.path.name}): {error}")


def _take_hand(
    note: Mapping,
    picture: coco_index.Picture,
    names: Mapping[Any, str],
    kinds: Mapping[str, int],
    counts: _Counts,
) -> None:
    picture.is_noted = True
    name = _category(note, names)
    picture.has_class |= name in kinds
    hand = _hand(note, picture, kinds.get(name), counts)
    if hand is None:
        return
    if len(picture.labels) + len(picture.unlabelled) >= annotations.MAX_HANDS:
        raise ValueError(
            f"the image must have at most {annotations.MAX_HANDS} annotated hands."
        )
    if isinstance(hand, targets.Label):
        picture.labels.append(hand)
    else:
        picture.unlabelled.append(hand)


def _category(note: Mapping, names: Mapping[Any, str]) -> str:
    category = note.get("category_id")
    if not coco_index.is_id(category) or category not in names:
        known = sorted(str(key)[:20] for key in itertools.islice(names, 20))
        raise ValueError(
            f"`category_id` must be one of {known}. "
            f"Received: {annotations.quoted(category)}."
        )
    return names[category]


def _hand(
    note: Mapping, picture: coco_index.Picture, kind: int | None, counts: _Counts
) -> targets.Label | targets.Box | None:
    """A hand of a class, the box of one that cannot be learnt from, or no hand.

    Args:
      note: Of `annotations`.
      picture: The one that it is of.
      kind: Index of the class; None for another category.
      counts: Are raised.
    """
    if kind is None and not coco_index.has_hand_keypoints(note):
        return None
    width, height = picture.width, picture.height
    box, flat = annotations.together(
        lambda: _box(note, width, height), lambda: _keypoints(note)
    )
    if kind is None:
        return box
    if note.get("iscrowd") == 1:
        counts.crowds += 1
        return box
    triples = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
    if len(triples) == coco_index.HAND:
        triples = [triples[index] for index in _PALM_OF_HAND]
    if not triples or any(visibility == 0 for _, _, visibility in triples):
        counts.partial += 1
        return box
    if len(flat) == 3 * coco_index.HAND:
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
    if len(flat) not in coco_index.NUMBERS:
        raise ValueError(
            f"`keypoints` must be {annotations.KEYPOINTS} or {coco_index.HAND} "
            f"triples. Received: {len(flat)} numbers."
        )
    return flat


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
