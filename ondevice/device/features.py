"""Features of a frozen trunk, each computed once and kept for the epochs that follow.

Where the trunk is frozen, its features of an image never change: the heads train on
them many times as fast as the image could be run. They are kept as float16 in a file
without a name, which the system drops with the process, and read back through its page
cache, so that they take no memory of the process.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import threading
from collections.abc import Callable

import numpy as np
from absl import logging

from checkpoints import manifest as manifests
from ondevice.device import session
from signatures import contract

# Bound on the file. Features that do not fit are computed again each time.
MAX_BYTES = 4 * 2**30

_LARGEST = float(np.finfo(np.float16).max)


class FeatureCache:
    """Features by key; the same bits whether computed or read back."""

    def __init__(
        self,
        opened: session.Session,
        directory: pathlib.Path,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Makes an empty file.

        Args:
          opened: Has the signature `features`.
          directory: Where the file is made; it exists.
          max_bytes: Bound on the file.

        Raises:
          OSError: If the file cannot be made.
        """
        self._session, self._max_bytes = opened, max_bytes
        specs = opened.manifest.signature(contract.FEATURES).outputs
        self._specs: tuple[manifests.TensorSpec, ...] = specs
        self._record = sum(2 * int(np.prod(spec.shape)) for spec in specs)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._places: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes kept."""
        return len(self._places) * self._record

    def close(self) -> None:
        """Drops the file."""
        self._file.close()

    def encode(
        self, key: tuple[int, int], image: Callable[[], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Features of one image.

        Args:
          key: Of the image; the same key stands for the same image.
          image: Makes it, [S, S, 3] float32; only called where its features are not
            kept.

        Returns:
          `feature_0`, ... float32, rounded to float16, without the batch's axis.

        Raises:
          RuntimeFailure: If the runtime fails.
        """
        place = self._places.get(key)
        if place is not None:
            return self._read(place)
        found = {
            name: np.clip(array[0], -_LARGEST, _LARGEST).astype(np.float16)
            for name, array in self._session.features(image()[np.newaxis]).items()
        }
        self._keep(key, found)
        return {name: array.astype(np.float32) for name, array in found.items()}

    def _read(self, place: int) -> dict[str, np.ndarray]:
        data = os.pread(self._file.fileno(), self._record, place)
        values, start = np.frombuffer(data, np.float16).astype(np.float32), 0
        found = {}
        for spec in self._specs:
            shape = spec.shape[1:]
            count = int(np.prod(shape))
            found[spec.name] = values[start : start + count].reshape(shape)
            start += count
        return found

    def _keep(self, key: tuple[int, int], found: dict[str, np.ndarray]) -> None:
        with self._lock:
            place = len(self._places) * self._record
            if key in self._places or place + self._record > self._max_bytes:
                return
            try:
                self._file.seek(place)
                for spec in self._specs:
                    self._file.write(found[spec.name].tobytes())
                self._file.flush()
            except OSError as error:
                # A full disk costs time, not the run.
                logging.warning("No more features are kept: %s", error)
                self._max_bytes = 0
                return
            self._places[key] = place
