"""Detections drawn into a picture: box, keypoints, class and score.

Everything scales with the picture, and small ones are enlarged first, so that the text
can be read whatever the size.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ondevice.detection import decoding

# Pictures whose shorter side is below are enlarged by a whole factor to reach it.
MIN_SIDE = 320

# By class index, in turn; all bright enough to stand out from skin and from black.
COLOURS = (
    (255, 214, 10),
    (50, 215, 255),
    (255, 105, 180),
    (48, 209, 88),
    (255, 120, 60),
    (160, 140, 255),
    (230, 230, 230),
    (190, 240, 60),
)
_DARK = (0, 0, 0)

# Shares of the picture's shorter side.
_LINE = 1 / 160
_POINT = 1 / 90
_TEXT = 1 / 18

# Pixels.
_SMALLEST_TEXT = 8

# How far outside the picture a coordinate may lie, in its units, before it is moved in.
_FAR = 2.0

# Left, top, right, bottom, in pixels.
_Rectangle = tuple[int, int, int, int]


def draw(
    picture: Image.Image,
    detections: Sequence[decoding.Detection],
    class_names: Sequence[str],
    scores: bool = True,
) -> Image.Image:
    """A copy of the picture with detections drawn into it.

    Args:
      picture: Any mode and size.
      detections: In units of the picture's width and height; the best lies on top.
      class_names: Names by class index, any Unicode; glyphs that no font at hand has
        show as boxes.
      scores: Whether the score stands behind the name.

    Returns:
      An RGB picture of the same aspect ratio, at least `MIN_SIDE` on each side.

    Raises:
      ValueError: If a detection's class has no name.
    """
    unknown = {d.class_index for d in detections} - set(range(len(class_names)))
    if unknown:
        raise ValueError(
            f"Every class must have a name. Received: {list(class_names)} for the "
            f"indices {sorted(unknown)}."
        )
    factor = max(1, math.ceil(MIN_SIDE / max(1, min(picture.size))))
    # A line of pixels would grow without bound.
    factor = min(factor, max(1, 8192 // max(picture.size)))
    canvas = picture.convert("RGB").resize(
        (picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(canvas.size) * _LINE))
    ranked = sorted(detections, key=lambda d: -d.score)
    boxes = [_sides(canvas, detection) for detection in ranked]
    for detection, box in reversed(list(zip(ranked, boxes, strict=True))):
        _box(pen, box, _colour(detection), line)
    taken = np.array(boxes, np.float64).reshape(-1, 4)
    for detection, box in zip(ranked, boxes, strict=True):
        name = class_names[detection.class_index]
        text = f"{name} {detection.score:.2f}" if scores else name
        ground = _label(canvas, pen, text, box, taken, _colour(detection))
        taken = np.append(taken, [ground], axis=0)
    for detection in reversed(ranked):  # Last: no label may hide one.
        _keypoints(canvas, pen, detection, line)
    return canvas


def _colour(detection: decoding.Detection) -> tuple[int, int, int]:
    return COLOURS[detection.class_index % len(COLOURS)]


def _sides(canvas: Image.Image, detection: decoding.Detection) -> _Rectangle:
    xmin, ymin = _pixel(canvas, detection.box[:2])
    xmax, ymax = _pixel(canvas, detection.box[2:])
    left, right = sorted((xmin, xmax))
    top, bottom = sorted((ymin, ymax))
    return left, top, right, bottom


def _box(
    pen: ImageDraw.ImageDraw,
    box: _Rectangle,
    colour: tuple[int, int, int],
    line: int,
) -> None:
    left, top, right, bottom = box
    # A dark rim keeps the line visible on any ground.
    pen.rectangle(
        (left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=line + 2
    )
    pen.rectangle(box, outline=colour, width=line)


def _keypoints(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    detection: decoding.Detection,
    line: int,
) -> None:
    radius = max(1, round(min(canvas.size) * _POINT))
    for point in detection.keypoints:
        x, y = _pixel(canvas, point)
        pen.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=_colour(detection),
            outline=_DARK,
            width=max(1, line // 2),
        )


def _label(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    text: str,
    box: _Rectangle,
    taken: np.ndarray,
    colour: tuple[int, int, int],
) -> _Rectangle:
    """Text on a ground of its colour, beside the box; returns the ground."""
    size = max(_SMALLEST_TEXT, round(min(canvas.size) * _TEXT))
    font = _font(size)
    text = _printable(text, font)
    margin = max(1, size // 6)
    room = canvas.width - 2 * margin - 1
    length = font.getlength(text)
    if length > room:  # A long name: smaller, so that its score is seen.
        size = max(_SMALLEST_TEXT, int(size * room / length))
        font = _font(size)
    x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
    width, height = round(x1 - x0) + 2 * margin, round(y1 - y0) + 2 * margin
    x, y = _free_place(canvas, (width, height), box, taken)
    ground = (x, y, x + width, y + height)
    pen.rectangle(ground, fill=colour)
    pen.text((x + margin - x0, y + margin - y0), text, fill=_DARK, font=font)
    return ground


def _free_place(
    canvas: Image.Image,
    size: tuple[int, int],
    box: _Rectangle,
    taken: np.ndarray,
) -> tuple[int, int]:
    """Where a label lies, always inside: the first place that hides the least.

    Args:
      canvas: The picture.
      size: Width and height of the label.
      box: What it belongs to.
      taken: [N, 4] sides of boxes and of labels that lie already.

    Returns:
      Its left and top.
    """
    width, height = size
    left, top, right, bottom = box
    places = np.array(
        [
            *((left, top - height), (right - width, top - height)),
            *((left, bottom), (right - width, bottom)),
            *((right, top), (left - width, top)),
            *((right, bottom - height), (left - width, bottom - height)),
        ]
    )
    most = np.maximum(0, np.array(canvas.size) - size)
    low = np.clip(places, 0, most)[:, np.newaxis]
    shared = np.minimum(low + size, taken[:, 2:]) - np.maximum(low, taken[:, :2])
    hidden = np.maximum(shared, 0).prod(axis=-1).sum(axis=-1)
    x, y = low[hidden.argmin(), 0].tolist()
    return x, y


def _pixel(canvas: Image.Image, point: Sequence[float]) -> tuple[int, int]:
    x, y = (max(-_FAR, min(1 + _FAR, value)) for value in point)
    return round(x * (canvas.width - 1)), round(y * (canvas.height - 1))


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which has most scripts' letters, else what Pillow carries."""
    places = ["DejaVuSans.ttf"]
    matplotlib = importlib.util.find_spec("matplotlib")  # Located, not imported.
    if matplotlib is not None and matplotlib.origin:
        folder = pathlib.Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
        places.append(str(folder / "DejaVuSans.ttf"))
    for place in places:
        try:
            return ImageFont.truetype(place, size)
        except (OSError, ImportError):
            continue
    return ImageFont.load_default(size)


def write(
    canvas: Image.Image,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    width: int,
) -> None:
    """Writes a line of text, its middle left out where it is too long.

    Args:
      canvas: To write on, RGB.
      place: Left and top, in pixels.
      text: Any Unicode.
      size: Of the letters, in pixels.
      colour: RGB.
      width: Bound on the line, in pixels.
    """
    pen, font = ImageDraw.Draw(canvas), _font(size)
    text = shown = _printable(text, font)
    half = len(text) // 2
    while half and pen.textlength(shown, font=font) > width:
        shown = f"{text[:half]}...{text[-half:]}"
        half -= 1
    pen.text(place, shown, fill=colour, font=font)


def _printable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text without what would leave the line, or what the font cannot hold."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if not isinstance(font, ImageFont.FreeTypeFont):  # A Pillow without FreeType.
        text = text.encode("latin-1", "replace").decode("latin-1")
    return text
