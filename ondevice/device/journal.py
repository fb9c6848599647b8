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

STEP, EPOCH = "step", "epoch"


class Journal:
    """The lines of one run.

    Attributes:
      lines: What was written, in order.
    """

    def __init__(self, path: pathlib.Path) -> None:
        """Starts empty; nothing is written, and what is there is replaced later.

        Args:
          path: Of metrics.jsonl.
        """
        self._path = path
        self._begun = False
        self.lines: list[dict[str, Any]] = []

    def rewind(self, count: int) -> None:
        """Goes back to what a checkpoint knows of, and drops the lines after.

        Args:
          count: Lines that were written when it was saved.
        """
        try:
            # A power failure may have left anything behind what was flushed.
            kept = self._path.read_bytes().splitlines()[:count]
            self.lines = [_object(line.decode()) for line in kept]
        except (OSError, ValueError) as error:
            logging.warning("%s: lines before are lost: %s", self._path, error)
            self.lines = []
        if len(self.lines) < count:
            missing = count - len(self.lines)
            logging.warning("%s: %d lines before are lost.", self._path, missing)

    def add(self, line: Mapping[str, Any]) -> None:
        """Writes one more line."""
        self.lines.append(dict(line))
        if not self._begun:
            text = "".join(map(_text, self.lines))
            atomic.write(self._path, [text.encode()])
            self._begun = True
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(_text(self.lines[-1]))

    def flush(self) -> None:
        """Brings all lines to the disk, so that no checkpoint knows of more.

        Raises:
          OSError: If they cannot be.
        """
        if self._begun:
            with open(self._path, "ab") as file:
                os.fsync(file.fileno())


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("kind") not in (STEP, EPOCH):
        raise ValueError(f"no line of ours: {text[:80]!r}")
    return found
