"""Pictures: decoding files safely, and placing them in the model's square input.

Placing samples as MediaPipe's CPU pipeline does: bilinear without smoothing, pixel u of
the input taken at the position u / size (corners on corners, not centres on centres),
positions rounded to 1/32 of a pixel, black (0, before the range is mapped) where the
picture ends. A letterboxed picture is MediaPipe's tensor to the bit. So the detector
sees what it sees in MediaPipe, training included, and its boxes come out the same.

Smoothing while shrinking (Pillow's bilinear, centres on centres) was measured on 231
photographs of digits 0 to 6 at 12 shares of the frame: palm_full's recall moves by -2
to +2 points, up at 0.3 to 0.45, down at 0.65 to 1, by 0 on average; not enough to leave
what the detector is shipped with.

Source: mediapipe/calculators/tensor/image_to_tensor_converter_opencv.cc, OpenCV's
warpPerspective (INTER_LINEAR, BORDER_CONSTANT).
"""

from __future__ import annotations

import functools
import os
import pathlib
import struct
import warnings
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

from ondevice.detection import geometry
from ondevice.device import image_parts, perspective

# Pillow warns of each tag that it cannot read, thousands in a hostile file. Set once:
# pictures are decoded in threads, and `warnings.catch_warnings` is no good in those.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Pictures above are refused before they are decoded: 64 Mpx are 192 MB as RGB.
MAX_PIXELS = 64_000_000

# Formats that Pillow decodes by itself; EPS, for one, would run a program.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Names of files that are taken for pictures, lower case.
SUFFIXES = (
    ".bmp",
    ".gif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)

# What Pillow's decoders raise on broken files, by experience.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # Where they are turned into errors.
)

# EXIF tag 0x0112 -> what sets the picture upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_STEPS = perspective.STEPS

# Positions this close to half a step are rounded as OpenCV's own noise has it, which is
# below 1e-9 of a step for pictures of up to 32,767 pixels a side, its limit.
_NOISE = 1e-6


class ImageError(ValueError):
    """A picture that cannot be decoded; the message names the file."""


def read(path: str | os.PathLike[str], side: int | None = None) -> np.ndarray:
    """Decodes a picture: upright by its EXIF, first frame, transparency over black.

    Args:
      path: File of a format that Pillow reads by itself.
      side: Of a picture at least twice as long every n-th pixel is taken, for a longer
        side of `side` or more and less than twice that; None takes them all. Pixels
        between are not averaged, as `place` would not: on 35 photographs enlarged to
        7.7 megapixels with noise, at 4 shares of the frame, palm_full's boxes then
        agree with those of the whole picture (at 384: median IoU 0.95 to 0.99 from
        much noise to none) as well as they do between two shares 1 % apart (0.95 to
        0.97); averaged, they do not (0.90 to 0.98). But a JPEG four times as long is
        decoded at a half, which takes a quarter of the time.

    Returns:
      [height, width, 3] uint8, RGB.

    Raises:
      ImageError: If the file cannot be read, is none of the formats, is broken or
        truncated, has more than `MAX_PIXELS` pixels, or is made of too many parts.
    """
    name = os.fspath(path)
    try:
        with _opened(name) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageError(
                    f"A picture must have at most {MAX_PIXELS} pixels. "
                    f"Received: {picture.width} x {picture.height} in {name!r}."
                )
            if side is not None and max(picture.size) >= 4 * side:
                half = (picture.width // 2, picture.height // 2)
                picture.draft(None, (max(1, half[0]), max(1, half[1])))
            picture.load()
            rgb = _to_rgb(picture)
            orientation = _orientation(picture)
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
        pixels = np.array(rgb, dtype=np.uint8)
        step = max(1, max(rgb.size) // side) if side is not None else 1
        return np.ascontiguousarray(pixels[::step, ::step])
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"A picture must be one of {', '.join(_FORMATS)}. Received: {name!r}."
        ) from error
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"A picture must be readable and whole. Received: {name!r}: {error}."
        ) from error


def find(given: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Pictures and the pictures in folders and theirs, each once, in order.

    What is named itself is taken whatever its suffix; in folders, only pictures are.
    """
    found: dict[pathlib.Path, None] = {}
    for path in given:
        inside = [path]
        if path.is_dir():
            inside = [
                entry
                for entry in sorted(path.rglob("*"))
                if entry.suffix.lower() in SUFFIXES
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
        found.update(dict.fromkeys(inside))
    return list(found)


def size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of a picture set upright, as its header has them.

    Raises:
      ImageError: If there is no such header.
    """
    try:
        with _opened(os.fspath(path)) as picture:
            width, height = picture.size
            turned = _orientation(picture) in (5, 6, 7, 8)
    except _DECODING_ERRORS as error:
        raise ImageError(
            f"A picture must be readable. Received: {os.fspath(path)!r}: {error}."
        ) from error
    return (height, width) if turned else (width, height)


def place(pixels: np.ndarray, placing: geometry.Affine, size: int) -> np.ndarray:
    """Samples a picture into the square; black where it does not reach.

    Args:
      pixels: [height, width, 3] uint8.
      placing: Picture coordinates -> square coordinates (`geometry.letterbox`).
      size: Side of the square in pixels.

    Returns:
      [size, size, 3] uint8.

    Raises:
      ValueError: If the pixels have another shape or dtype.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            "Pixels must be uint8 of the shape (height, width, 3). "
            f"Received: {pixels.dtype} {pixels.shape}."
        )
    scale_x, shift_x = placing.scale_x, placing.shift_x
    if scale_x < 0:  # Mirror the pixels, so that their corners fall as without.
        pixels = pixels[:, ::-1]
        scale_x, shift_x = -scale_x, shift_x + scale_x
    height, width = pixels.shape[:2]
    x_steps, x_halves = _steps(width, scale_x, shift_x, size)
    y_steps, y_halves = _steps(height, placing.scale_y, placing.shift_y, size)
    square = _mix_grid(pixels, x_steps, y_steps)
    if x_halves or y_halves:
        exact_x, exact_y = perspective.steps(
            left=-shift_x / scale_x * width,
            top=-placing.shift_y / placing.scale_y * height,
            right=(1 - shift_x) / scale_x * width,
            bottom=(1 - placing.shift_y) / placing.scale_y * height,
            size=size,
        )
        at = np.nonzero((exact_x != x_steps) | (exact_y != y_steps[:, np.newaxis]))
        square[at] = _mix_points(pixels, exact_x[at], exact_y[at])
    return square


def to_input(pixels: np.ndarray, input_range: tuple[float, float]) -> np.ndarray:
    """Maps pixels to the model's range; black becomes its low end.

    Args:
      pixels: uint8, any shape.
      input_range: What 0 and 255 map to: (0, 1) for 192-pixel palms, (-1, 1) otherwise.

    Returns:
      float32, the same shape.
    """
    low, high = input_range
    return pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def _steps(
    length: int, scale: float, shift: float, size: int
) -> tuple[np.ndarray, bool]:
    """Where the square's pixels lie along an axis of the picture.

    Returns:
      [size] int64, 1/32 pixel; and whether one lies half way between two steps.
    """
    exact = (np.arange(size) / size - shift) / scale * length * _STEPS
    # Far outside, a position only has to stay outside.
    exact = np.clip(exact, -perspective.FARTHEST, perspective.FARTHEST)
    halves = np.abs(exact - np.floor(exact) - 0.5) < _NOISE
    return np.rint(exact).astype(np.int64), bool(halves.any())


def _taps(
    steps: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two pixels along an axis that each position mixes, and their weights.

    Returns:
      Two indices within the picture and two uint32 weights for each position. They sum
      to 32 inside the picture; what lies outside has the weight 0.
    """
    first, part = np.divmod(steps, _STEPS)
    second = first + 1
    first_there = (first >= 0) & (first < length)
    second_there = (second >= 0) & (second < length)
    return (
        np.where(first_there, first, 0),
        np.where(second_there, second, 0),
        np.where(first_there, _STEPS - part, 0).astype(np.uint32),
        np.where(second_there, part, 0).astype(np.uint32),
    )


def _mix_grid(
    pixels: np.ndarray, x_steps: np.ndarray, y_steps: np.ndarray
) -> np.ndarray:
    """Pixels at the crossings of columns and rows, [size, size, 3] uint8."""
    height, width = pixels.shape[:2]
    square = np.zeros((len(y_steps), len(x_steps), 3), np.uint8)
    rows, columns = _reached(y_steps, height), _reached(x_steps, width)
    left, right, weight_left, weight_right = _taps(x_steps[columns], width)
    top, bottom, weight_top, weight_bottom = _taps(y_steps[rows], height)
    # Along x first, for the rows that are needed, each once. 32 * 255 fits 16 bits.
    needed, places = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    lines = pixels[needed]
    mixed = lines.take(left, axis=1) * weight_left.astype(np.uint16)[:, np.newaxis]
    mixed += lines.take(right, axis=1) * weight_right.astype(np.uint16)[:, np.newaxis]
    total = mixed[places[: len(top)]] * weight_top[:, np.newaxis, np.newaxis]
    total += mixed[places[len(top) :]] * weight_bottom[:, np.newaxis, np.newaxis]
    square[rows, columns] = _rounded(total)
    return square


def _mix_points(
    pixels: np.ndarray, x_steps: np.ndarray, y_steps: np.ndarray
) -> np.ndarray:
    """Pixels at single positions, [positions, 3] uint8."""
    left, right, *x_weights = _taps(x_steps, pixels.shape[1])
    top, bottom, *y_weights = _taps(y_steps, pixels.shape[0])
    total = np.zeros((len(x_steps), 3), np.uint32)
    for y, y_weight in zip((top, bottom), y_weights, strict=True):
        for x, x_weight in zip((left, right), x_weights, strict=True):
            total += pixels[y, x] * (x_weight * y_weight)[:, np.newaxis]
    return _rounded(total)


def _reached(steps: np.ndarray, length: int) -> slice:
    """Which positions along an axis the picture reaches."""
    inside = np.flatnonzero((steps > -_STEPS) & (steps < length * _STEPS))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def _rounded(total: np.ndarray) -> np.ndarray:
    return (total + _STEPS * _STEPS // 2) // (_STEPS * _STEPS)


def _opened(name: str) -> Image.Image:
    """A picture whose header is read, and whose parts are bounded."""
    with open(name, "rb") as file:
        if os.fstat(file.fileno()).st_size > image_parts.MAX_BYTES:
            raise ValueError(f"it must have at most {image_parts.MAX_BYTES} bytes")
        stream = image_parts.Stream(file.read())
    return Image.open(stream, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this build of Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODING_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits keep their upper 8, transparency goes over black."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode.startswith("I") and values.max() > 255:
            values = values / 256
        values = np.clip(np.nan_to_num(values), 0, 255)
        return Image.fromarray(values.astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return picture.convert("RGB")
