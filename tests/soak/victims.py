"""What is killed: training, saving, exporting and patching, each a process of its own.

The processes are forked by a server that has all imported, so that one costs what it
does and not what Python's start does.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from absl import logging

from checkpoints import atomic, store
from ondevice import exporting, train
from ondevice.device import exports, plot, runtimes, session, training
from ondevice.measuring import step_inputs
from tests.soak import shim

SESSION, OUTPUT = "session.safetensors", "output.tflite"
# Steps of the session, and writings of the patched file.
STEPS, WRITINGS = 12, 12
# As the flags of ondevice.train: one epoch of class heads, then two of all.
SETTINGS = {"epochs": 3, "head_epochs": 1, "learning_rate": 1e-3, "threads": 1}
# Seconds that any work ends in, on a machine that is busy with others' by far.
_PATIENCE = 900.0

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, *runtimes.NAMES[:1]])


@dataclasses.dataclass(frozen=True)
class Job:
    """One process's work.

    Attributes:
      kind: A name of `KINDS`.
      model: Of the trainable file.
      place: Directory that it works in.
      data: Pictures to train on.
      states: Checkpoints to export or patch.
      record: Directory for a copy of each checkpoint, by its step; None keeps none.
    """

    kind: str
    model: pathlib.Path
    place: pathlib.Path
    data: pathlib.Path
    states: tuple[pathlib.Path, ...] = ()
    record: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
      code: Its exit status; minus the signal that killed it.
      seconds: It took, by the clock.
      said: On stderr.
    """

    code: int
    seconds: float
    said: str


def run(
    job: Job, at: int | None = None, when: str = "", seconds: float | None = None
) -> Ended:
    """Runs a process until it ends, or is killed.

    Args:
      job: To do.
      at: Number of the call of `os`, among those that write, that kills it.
      when: As `shim.Killing` takes it.
      seconds: After which it is killed; None waits for its end.
    """
    log = job.place.with_suffix(".log")
    log.write_bytes(b"")
    process = _CONTEXT.Process(target=_main, args=(job, at, when, log))
    started = time.monotonic()
    process.start()
    process.join(_PATIENCE if seconds is None else seconds)
    process.kill()
    process.join()
    code = process.exitcode
    assert code is not None
    taken = time.monotonic() - started
    assert taken < _PATIENCE, f"{job.kind} must end. Received: none in {taken:.0f} s."
    process.close()
    return Ended(code, taken, log.read_text(errors="replace"))


def calls_file(job: Job) -> pathlib.Path:
    """Where a process that ended by itself wrote how many calls it made."""
    return job.place.with_suffix(".calls")


def steps(path: pathlib.Path) -> int:
    """How many a checkpoint is of; the optimizer's begin anew with the second phase.

    Raises:
      CheckpointError: If it is damaged.
    """
    header = store.load_file(path)[1]
    run = header.extra.get("run")
    return run["state"]["steps"] if run else header.step


def _main(job: Job, at: int | None, when: str, log: pathlib.Path) -> None:
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
    logging.use_absl_handler()
    act = shim.counting if at is None else shim.Killing(at, when)
    with shim.installed(act) as calls, _recording(job.record):
        KINDS[job.kind](job)
    calls_file(job).write_text(str(len(calls)))


def _recording(record: pathlib.Path | None) -> Any:
    """Has each checkpoint that a session saves copied, by its name and step."""
    save = session.Session.save

    def saved(opened: session.Session, path: pathlib.Path, **header: Any) -> None:
        save(opened, path, **header)
        if record is not None:
            shutil.copyfile(path, record / f"{path.name}-{steps(path)}")

    return mock.patch.object(session.Session, "save", saved)


def _train(job: Job) -> None:
    directory = job.place
    config = train.TrainConfig(
        model=job.model,
        data=job.data,
        checkpoint_dir=directory,
        resume=(directory / training.LATEST).exists(),
        **SETTINGS,  # type: ignore[arg-type]
    )
    # Drawing takes longer than all else; the command draws.
    with mock.patch.object(plot, "can_draw", return_value=False):
        train.train(config)


def _save(job: Job) -> None:
    path = job.place / SESSION
    with session.Session(job.model, threads=1) as opened:
        header = opened.restore(path) if path.exists() else None
        for step in range(header.step if header else 0, STEPS):
            batch = step_inputs.of_signature(opened.manifest, "train", step)
            batch["learning_rate"] = np.array(1e-3, np.float32)
            opened.train(**batch)
            opened.save(path)


def _export(job: Job) -> None:
    for state, kind in zip(job.states, ("trainable", "inference"), strict=True):
        exporting.export(
            exporting.ExportConfig(
                model=str(job.model),
                output=str(job.place / kind / OUTPUT),
                checkpoint=str(state),
                kind=kind,
            )
        )


def _patch(job: Job) -> None:
    source = exports.Source.read(job.model, None)
    files = [source.patched(source.checkpoint(s), "inference") for s in job.states]
    for number in range(WRITINGS):
        atomic.write(job.place / OUTPUT, [files[number % len(files)]])


KINDS: dict[str, Callable[[Job], None]] = {
    "training": _train,
    "saving": _save,
    "exporting": _export,
    "patching": _patch,
}
