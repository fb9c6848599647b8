"""How long commands take until they can begin."""

from __future__ import annotations

import os
import pathlib
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ondevice.measuring import bounds, contest, timing

SECTION = "startup"

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_COMMAND = re.compile(r'^if __name__ == "__main__":$', re.MULTILINE)
_PLAIN = "python alone"
_PROMISED = "train --help"


def commands() -> list[str]:
    """Names of the commands, read from their modules."""
    return sorted(
        path.stem
        for path in (_ROOT / "ondevice").glob("*.py")
        if _COMMAND.search(path.read_text())
    )


def measure(
    runtimes: Sequence[str], rounds: int, progress: contest.Progress
) -> contest.Found:
    """Measures --help of each command, and the imports behind a session.

    Args:
      runtimes: Names of installed runtimes.
      rounds: Starts of each.
      progress: Wraps the rounds; is given a description.

    Raises:
      CalledProcessError: If one does not start.
    """
    starts: dict[str, tuple[str, ...]] = {_PLAIN: ("-c", "pass")}
    for name in commands():
        starts[f"{name} --help"] = ("-m", f"ondevice.{name}", "--help")
    for runtime in runtimes:
        code = (
            "from ondevice.device import runtimes, session; "
            f"runtimes.interpreter_class({runtime!r})"
        )
        starts[f"import of session and {runtime}"] = ("-c", code)
    contenders = [_contender(name, given) for name, given in starts.items()]
    times = timing.measure(
        contenders,
        [None],
        rounds,
        warmup=1,  # Reads the files into the system's cache.
        clock=timing.Clock(cpu=_children),
        progress=lambda turns: progress(turns, SECTION),
    )
    found = contest.Found()
    for name, taken in zip(starts, times):
        found.rows += taken.rows(SECTION)
        if name == _PROMISED:
            allowed = timing.allowed(bounds.HELP, rounds)
            said = f"{SECTION}: {name} over {1e3 * bounds.HELP:g} ms"
            found.ratios[said] = timing.ratio(taken, allowed, 1.0, timing.CPU)
    return found


def _contender(name: str, given: Sequence[str]) -> timing.Contender:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def start(_: Any) -> None:
        subprocess.run(
            [sys.executable, *given],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env=environment,
        )

    labels: Mapping[str, Any] = {"contender": name, "threads": 1}
    return timing.Contender(labels, {"start": start})


def _children() -> float:
    """Seconds that processes which ended have computed, started from this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
