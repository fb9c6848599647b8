"""metrics.jsonl: what a run reached, one JSON object a line.

A line is of one of three kinds:
{"kind": "step", "step", "epoch", "loss", "class_loss", "box_loss", "gradient_norm",
 "learning_rate"} and {"kind": "epoch", "epoch", "step", "loss", "validation": {"loss",
 "images", "class_accuracy", "recall", "mean_iou"}, "best"} and, of a step that was
taken back and ended the run, {"kind": "refused", "step", "epoch", "learning_rate",
"not_finite": the variables that it made so}.
No line tells the time of day: a run that was resumed writes the same bytes as one that
never stopped.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from checkpoints import atomic
from ondevice.device import history

STEP, EPOCH = history.STEP, history.EPOCH
REFUSED = "refused"

# What of a line must be a number, and of an epoch's validation.
_NUMBERS = {
    STEP: (
        *("step", "epoch", "loss", "class_loss", "box_loss", "gradient_norm"),
        "learning_rate",
    ),
    EPOCH: ("step", "epoch", "loss", "best"),
    REFUSED: ("step", "epoch"),
}
_VALIDATED = ("class_accuracy", "recall", "mean_iou")
# Steps and epochs that no run has.
_TOO_MANY = 2**53


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
        except (OSError, ValueError, RecursionError) as error:
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


def is_line(found: Any, kinds: Sequence[str] = tuple(_NUMBERS)) -> bool:
    """Whether something in JSON is a line of one of the kinds."""
    if not isinstance(found, dict) or found.get("kind") not in kinds:
        return False
    numbers = [found.get(name) for name in _NUMBERS[found["kind"]]]
    if found["kind"] == EPOCH:
        validated = found.get("validation")
        if not isinstance(validated, dict):
            return False
        numbers += [validated.get(name) for name in _VALIDATED]
        # None where nothing was labelled, or it was not finite.
        numbers.append(validated.get("loss", "absent") or 0)
    return all(map(_is_number, numbers))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and -_TOO_MANY < value < _TOO_MANY


def _object(text: bytes) -> dict[str, Any]:
    found = json.loads(text.decode())
    if not is_line(found):
        raise ValueError(f"no line of ours: {text[:80]!r}")
    return found
