"""A hundred thousand steps: memory, open files, threads and speed stay what they were.

Each run is a process of its own. By the seed it calls a session, as an app does; runs
the loop of ondevice.train, with its pictures, validations, checkpoints, metrics and
drawings; or opens and closes a session a thousand times, in several threads. In the end
some more steps are taken, by turns with a process that has just begun: a machine's own
speed changes by the minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
from absl import logging

from ondevice.device import session, usage
from ondevice.measuring import step_inputs
from tests import conftest, small_data
from tests.soak import models

# Way of a run -> steps that it takes, or sessions that it opens.
COUNTS = {"session": 100_000, "loop": 118_000, "opened": 1000}
# Growth of the memory after the warm-up, and of a step's CPU time beside that of a new
# process, as shares.
GROWTH, SLOWER = 0.02, 0.1
# Samples of a run; the first tenth of them is the warm-up. As many steps as are between
# two of them make a turn.
_SAMPLES, _TURNS = 200, 21
_OURS = "soak: "  # Begins the lines that a run tells; a command prints others.
_PER_EPOCH = 59  # A turn of the loop is ten epochs.


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a run used, sampled in even steps; the first tenth is its warm-up.

    Attributes:
      steps: Taken, or sessions opened, in all.
      memory: Resident, in bytes.
      files: Open ones.
      threads: Of the process.
      seconds: CPU time in all.
      turns: CPU time of each turn in the end over that of a new process beside it.
    """

    steps: int
    memory: list[int]
    files: list[int]
    threads: list[int]
    seconds: float
    turns: list[float]

    @property
    def warm(self) -> int:
        """Samples of the warm-up."""
        return len(self.memory) // 10

    @property
    def growth(self) -> float:
        """Of the memory, from the warm-up's most to the most of all, as a share."""
        return max(self.memory) / max(self.memory[: self.warm]) - 1

    @property
    def slower(self) -> float:
        """What a step costs over one of a process that has just begun."""
        return statistics.median(self.turns) - 1

    def require(self, growth: float = GROWTH, slower: float = SLOWER) -> None:
        """Fails unless all stayed what it was."""
        told = self.described()
        assert self.growth <= growth, told
        assert max(self.files) <= max(self.files[: self.warm]), told
        assert max(self.threads) <= max(self.threads[: self.warm]), told
        assert self.slower <= slower, told

    def described(self) -> str:
        """The figures on one line."""
        half, end = len(self.memory) // 2, self.memory[-1]
        return (
            f"{self.steps} steps: memory {max(self.memory[: self.warm]) / 1e6:.1f} MB "
            f"after the warm-up, {self.memory[half] / 1e6:.1f} half-way, "
            f"{end / 1e6:.1f} in the end, growth {self.growth:.2%}; files "
            f"{self.files[self.warm]} to {self.files[-1]}, threads "
            f"{self.threads[self.warm]} to {self.threads[-1]}; "
            f"{self.seconds:.0f} s of CPU, a step {self.slower:+.1%} slower than a new "
            "process'"
        )


def run(seed: int) -> Mapping[str, int]:
    """The campaign's case."""
    way = list(COUNTS)[seed % len(COUNTS)]
    found = measured(models.small(), way, COUNTS[way], seed)
    logging.info("long, %s: %s.", way, found.described())
    found.require()
    return {f"steps of {way}": found.steps}


def measured(model: pathlib.Path, way: str, steps: int, seed: int = 0) -> Figures:
    """Runs in a process of its own.

    Args:
      model: Of a tiny detector's trainable file; where sessions are only opened, of an
        inference file, too.
      way: A key of `COUNTS`.
      steps: To take before the turns.
      seed: Of what is trained on.
    """
    turn = max(1, steps // _SAMPLES)
    with _begun(model, way, seed, steps, turn) as old:
        found = json.loads(_told(old))
        with _begun(model, way, seed, max(1, steps // 10), turn) as new:
            _told(new)
            turns = [_turn(old) / _turn(new) for _ in range(_TURNS)]
    return Figures(**found, turns=turns)


@contextlib.contextmanager
def _begun(
    model: pathlib.Path, way: str, *numbers: int
) -> Iterator[subprocess.Popen[str]]:
    """A process that takes its steps, tells its figures and waits for turns."""
    command = [sys.executable, "-m", "tests.soak.long", os.fspath(model), way]
    with subprocess.Popen(
        [*command, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=conftest.ROOT,
    ) as process:
        yield process
        process.stdin.close()  # type: ignore[union-attr]
        assert process.wait() == 0


def _told(process: subprocess.Popen[str]) -> str:
    """The next line that is ours; a command's own are read over."""
    for line in process.stdout or ():
        if line.startswith(_OURS):
            return line.removeprefix(_OURS)
    raise AssertionError("The process must tell its figures. Received: its end.")


def _turn(process: subprocess.Popen[str]) -> float:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    return float(_told(process))


class _Sampler:
    """Takes a sample every so many steps, tells them, and lets turns be taken."""

    def __init__(self, steps: int, turn: int) -> None:
        self._steps, self._turn = steps, turn
        self._taken, self._begun = 0, 0.0
        self._samples: dict[str, list[int]] = {"memory": [], "files": [], "threads": []}

    def step(self) -> None:
        """One more was taken.

        Raises:
          SystemExit: If no more is asked for.
        """
        self._taken += 1
        if self._taken <= self._steps and self._taken % self._turn == 0:
            self._samples["memory"].append(resident())
            self._samples["files"].append(open_files())
            self._samples["threads"].append(threading.active_count())
        behind = self._taken - self._steps
        if behind == 0:
            used = {"steps": self._taken, "seconds": usage.cpu_seconds()}
            self._wait(json.dumps(used | self._samples))
        elif behind > 0 and behind % self._turn == 0:
            self._wait(repr(usage.cpu_seconds() - self._begun))

    def _wait(self, line: str) -> None:
        print(_OURS + line, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self._begun = usage.cpu_seconds()


def resident() -> int:
    """Memory of this process, in bytes. Source: proc_pid_statm(5)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def _session(model: str, seed: int, sampler: _Sampler) -> None:
    with session.Session(model, threads=1) as opened:
        batches = [
            step_inputs.of_signature(opened.manifest, "train", 10 * seed + place)
            for place in range(10)
        ]
        rate = np.array(1e-4, np.float32)
        for number in itertools.count():
            batch = {**batches[number % len(batches)], "learning_rate": rate}
            assert np.isfinite(opened.train(**batch).loss)
            sampler.step()


def _loop(model: str, seed: int, sampler: _Sampler) -> None:
    from ondevice import train

    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        root = pathlib.Path(directory)
        data = small_data.annotated(root / "hands", 131)
        config = train.TrainConfig(
            model=pathlib.Path(model),
            data=data,
            checkpoint_dir=root / "run",
            epochs=10 * COUNTS["loop"] // _PER_EPOCH,
            head_epochs=1,
            learning_rate=1e-5,
            patience=0,
            seed=seed,
            threads=1,
        )
        with _counted("train", sampler), _counted("train_classes", sampler):
            train.train(config)


def _opened(model: str, seed: int, sampler: _Sampler) -> None:
    data, drawn = pathlib.Path(model).read_bytes(), random.Random(seed)
    while True:
        with session.Session(data, threads=drawn.choice([1, 2])) as opened:
            calls: list[Callable] = []
            if opened.manifest.variables:
                batch = step_inputs.of_signature(opened.manifest, "train", seed)
                calls = [functools.partial(opened.train, **batch), opened.state]
            else:
                side = opened.manifest.input_size
                image = np.zeros((1, side, side, 3), np.float32)
                calls = 2 * [functools.partial(opened.infer, image)]
            threads = [threading.Thread(target=call) for call in calls]
            for thread in threads[: drawn.randrange(3)]:
                thread.start()
                thread.join()
        sampler.step()


@contextlib.contextmanager
def _counted(name: str, sampler: _Sampler) -> Iterator[None]:
    """Has the sampler told of each call of a session's method."""
    real: Callable = getattr(session.Session, name)

    def call(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        sampler.step()
        return found

    with mock.patch.object(session.Session, name, call):
        yield


if __name__ == "__main__":
    way = {"session": _session, "loop": _loop, "opened": _opened}[sys.argv[2]]
    drawn, *counts = map(int, sys.argv[3:])
    way(sys.argv[1], drawn, _Sampler(*counts))
