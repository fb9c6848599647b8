"""Lines of a run's journal, few enough to draw however long the run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STEP, EPOCH = "step", "epoch"

# Lines of a kind; more than there are pixels for in a picture.
MOST = 2048


class History:
    """Lines as they were written; of a long run, neighbours stand for each other.

    When there are too many steps' lines each two become one, with the mean of their
    numbers and the step of the second; of epochs' lines every second one goes, but the
    best ones stay. So the memory of a run does not grow with it.
    """

    def __init__(self) -> None:
        self._steps: list[Mapping[str, Any]] = []
        self._epochs: list[Mapping[str, Any]] = []
        self._waiting: list[Mapping[str, Any]] = []  # Fewer than one line stands for.
        self._width = 1  # Lines that one stands for.

    @property
    def lines(self) -> list[Mapping[str, Any]]:
        """Those of steps in order, then those of epochs."""
        last = [_mean(self._waiting)] if self._waiting else []
        return self._steps + last + self._epochs

    def add(self, line: Mapping[str, Any]) -> None:
        """Takes one more line of the journal."""
        if line["kind"] == EPOCH:
            self._epochs.append(line)
            if len(self._epochs) > MOST:
                self._epochs = [
                    kept
                    for place, kept in enumerate(self._epochs)
                    if kept.get("best") or place % 2
                ][-MOST:]
        if line["kind"] != STEP:
            return
        self._waiting.append(line)
        if len(self._waiting) == self._width:
            self._steps.append(_mean(self._waiting))
            self._waiting = []
        if len(self._steps) == MOST:
            pairs = zip(self._steps[::2], self._steps[1::2], strict=True)
            self._steps = [_mean(pair) for pair in pairs]
            self._width *= 2


def _mean(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last line, with the mean of each number that is no count."""
    if len(lines) == 1:
        return lines[0]
    return {
        name: sum(line[name] for line in lines) / len(lines)
        if isinstance(value, float)
        else value
        for name, value in lines[-1].items()
    }
