"""metrics.jsonl, one JSON object a line, and training.png, drawn from it.

A line is of one of two kinds:
{"kind": "step", "step", "epoch", "loss", "class_loss", "box_loss", "gradient_norm",
 "learning_rate"} and {"kind": "epoch", "epoch", "step", "loss", "learning_rate",
 "validation": {"loss", "images", "class_accuracy", "recall", "mean_iou"}, "best"}.
No line tells the time of day: a run that was resumed writes the same bytes as one that
never stopped.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from checkpoints import atomic

STEP, EPOCH = "step", "epoch"

# Curve of an epoch's validation -> its name in the legend.
_VALIDATION = {
    "class_accuracy": "class accuracy",
    "recall": "recall",
    "mean_iou": "mean IoU",
}


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


def draw(lines: list[dict[str, Any]], path: pathlib.Path) -> bool:
    """Draws loss, learning rate and validation over the steps.

    Args:
      lines: Of the journal.
      path: Of the picture.

    Returns:
      Whether matplotlib is there to draw it.
    """
    try:
        from matplotlib import figure
    except ImportError:
        return False
    steps = [line for line in lines if line["kind"] == STEP]
    epochs = [line for line in lines if line["kind"] == EPOCH]
    page = figure.Figure(figsize=(9, 8), layout="constrained")
    top, middle, bottom = page.subplots(3, 1, sharex=True)
    at = [line["step"] for line in steps]
    for name in ("loss", "class_loss", "box_loss"):
        values = [line[name] for line in steps]
        top.plot(at, values, label=name.replace("_", " "), linewidth=1)
    ends = [line["step"] for line in epochs]
    losses = [line["validation"]["loss"] for line in epochs]
    top.plot(ends, losses, "k.--", label="validation loss")
    top.set_ylabel("loss")
    top.set_ylim(bottom=0)
    middle.plot(at, [line["learning_rate"] for line in steps], color="tab:green")
    middle.set_ylabel("learning rate")
    middle.set_ylim(bottom=0)
    for name, title in _VALIDATION.items():
        values = [line["validation"][name] for line in epochs]
        bottom.plot(ends, values, ".-", label=title)
    best = [line["step"] for line in epochs if line["best"]]
    if best:
        bottom.axvline(best[-1], color="grey", linestyle=":", label="best.safetensors")
    bottom.set_ylabel("validation")
    bottom.set_ylim(-0.02, 1.02)
    bottom.set_xlabel("step")
    for axes in (top, bottom):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    # Written whole: a viewer may reload it at any moment.
    temporary = path.with_name(f".{path.name}.tmp")
    page.savefig(temporary, format="png", dpi=100)
    temporary.replace(path)
    return True


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("kind") not in (STEP, EPOCH):
        raise ValueError(f"no line of ours: {text[:80]!r}")
    return found
