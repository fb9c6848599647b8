"""Processes are killed at any moment; nothing that was whole before is lost.

After each kill every checkpoint is, bit for bit, the one that a process which nobody
killed wrote at the same step, and an export is the old file or the new one. Then the
work is taken up, and killed again; in the end it is done, with the same bits as if
never killed, and no temporary file is left.

Half of the kills are drawn from the calls that write, before, after or within one; the
others from the clock, as are those of the command, which starts anew each time.
"""

from __future__ import annotations

import atexit
import collections
import dataclasses
import functools
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from checkpoints import store
from ondevice.device import exports, training
from tests import conftest, small_data
from tests.soak import models, victims

COMMAND = "command"
KINDS = (*victims.KINDS, COMMAND)
# How often each is drawn. The command takes ten times as long.
_WEIGHTS = {"training": 4, "saving": 4, "exporting": 1, "patching": 2, COMMAND: 1}
_MOST_KILLS = 5
_CHECKPOINTS = (training.LATEST, training.BEST, victims.SESSION)
_METRICS = training.METRICS


@dataclasses.dataclass(frozen=True)
class Reference:
    """What processes do that nobody kills.

    Attributes:
      root: Holds for each kind its directory as it is in the end, and `record`, every
        checkpoint by name and step.
      job: What they are given, but for kind and place.
      calls: Kind -> calls of `os` that write.
      seconds: Kind -> how long it takes.
      other: The patched file that it does not end with.
    """

    root: pathlib.Path
    job: victims.Job
    calls: Mapping[str, int]
    seconds: Mapping[str, float]
    other: bytes


@functools.cache
def reference(model: pathlib.Path, kinds: tuple[str, ...] = KINDS) -> Reference:
    """Runs each kind once to its end; what it leaves is removed at the exit.

    Args:
      model: Of a tiny detector's trainable file, its inference file beside it.
      kinds: Some of `KINDS` in their order, the first among them.
    """
    directory = tempfile.TemporaryDirectory(prefix="soak-")
    atexit.register(directory.cleanup)
    root = pathlib.Path(directory.name)
    (root / "record").mkdir()
    data = small_data.annotated(root / "hands", 9)
    made = victims.Job("", model, root, data, record=root / "record")
    calls, seconds = {}, {}
    for kind in kinds:
        job = dataclasses.replace(made, kind=kind, place=_place(root, kind))
        if kind == COMMAND:
            started = time.monotonic()
            _finish(_started(job))
            seconds[COMMAND] = time.monotonic() - started
            continue
        ended = victims.run(job)
        assert ended.code == 0, ended.said
        seconds[kind] = ended.seconds
        calls[kind] = int(victims.calls_file(job).read_text())
        if kind == "training":
            states = root / kind / training.LATEST, root / kind / training.BEST
            made = dataclasses.replace(made, states=states)
    source = exports.Source.read(model, None)
    other = source.patched(source.checkpoint(made.states[0]), "inference")
    made = dataclasses.replace(made, record=None)
    return Reference(root, made, calls, seconds, other)


def run(seed: int) -> Mapping[str, int]:
    """One work, killed some times and then done; the seed says which and when."""
    drawn = random.Random(seed)
    (kind,) = drawn.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    kills = drawn.randint(1, _MOST_KILLS if kind != COMMAND else 2)
    return kill(reference(models.small()), kind, kills, drawn)


def kill(
    known: Reference, kind: str, kills: int, drawn: random.Random, clocked: float = 0.5
) -> Mapping[str, int]:
    """Starts a work so many times and kills it, then lets it end.

    Args:
      known: Of the same model.
      kind: Of the work.
      kills: Processes that are killed; one that was quicker than its killer is counted
        by itself.
      drawn: Draws the moments.
      clocked: Share of the kills whose moment the clock says, not a call.

    Returns:
      How many were killed, in all and by kind, and how many ended before.
    """
    counted: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        place = _place(pathlib.Path(directory), kind)
        job = dataclasses.replace(known.job, kind=kind, place=place)
        reached: dict[str, int] = {}
        for left in range(kills, 0, -1):
            if _killed(known, job, drawn, 1 / left, drawn.random() < clocked):
                counted.update(("kills", f"kills of {kind}"))
            else:
                counted["ended before"] += 1
            _check(known, job, reached)
        if kind == COMMAND:
            _finish(_started(job))
        else:
            ended = victims.run(job)
            assert ended.code == 0, ended.said
        _check(known, job, reached)
        _check_end(known, job)
    return counted


def _place(root: pathlib.Path, kind: str) -> pathlib.Path:
    """Makes the directory of a work; an export has old files there."""
    place = root / kind
    folders = {"exporting": ("trainable", "inference")}.get(kind, ("",))
    for folder in folders:
        (place / folder).mkdir(parents=True)
        if kind in ("exporting", "patching"):
            (place / folder / victims.OUTPUT).write_bytes(b"old")
    return place


def _killed(
    known: Reference,
    job: victims.Job,
    drawn: random.Random,
    share: float,
    clocked: bool,
) -> bool:
    """Starts the work and kills it in its first share; whether it had not ended."""
    seconds = drawn.uniform(0, share * known.seconds[job.kind])
    if job.kind == COMMAND:
        process = _started(job)
        time.sleep(seconds)
        process.kill()
        process.wait()
        code, said = process.returncode, process.communicate()[1]
    else:
        at = drawn.randrange(max(int(share * known.calls[job.kind]), 1))
        when = drawn.choice(["before", "within", "after"])
        if clocked:
            ended = victims.run(job, seconds=seconds)
        else:
            ended = victims.run(job, at, when)
        code, said = ended.code, ended.said
    assert code in (0, -signal.SIGKILL), said
    return code != 0


def _check(known: Reference, job: victims.Job, reached: dict[str, int]) -> None:
    """Proves all that is there whole and right.

    Args:
      known: What would be there if nobody had been killed.
      job: Whose place is looked at.
      reached: Name of a checkpoint -> step that was seen; it must not be lost.
    """
    kind = "training" if job.kind == COMMAND else job.kind
    temporary = [path for path in job.place.rglob(".*.tmp")]
    # One of each name: what the next writing of it will sweep away.
    assert len(temporary) <= 4, temporary
    for name in _CHECKPOINTS:
        path = job.place / name
        if not path.exists():
            assert name not in reached, f"{name} is lost"
            continue
        step = victims.steps(path)
        assert step >= reached.get(name, 0), f"{name} is older than before"
        reached[name] = step
        expected = known.root / "record" / f"{name}-{step}"
        assert path.read_bytes() == expected.read_bytes(), f"{name} at step {step}"
        if name == training.LATEST:
            _check_lines(path, known.root / kind / _METRICS)
    for path in job.place.rglob(victims.OUTPUT):
        relative = path.relative_to(job.place)
        allowed = [b"old", (known.root / kind / relative).read_bytes()]
        if kind == "patching":
            allowed.append(known.other)
        assert path.read_bytes() in allowed, f"{relative} is neither old nor new"


def _check_lines(latest: pathlib.Path, expected: pathlib.Path) -> None:
    """Proves that no line is missing that a checkpoint knows of."""
    lines = store.load_file(latest)[1].extra["run"]["state"]["lines"]
    found = latest.with_name(_METRICS).read_bytes().splitlines()[:lines]
    assert len(found) == lines and all(map(json.loads, found))
    assert found == expected.read_bytes().splitlines()[:lines]


def _check_end(known: Reference, job: victims.Job) -> None:
    """Proves that all is there, as if nobody had been killed, and no more."""
    kind = "training" if job.kind == COMMAND else job.kind
    expected = {
        path.relative_to(known.root / kind)
        for path in (known.root / kind).rglob("*")
        if path.is_file()
    }
    found = {p.relative_to(job.place) for p in job.place.rglob("*") if p.is_file()}
    drawn = {path for path in found if path.name == training.PLOT}
    events = {path for path in found | expected if training.EVENTS in path.parts}
    assert found - drawn - events == expected - events, found ^ expected
    for path in expected - events:
        pair = [place / path for place in (job.place, known.root / kind)]
        same = pair[0].read_bytes() == pair[1].read_bytes()
        assert same, f"{path} is another than that of a work which nobody killed"


def _started(job: victims.Job) -> subprocess.Popen:
    """The command that does what the work `training` does."""
    resume = (job.place / training.LATEST).exists()
    settings = [f"--{name}={value}" for name, value in victims.SETTINGS.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "ondevice.train", f"--model={job.model}"),
            *(f"--data={job.data}", f"--checkpoint_dir={job.place}", *settings),
            *(["--resume"] * resume),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=conftest.ROOT,
    )


def _finish(process: subprocess.Popen) -> None:
    said = process.communicate()[1]
    assert process.returncode == 0, said
