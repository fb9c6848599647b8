"""Arrays that a frozen network makes of pictures, each computed once and kept.

Where the trunk is frozen, its features of an image never change: the heads train on
them many times as fast as the image could be run. What an untouched detector sees in an
image never changes either. Both are kept as float16 in a file without a name, which the
system drops with the process, and read back through its page cache, so that they take
no memory of the process.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import threading
from collections.abc import Callable, Mapping

import numpy as np
from absl import logging

# Image [S, S, 3] float32 -> arrays by name; always the same shapes, in the same order.
Compute = Callable[[np.ndarray], Mapping[str, np.ndarray]]

# Bound on the file. What does not fit is computed again each time.
MAX_BYTES = 4 * 2**30

_LARGEST = float(np.finfo(np.float16).max)


class Kept:
    """Arrays by key; the same bits whether computed or read back."""

    def __init__(
        self, compute: Compute, directory: pathlib.Path, max_bytes: int = MAX_BYTES
    ) -> None:
        """Makes an empty file.

        Args:
          compute: Makes the arrays of an image.
          directory: Where the file is made; it exists.
          max_bytes: Bound on the file.

        Raises:
          OSError: If the file cannot be made.
        """
        self._compute, self._max_bytes = compute, max_bytes
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._record = 0  # Bytes of one image's arrays.
        self._full = False
        self._file = tempfile.TemporaryFile(dir=directory)
        self._places: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes kept."""
        return len(self._places) * self._record

    def __call__(
        self, key: tuple[int, int], image: Callable[[], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The arrays of one image.

        Args:
          key: Of the image; the same key stands for the same image.
          image: Makes it, [S, S, 3] float32; only called where nothing is kept of it.

        Returns:
          Name -> float32, rounded to float16.
        """
        place = self._places.get(key)
        if place is not None:
            return self._read(place)
        found = {
            name: np.clip(array, -_LARGEST, _LARGEST).astype(np.float16)
            for name, array in self._compute(image()).items()
        }
        self._keep(key, found)
        return {name: array.astype(np.float32) for name, array in found.items()}

    def _read(self, place: int) -> dict[str, np.ndarray]:
        data = os.pread(self._file.fileno(), self._record, place)
        values, start = np.frombuffer(data, np.float16).astype(np.float32), 0
        found = {}
        for name, shape in self._shapes.items():
            count = int(np.prod(shape))
            found[name] = values[start : start + count].reshape(shape)
            start += count
        return found

    def _keep(self, key: tuple[int, int], found: Mapping[str, np.ndarray]) -> None:
        with self._lock:
            if not self._shapes:
                self._record = sum(array.nbytes for array in found.values())
                self._shapes = {name: array.shape for name, array in found.items()}
            place = len(self._places) * self._record
            if key in self._places:
                return
            if place + self._record > self._max_bytes:
                if not self._full:
                    logging.info(
                        "Features of %d images are kept, %.1f GB; those of others are "
                        "computed each time.", len(self._places), place / 1e9,
                    )  # fmt: skip
                self._full = True
                return
            try:
                self._file.seek(place)
                for name in self._shapes:
                    self._file.write(found[name].tobytes())
                self._file.flush()
            except OSError as error:
                # A full disk costs time, not the run.
                logging.warning("No more features are kept: %s", error)
                self._max_bytes = 0
                return
            self._places[key] = place
