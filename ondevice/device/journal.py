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
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from checkpoints import atomic

STEP, EPOCH, REFUSED = ("step", "epoch", "refused")

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
            kept = self._path.read_text("utf-8").splitlines()[:count]
            self.lines = [_object(line) for line in kept]
        except (OSError, ValueError, RecursionError) as error:
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


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not is_line(found):
        raise ValueError(f"no line of ours: {text[:80]!r}")
    return found
