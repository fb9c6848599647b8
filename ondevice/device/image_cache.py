"""Decoded pictures kept in memory, up to a bound, so that each is decoded once."""

from __future__ import annotations

import pathlib
import threading

import numpy as np

from ondevice.device import images

MAX_BYTES = 256 * 2**20

# Longer side of the pictures to train on, in units of the input's: a picture that fills
# the frame then has two pixels or more for each of the input's. Of photographs of 12
# megapixels 700 fit, of 35 MB each as they are 7.
OVERSAMPLING = 2


class ImageCache:
    """Reads pictures, and remembers as many as fit; safe to share between threads.

    What is kept stays: in training every picture comes once an epoch, so that throwing
    out the oldest would throw out each one just before it is needed.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, side: int | None = None) -> None:
        """Starts empty.

        Args:
          max_bytes: Bound on the pixels kept; 0 keeps none.
          side: To which `images.read` reduces large pictures; None keeps them whole.
        """
        self._side = side
        self._max_bytes = max_bytes
        self._pixels: dict[pathlib.Path, np.ndarray] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes of pixels kept."""
        return self._bytes

    def read(self, path: pathlib.Path) -> np.ndarray:
        """Pixels of a picture, not to be written to.

        Returns:
          [height, width, 3] uint8, as `images.read`.

        Raises:
          ImageError: As `images.read`.
        """
        kept = self._pixels.get(path)
        if kept is not None:
            return kept
        pixels = images.read(path, self._side)
        pixels.flags.writeable = False
        with self._lock:
            if path not in self._pixels:
                if self._bytes + pixels.nbytes <= self._max_bytes:
                    self._pixels[path] = pixels
                    self._bytes += pixels.nbytes
        return pixels
