"""Contenders in processes of their own, in turn; who is missing, and why."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from ondevice.measuring import timing, worker
from ondevice.measuring.peers import missing

# Wraps what is gone through in a progress bar with a description.
Progress = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclasses.dataclass
class Found:
    """What sections find, and add up to.

    Attributes:
      rows: A row for each contender and stage.
      ratios: By name.
      missing: What could not be measured: its labels and "reason".
    """

    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ratios: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    missing: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def add(self, other: Found) -> None:
        """Takes over what another found."""
        self.rows += other.rows
        self.ratios |= other.ratios
        self.missing += other.missing

    def lacks(self, labels: Mapping[str, Any], reason: str) -> None:
        """Notes what could not be measured."""
        self.missing.append({**labels, "reason": reason})


@dataclasses.dataclass(frozen=True)
class Result:
    """What one contender took.

    Attributes:
      times: Of its calls.
      memory: Peak of its process in bytes; None where the system does not tell.
    """

    times: timing.Times
    memory: int | None


def hold(
    section: str,
    tasks: Mapping[Hashable, worker.Task],
    rounds: int,
    progress: Callable[[Iterable[int]], Iterable[int]],
    found: Found,
) -> dict[Hashable, Result]:
    """Measures contenders; who cannot take part, or dies, is noted as missing.

    Args:
      section: For the rows.
      tasks: Key -> contender.
      rounds: Calls of each.
      progress: Wraps the rounds.
      found: Takes rows, with "peak_memory", and what is missing.

    Returns:
      Key -> result, of those that were measured.
    """
    with contextlib.ExitStack() as stack:
        workers: dict[Hashable, worker.Worker] = {}
        for key, task in tasks.items():
            try:
                workers[key] = stack.enter_context(worker.Worker(task))
            except missing.Missing as error:
                found.lacks(task.labels, str(error))
        results = {}
        for key, times in _measured(workers, rounds, progress, found).items():
            memory = workers[key].peak_memory()
            results[key] = Result(times, memory)
            for row in times.rows(section):
                found.rows.append({**row, "peak_memory": memory})
    return results


def _measured(
    workers: dict[Hashable, worker.Worker],
    rounds: int,
    progress: Callable[[Iterable[int]], Iterable[int]],
    found: Found,
) -> dict[Hashable, timing.Times]:
    """Measures again without those that ended, which are taken out."""
    while workers:
        try:
            times = timing.measure(
                list(workers.values()), [None], rounds, progress=progress
            )
        except worker.WorkerError as error:
            for key in [k for k, w in workers.items() if not w.running]:
                found.lacks(workers.pop(key).labels, str(error))
            continue
        return dict(zip(workers, times))
    return {}


def memory_ratio(
    over: int | None, under: float | None, bound: float | None
) -> dict[str, Any] | None:
    """The ratio of two amounts of memory; None where one is not known."""
    if over is None or not under:
        return None
    ratio: dict[str, Any] = {"median": over / under}
    if bound is not None:
        holds = ratio["median"] <= bound
        ratio |= {"bound": bound, "judged": "memory", "holds": holds}
    return ratio


def threads_said(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread{'s' if threads > 1 else ''}"
