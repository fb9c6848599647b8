"""Light drawn at random: photographs taken for training mostly show one lamp's."""

from __future__ import annotations

import numpy as np


def relit(square: np.ndarray, random: np.random.Generator) -> np.ndarray:
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
