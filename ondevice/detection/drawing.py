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

# How far outside the picture a coordinate may lie, in its units, before it is moved in.
_FAR = 2.0


def draw(
    picture: Image.Image,
    detections: Sequence[decoding.Detection],
    class_names: Sequence[str],
    scores: bool = True,
) -> Image.Image:
    """A copy of the picture with detections drawn into it.

    Args:
      picture: Any mode and size.
      detections: In units of the picture's width and height; the best is drawn last.
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
    for detection in sorted(detections, key=lambda d: d.score):
        name = class_names[detection.class_index]
        text = f"{name} {detection.score:.2f}" if scores else name
        _draw_one(canvas, detection, text)
    return canvas


def _draw_one(canvas: Image.Image, detection: decoding.Detection, text: str) -> None:
    pen = ImageDraw.Draw(canvas)
    shorter = min(canvas.size)
    colour = COLOURS[detection.class_index % len(COLOURS)]
    line = max(1, round(shorter * _LINE))
    xmin, ymin = _pixel(canvas, detection.box[:2])
    xmax, ymax = _pixel(canvas, detection.box[2:])
    left, right = sorted((xmin, xmax))
    top, bottom = sorted((ymin, ymax))
    # A dark rim keeps the line visible on any ground.
    pen.rectangle(
        (left - 1, top - 1, right + 1, bottom + 1), outline=_DARK, width=line + 2
    )
    pen.rectangle((left, top, right, bottom), outline=colour, width=line)
    radius = max(1, round(shorter * _POINT))
    for point in detection.keypoints:
        x, y = _pixel(canvas, point)
        pen.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=colour,
            outline=_DARK,
            width=max(1, line // 2),
        )
    _label(canvas, pen, text, (left, top, bottom), colour)


def _label(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    text: str,
    box: tuple[int, int, int],
    colour: tuple[int, int, int],
) -> None:
    """Text on a ground of its colour: above the box, else below, always inside."""
    left, top, bottom = box
    size = max(8, round(min(canvas.size) * _TEXT))
    font = _font(size)
    text = _printable(text, font)
    x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
    margin = max(1, size // 6)
    width, height = x1 - x0 + 2 * margin, y1 - y0 + 2 * margin
    y = top - height if top >= height else bottom
    y = max(0, min(round(y), canvas.height - round(height)))
    x = max(0, min(left, canvas.width - round(width)))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + margin - x0, y + margin - y0), text, fill=_DARK, font=font)


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
