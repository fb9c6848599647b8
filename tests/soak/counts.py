"""What campaigns have counted, in memory and in a file that adds them up."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from checkpoints import atomic
from ondevice import commands

# Failures that are told; the others are counted.
_TOLD = 20


class Counts:
    """One campaign's entry: runs, failures, seeds and what else it counts.

    Attributes:
      entry: {"runs", "failures", "seeds": [[first, last], ...], "counted": {name:
        number}, "failed": [[seed, error], ...]}, the first `_TOLD` of these alone.
    """

    def __init__(self, name: str, path: pathlib.Path | None) -> None:
        """Takes up what the file has of a campaign.

        Args:
          name: Of the campaign.
          path: Of the counts file, which may hold other campaigns, too; None keeps the
            counts in memory alone.

        Raises:
          UserError: If the file is none of ours.
        """
        self._name, self._path = name, path
        self.entry: dict[str, Any] = {
            "runs": 0, "failures": 0, "seeds": [], "counted": {}, "failed": [],
        }  # fmt: skip
        self.entry.update(self._file().get(name, {}))

    @property
    def next_seed(self) -> int:
        """The first seed after all that were covered."""
        return max((last for _, last in self.entry["seeds"]), default=-1) + 1

    def add(
        self, seed: int, counted: Mapping[str, int] | None, error: str | None = None
    ) -> None:
        """Adds one run.

        Args:
          seed: Of the run.
          counted: What the campaign returned.
          error: What it raised; None where all held.
        """
        entry = self.entry
        entry["runs"] += 1
        for name, number in (counted or {}).items():
            entry["counted"][name] = entry["counted"].get(name, 0) + number
        if error is not None:
            entry["failures"] += 1
            if len(entry["failed"]) < _TOLD:
                entry["failed"].append([seed, error])
        entry["seeds"] = _with(entry["seeds"], seed)

    def save(self) -> None:
        """Writes the entry into the file; other campaigns' stay."""
        if self._path is not None:
            write(self._path, {**self._file(), self._name: self.entry})

    def _file(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        return read(self._path, lambda entry: set(entry) == set(self.entry))


def read(path: pathlib.Path, fits: Callable[[Any], bool]) -> dict[str, Any]:
    """What a counts file has by name; nothing where there is none yet.

    Args:
      path: Of the file.
      fits: Whether an entry is one of those that the caller writes.

    Raises:
      UserError: If the file is none of the caller's.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        wrong = [name for name, entry in found.items() if not fits(entry)]
    except (ValueError, TypeError, AttributeError) as error:
        wrong = [str(error)]
    if wrong:
        raise commands.UserError(
            f"--counts must name a file of counts, or a new one. Received: "
            f"{path}, with {wrong}."
        )
    return found


def write(path: pathlib.Path, entries: Mapping[str, Any]) -> None:
    """Writes a counts file, entries by name."""
    atomic.write(path, [json.dumps(entries, indent=1).encode()])


def _with(ranges: list[list[int]], seed: int) -> list[list[int]]:
    """Ranges of seeds, first and last, with one more; they stay apart and sorted."""
    joined: list[list[int]] = []
    for first, last in sorted([*ranges, [seed, seed]]):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return joined
