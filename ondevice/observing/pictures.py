"""Drawn pictures to learn from: nothing has to be downloaded, and a seed tells all."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ondevice.detection import targets

# Bones of a hand seen from its palm, fingers up, in units of the palm's side from the
# wrist: where the thumb and the four fingers begin and how far they reach.
_ROOTS = ((-0.45, 0.45), (-0.36, 1.0), (-0.12, 1.06), (0.12, 1.03), (0.36, 0.95))
_REACH = (0.5, 0.75, 0.85, 0.78, 0.6)
_SPREAD = (-55.0, -12.0, -3.0, 6.0, 15.0)  # degrees from straight up

# Fingers that a picture may show, by its class: index; index and middle; all four.
CLASSES = ("one", "two", "four")
_SHOWN = ((1,), (1, 2), (1, 2, 3, 4))

_SMALL = 28  # side of a digit's picture in pixels


def hand(random: np.random.Generator, side: int) -> tuple[np.ndarray, targets.Label]:
    """A silhouette of a hand before a noisy wall.

    Args:
      random: Draws size, place, turn, colours and class.
      side: Of the picture in pixels.

    Returns:
      [side, side, 3] uint8, and the hand's label in units of the picture: the palm's
      box, and its seven keypoints in the order of MediaPipe's palm detector (wrist,
      roots of index, middle, ring and little finger, two joints of the thumb).
    """
    kind = int(random.integers(len(CLASSES)))
    palm = side * random.uniform(0.22, 0.34)
    turn = math.radians(random.uniform(-25.0, 25.0))
    x, y = side * random.uniform(0.4, 0.6), side * random.uniform(0.75, 0.9)

    def at(across: float, up: float) -> tuple[float, float]:
        return (
            x + palm * (across * math.cos(turn) + up * math.sin(turn)),
            y - palm * (up * math.cos(turn) - across * math.sin(turn)),
        )

    wall = random.integers(20, 110, 3)
    noise = random.integers(-12, 13, (side, side, 3))
    pixels = np.clip(wall + noise, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    tone = np.array([224, 178, 150]) + random.integers(-25, 26, 3)
    skin = tuple(int(channel) for channel in tone)
    outline = [at(-0.35, 0.0), at(-0.5, 0.5), *(at(*r) for r in _ROOTS[1:])]
    draw.polygon([*outline, at(0.45, 0.5), at(0.3, 0.0)], fill=skin)
    width = max(2, int(0.19 * palm))
    for finger, (root, reach, spread) in enumerate(zip(_ROOTS, _REACH, _SPREAD)):
        length = reach if finger in _SHOWN[kind] else 0.18
        lean = math.radians(spread)
        tip = (root[0] + length * math.sin(lean), root[1] + length * math.cos(lean))
        draw.line([at(*root), at(*tip)], fill=skin, width=width)
        end, half = at(*tip), width / 2
        draw.ellipse(
            [end[0] - half, end[1] - half, end[0] + half, end[1] + half], fill=skin
        )
    joints = [(0.0, 0.0), *_ROOTS[1:], (-0.3, 0.2), _ROOTS[0]]
    points = [(px / side, py / side) for px, py in (at(*joint) for joint in joints)]
    across, down = zip(*points)
    middle = ((min(across) + max(across)) / 2, (min(down) + max(down)) / 2)
    half = 1.03 / 2 * max(max(across) - min(across), max(down) - min(down))
    box = (middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half)
    return np.asarray(picture), targets.Label(box, tuple(points), kind)


def digit(random: np.random.Generator) -> tuple[np.ndarray, int]:
    """A printed digit, as small as the overview's pictures.

    Args:
      random: Draws the digit, its size and its place.

    Returns:
      [28, 28] float32 in [0, 1], noise included, and the digit.
    """
    number = int(random.integers(10))
    picture = Image.new("L", (_SMALL, _SMALL))
    font = ImageFont.load_default(float(random.uniform(16, 22)))
    left, top, right, bottom = font.getbbox(str(number))
    x = random.uniform(1, _SMALL - 1 - (right - left)) - left
    y = random.uniform(1, _SMALL - 1 - (bottom - top)) - top
    ImageDraw.Draw(picture).text((x, y), str(number), fill=255, font=font)
    pixels = np.asarray(picture, np.float32) / 255
    noise = random.normal(0.0, 0.05, pixels.shape)
    return np.clip(pixels + noise, 0.0, 1.0).astype(np.float32), number
