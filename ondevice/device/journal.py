"""metrics.jsonl: what a run reached, one JSON object a line.

A line is of one of two kinds:
{"kind": "step", "step", "epoch", "loss", "class_loss", "box_loss", "gradient_norm",
 "learning_rate"} and {"kind": "epoch", "epoch", "step", "loss", "validation": {"loss",
 "images", "class_accuracy", "recall", "mean_iou"}, "best"}.
No line tells the time of day: a run that was resumed writes the same bytes as one that
never stopped.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from checkpoints import atomic
from ondevice.device import history

STEP, EPOCH = history.STEP, history.EPOCH


class Journal:
    """The lines of one run.

    Attributes:
      count: Lines written.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Starts empty; nothing is written, and what is there is replaced later.

        Args:
          path: Of metrics.jsonl.
        """
        self._path = path
        self._begun = False
        self._before = b""  # Lines of before, until they are written anew.
        self._history = history.History()
        self.count = 0

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """What there is to draw of the run, as `history.History.lines` gives it."""
        return self._history.lines

    def rewind(self, count: int) -> None:
        """Goes back to what a checkpoint knows of, and drops the lines after.

        Args:
          count: Lines that were written when it was saved.
        """
        try:
            # A power failure may have left anything behind what was flushed.
            kept = self._path.read_bytes().splitlines()[:count]
            for line in map(_object, kept):
                self._history.add(line)
            self.count, self._before = len(kept), b"".join(k + b"\n" for k in kept)
        except (OSError, ValueError) as error:
            logging.warning("%s: lines before are lost: %s", self._path, error)
            self._history, self.count = history.History(), 0
        if self.count < count:
            missing = count - self.count
            logging.warning("%s: %d lines before are lost.", self._path, missing)

    def add(self, line: Mapping[str, Any]) -> None:
        """Writes one more line.

        Raises:
          OSError: If it cannot be written.
        """
        text = (json.dumps(line, allow_nan=False) + "\n").encode()
        if self._begun:
            with open(self._path, "ab") as file:
                file.write(text)
        else:
            atomic.write(self._path, [self._before, text])
            self._begun, self._before = True, b""
        self._history.add(dict(line))
        self.count += 1

    def flush(self) -> None:
        """Brings all lines to the disk, so that no checkpoint knows of more.

        Raises:
          OSError: If they cannot be.
        """
        if self._begun:
            with open(self._path, "ab") as file:
                os.fsync(file.fileno())


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text.decode())
    if not isinstance(found, dict) or found.get("kind") not in (STEP, EPOCH):
        raise ValueError(f"no line of ours: {text[:80]!r}")
    return found
