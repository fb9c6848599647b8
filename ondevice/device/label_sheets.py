"""Contact sheets of labelled pictures, to see what training learns from.

A page shows pictures of one class with their boxes, keypoints and names; pictures
without a hand, and those in which none was found, have pages of their own.
"""

from __future__ import annotations

import io
import math
import pathlib
from collections.abc import Callable, Sequence

from absl import logging
from PIL import Image

from checkpoints import atomic
from ondevice.detection import decoding, drawing
from ondevice.device import image_cache, samples

# Pictures on a page, and the side of each in pixels, and of the text.
COLUMNS, ROWS = 6, 5
_SIDE, _GAP, _TEXT = 260, 8, 13
_GROUND, _INK = (24, 24, 24), (235, 235, 235)
_LINE = round(1.5 * _TEXT)
_HEAD = 2 * _LINE

# Longest part of a name in a file's name.
_LONGEST = 40

_QUALITY = 88

# Begin with what no class does in a file's name.
_BACKGROUND, _MISSING = "_nothing", "_not_found"

# Stands at a box in which there may be objects that nobody has labelled.
_UNLABELLED = "?"


def write(
    dataset: samples.Dataset,
    directory: pathlib.Path,
    cache: image_cache.ImageCache,
    prefix: str = "",
    progress: Callable = lambda items, what: items,
) -> list[pathlib.Path]:
    """Writes the sheets, NAME-01.jpg and so on; a name is a class's, or see above.

    Args:
      dataset: Labelled.
      directory: Made where it is missing.
      cache: Decoded pictures.
      prefix: Of the files' names.
      progress: Wraps an iterable, and is told what it goes through.

    Returns:
      The files.

    Raises:
      ImageError: If a picture cannot be decoded.
      OSError: If a page cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pages = []
    for name, title, chosen in _groups(dataset):
        count = math.ceil(len(chosen) / (COLUMNS * ROWS))
        for page in range(count):
            shown = chosen[page * COLUMNS * ROWS : (page + 1) * COLUMNS * ROWS]
            path = directory / f"{prefix}{name}-{page + 1:02d}.jpg"
            head = f"{prefix}{title}: {len(chosen)} images, page {page + 1} of {count}"
            pages.append((path, head, shown))
    for path, head, shown in progress(pages, "label sheets"):
        stream = io.BytesIO()
        sheet = _sheet(head, shown, dataset.classes, cache)
        # Whole colours: the lines are thin.
        sheet.save(stream, format="JPEG", quality=_QUALITY, subsampling=0)
        atomic.write(path, [stream.getvalue()])
    logging.info("%s: %d sheets of labelled images.", directory, len(pages))
    return [path for path, _, _ in pages]


def _groups(
    dataset: samples.Dataset,
) -> list[tuple[str, str, list[samples.Sample]]]:
    """(part of the file's name, title, pictures).

    A picture with objects of several classes is in each one's.
    """
    names = [_file_part(name) for name in dataset.classes]
    lower = [name.lower() for name in names]  # Some file systems do not tell cases.
    for index, name in enumerate(lower):
        if not name or lower.count(name) > 1:
            names[index] += f"{index}"
    groups: list[tuple[str, str, list[samples.Sample]]] = [
        (name, label, []) for name, label in zip(names, dataset.classes)
    ]
    background: list[samples.Sample] = []
    missing: list[samples.Sample] = []
    for sample in dataset.samples:
        if not sample.labels:
            (missing if sample.labels is None else background).append(sample)
        for index in {label.class_index for label in sample.labels or ()}:
            groups[index][2].append(sample)
    groups.append((_BACKGROUND, "nothing", background))
    groups.append((_MISSING, "nothing was found", missing))
    return groups


def _file_part(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return kept.strip("_")[:_LONGEST]


def _sheet(
    head: str,
    shown: Sequence[samples.Sample],
    classes: Sequence[str],
    cache: image_cache.ImageCache,
) -> Image.Image:
    rows = math.ceil(len(shown) / COLUMNS)
    cell_width, cell_height = _SIDE + _GAP, _SIDE + _LINE + _GAP
    size = (_GAP + COLUMNS * cell_width, _HEAD + rows * cell_height + _GAP)
    sheet = Image.new("RGB", size, _GROUND)
    drawing.write(sheet, (_GAP, _LINE // 3), head, round(1.3 * _TEXT), _INK, size[0])
    for place, sample in enumerate(shown):
        left = _GAP + place % COLUMNS * cell_width
        top = _HEAD + place // COLUMNS * cell_height
        picture = _picture(sample, classes, cache)
        middle = (_SIDE - picture.width) // 2, (_SIDE - picture.height) // 2
        sheet.paste(picture, (left + middle[0], top + middle[1]))
        name = "/".join(sample.path.parts[-2:])
        drawing.write(sheet, (left, top + _SIDE), name, _TEXT, _INK, _SIDE)
    return sheet


def _picture(
    sample: samples.Sample, classes: Sequence[str], cache: image_cache.ImageCache
) -> Image.Image:
    """A picture with its labels, its longer side `_SIDE`."""
    picture = Image.fromarray(cache.read(sample.path))
    hands = [
        decoding.Detection(label.box, 1.0, label.class_index, label.keypoints)
        for label in sample.labels or ()
    ]
    hands += [decoding.Detection(box, 0.0, len(classes)) for box in sample.unlabelled]
    # Twice as large, so that what is drawn keeps its edges when it is made smaller.
    drawn = drawing.draw(
        _fitted(picture, 2 * _SIDE), hands, [*classes, _UNLABELLED], scores=False
    )
    return _fitted(drawn, _SIDE)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    width, height = (max(1, round(factor * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
