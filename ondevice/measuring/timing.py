"""Contenders measured in turn, and the ratios between them.

On a shared machine the same call takes half as long again a second later. So
contenders take turns, call by call, and what is compared is the median of the ratios
of neighbouring calls, not the ratio of two medians. Time on the processor is measured
beside time on the clock, since waiting for other programs does not count there: on a
machine with three times more to do than it has cores, a file against itself, 60 rounds,
gave 0.92 to 1.07 by the clock and 0.975 to 1.012 on the processor. What is left of that
stays as long as an interpreter does (where its memory lies), so they are made again a
few times, and the rounds pooled.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

TOTAL = "total"
WALL, CPU = "wall", "cpu"
_MILLISECONDS = 1e3


@dataclasses.dataclass(frozen=True)
class Clock:
    """Two functions that give seconds.

    Attributes:
      wall: Time that passes.
      cpu: Time that this process computes, all its threads together.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


class Measured(Protocol):
    """Whatever can take turns: a `Contender` here, a worker in a process of its own."""

    @property
    def labels(self) -> Mapping[str, Any]:
        """What its rows say of it."""

    def turn(self, value: Any, clock: Clock) -> Mapping[str, tuple[float, float]]:
        """Calls it once.

        Args:
          value: The input.
          clock: What measures, where the contender has none of its own.

        Returns:
          Stage -> seconds on the clock, and on the processor.
        """


@dataclasses.dataclass(frozen=True)
class Contender:
    """What is measured in this process.

    Attributes:
      labels: What its rows say of it: contender, runtime, threads, classes and so on.
      stages: Name -> function; the first takes the input, each other what the one
        before it gave.
    """

    labels: Mapping[str, Any]
    stages: Mapping[str, Callable[[Any], Any]]

    def turn(self, value: Any, clock: Clock) -> dict[str, tuple[float, float]]:
        """As of `Measured`."""
        found = {}
        for name, stage in self.stages.items():
            started, computed = clock.wall(), clock.cpu()
            value = stage(value)
            computed, ended = clock.cpu() - computed, clock.wall()
            found[name] = (ended - started, computed)
        return found


@dataclasses.dataclass(frozen=True)
class Times:
    """What the calls of one contender took.

    Attributes:
      labels: The contender's.
      wall: Stage -> [rounds] float64, seconds; `TOTAL` is their sum.
      cpu: The same on the processor.
    """

    labels: Mapping[str, Any]
    wall: Mapping[str, np.ndarray]
    cpu: Mapping[str, np.ndarray]

    def rows(self, section: str) -> list[dict[str, Any]]:
        """A row for each stage, and for the total where there are several."""
        stages = [s for s in self.wall if s != TOTAL or len(self.wall) > 2]
        return [
            {
                "section": section,
                "what": stage,
                **self.labels,
                "rounds": len(self.wall[stage]),
                "median_ms": _ms(np.median(self.wall[stage])),
                "spread_ms": [_ms(q) for q in _quartiles(self.wall[stage])],
                "cpu_ms": _ms(np.median(self.cpu[stage])),
            }
            for stage in stages
        ]

    def scaled(self, factor: float) -> Times:
        """The times of work that is `factor` times as much."""
        return Times(
            self.labels,
            {stage: factor * taken for stage, taken in self.wall.items()},
            {stage: factor * taken for stage, taken in self.cpu.items()},
        )


def allowed(seconds: float, rounds: int) -> Times:
    """What something may take, as if it had been measured: to hold times against."""
    taken = {TOTAL: np.full(rounds, seconds)}
    return Times({}, taken, taken)


def measure(
    contenders: Sequence[Measured],
    inputs: Sequence[Any],
    rounds: int,
    warmup: int = 2,
    clock: Clock = Clock(),
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Times]:
    """Lets the contenders take turns.

    Each round gives all of them one input, in an order of its own: whoever follows a
    large file finds less of its own in the processor's caches.

    Args:
      contenders: At least one.
      inputs: Taken in turn, a round each.
      rounds: Calls of each contender that count.
      warmup: Rounds before them that do not.
      clock: What measures.
      progress: Wraps the rounds.

    Returns:
      Times in the order of the contenders.
    """
    taken: list[list[Mapping[str, tuple[float, float]]]] = [[] for _ in contenders]
    random = np.random.default_rng(0)
    collecting = gc.isenabled()
    gc.disable()  # A collection would hit whoever happens to be running.
    try:
        for turn in progress(range(-warmup, rounds)):
            for number in random.permutation(len(contenders)):
                found = contenders[number].turn(inputs[turn % len(inputs)], clock)
                if turn >= 0:
                    taken[number].append(found)
    finally:
        if collecting:
            gc.enable()
    return [_times(c.labels, turns) for c, turns in zip(contenders, taken)]


def pooled(openings: Sequence[Sequence[Times]]) -> list[Times]:
    """The times of the same contenders, measured in several goes, as if in one.

    Args:
      openings: What `measure` gave each time, the contenders in one order.
    """
    return [
        Times(
            same[0].labels,
            {s: np.concatenate([t.wall[s] for t in same]) for s in same[0].wall},
            {s: np.concatenate([t.cpu[s] for t in same]) for s in same[0].cpu},
        )
        for same in zip(*openings, strict=True)
    ]


def ratio(
    over: Times, under: Times, bound: float | None = None, judged: str = WALL
) -> dict[str, Any]:
    """The ratio of the totals of two contenders that took turns.

    Args:
      over: The numerator.
      under: The denominator.
      bound: What a median may be at most, if there is such a thing.
      judged: By which time it counts, `WALL` or `CPU`.

    Returns:
      "median" and "quartiles" of the rounds' ratios by the clock, "cpu_median" and
      "cpu_quartiles" of those on the processor, "added_ms" and "cpu_added_ms", the
      medians of the differences, "judged"; with a bound "bound" and "holds".
    """
    ratios = over.wall[TOTAL] / under.wall[TOTAL]
    computed = over.cpu[TOTAL] / under.cpu[TOTAL]
    found: dict[str, Any] = {
        "median": float(np.median(ratios)),
        "quartiles": [float(q) for q in _quartiles(ratios)],
        "cpu_median": float(np.median(computed)),
        "cpu_quartiles": [float(q) for q in _quartiles(computed)],
        "added_ms": _ms(np.median(over.wall[TOTAL] - under.wall[TOTAL])),
        "cpu_added_ms": _ms(np.median(over.cpu[TOTAL] - under.cpu[TOTAL])),
        "judged": judged,
    }
    if bound is not None:
        median = found["cpu_median" if judged == CPU else "median"]
        found |= {"bound": bound, "holds": median <= bound}
    return found


def _times(
    labels: Mapping[str, Any], turns: Sequence[Mapping[str, tuple[float, float]]]
) -> Times:
    wall, cpu = (
        {stage: np.array([turn[stage][which] for turn in turns]) for stage in turns[0]}
        for which in (0, 1)
    )
    return Times(labels, _with_total(wall), _with_total(cpu))


def _with_total(stages: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**stages, TOTAL: np.sum(list(stages.values()), axis=0)}


def _quartiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, (0.25, 0.75))


def _ms(seconds: float) -> float:
    return round(float(seconds) * _MILLISECONDS, 4)
