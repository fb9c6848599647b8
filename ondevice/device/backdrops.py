"""Light and surroundings drawn at random, for pictures that have too little of them.

Photographs taken for training mostly show one wall and one lamp, and the rest of the
frame is black. A network that trains on nothing else forgets what it knew of all other
surroundings. So the frame is filled with textures whose spectrum falls with the
frequency, as that of natural pictures does (Field 1987,
https://doi.org/10.1364/JOSAA.4.002379), and pictures are multiplied with them, which
puts a hand before a pale wall in front of anything.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# Cells along a side of each octave of a texture.
_OCTAVES = (2, 4, 8, 16, 32, 64, 192)


def texture(random: np.random.Generator, size: int) -> np.ndarray:
    """A texture in colours.

    Args:
      random: Source of all that is drawn.
      size: Side in pixels.

    Returns:
      [size, size, 3] float32 in [0, 255].
    """
    fall, colour = random.uniform(0.2, 1.2), random.uniform(0.1, 1.0)
    total = np.zeros((size, size, 3), np.float32)
    for cells in _OCTAVES:
        grey = random.random((cells, cells, 1), np.float32)
        noise = grey + colour * random.random((cells, cells, 3), np.float32)
        octave = Image.fromarray((noise * (255 / (1 + colour))).astype(np.uint8))
        octave = octave.resize((size, size), Image.Resampling.BILINEAR)
        total += np.asarray(octave, np.float32) * np.float32(cells**-fall)
    total -= total.mean((0, 1))
    total *= random.uniform(10, 90) / max(float(total.std()), 1e-3)
    total += random.uniform(40, 215) + random.uniform(-30, 30, 3)
    return np.clip(total, 0, 255, dtype=np.float32)


def light(square: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same picture in other light: black stays black.

    Args:
      square: [S, S, 3] float32 in [0, 255].
      random: Draws gamma, gain, and the lamp's colour.

    Returns:
      [S, S, 3] float32 in [0, 255].
    """
    gamma = np.exp(random.uniform(-0.5, 0.5))
    gain = np.exp(random.uniform(-0.5, 0.25)) * random.uniform(0.85, 1.15, 3)
    lit = (square / 255) ** np.float32(gamma) * (255 * gain).astype(np.float32)
    return np.clip(lit, 0, 255, dtype=np.float32)


def surround(
    square: np.ndarray, inside: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Fills the frame with a texture; half of the pictures are multiplied with it.

    Args:
      square: [S, S, 3] float32 in [0, 255].
      inside: [S, S] bool, where the picture lies.
      random: Draws the texture.

    Returns:
      [S, S, 3] float32 in [0, 255].
    """
    behind = texture(random, len(square))
    within = square
    if random.random() < 0.5:
        within = square * behind / max(float(behind.mean()), 1.0)
    filled = np.where(inside[..., np.newaxis], within, behind)
    return np.clip(filled, 0, 255, dtype=np.float32)
