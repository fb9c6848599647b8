"""Saving, restoring and exporting by a patch, inside a process, flushed to disk."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

from checkpoints import atomic
from ondevice.device import exports, session, trial
from ondevice.measuring import bounds, contest, timing

SECTION = "storage"

# What the bounds are promised for.
_SPEC, _TRAINABLE, _OPTIMIZER = "palm_full", "all", "adam"


def measure(
    models: Sequence[pathlib.Path],
    runtimes: Sequence[str],
    rounds: int,
    progress: contest.Progress,
) -> contest.Found:
    """Measures what a trainable file's state costs to write and read.

    Args:
      models: Trainable files with builtin operators.
      runtimes: Names of installed runtimes.
      rounds: Calls of each.
      progress: Wraps the rounds; is given a description.

    Raises:
      ValueError: If a file is damaged, or a runtime does not run it or crashes.
      OSError: If one cannot be read, or the disk is full.
    """
    found = contest.Found()
    for path in models:
        for runtime in runtimes:
            trial.require(path, runtime, str(path))
            with session.Session(path, runtime, 1) as opened:
                _measure(path, opened, rounds, progress, found)
    return found


def _measure(
    path: pathlib.Path,
    opened: session.Session,
    rounds: int,
    progress: contest.Progress,
    found: contest.Found,
) -> None:
    own = opened.manifest
    promised = (own.spec, own.trainable, own.optimizer["name"]) == (
        _SPEC,
        _TRAINABLE,
        _OPTIMIZER,
    )
    said = f"{SECTION}: {own.spec} {own.trainable}, {len(own.classes)} classes"
    said = f"{said}, {opened.runtime}"
    # Beside the model, whose disk is the one that counts.
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        contenders = _contenders(path, opened, pathlib.Path(directory))
        times = timing.measure(
            contenders, [None], rounds, progress=lambda turns: progress(turns, said)
        )
    for taken in times:
        name = taken.labels["contender"]
        found.rows += taken.rows(SECTION)
        if name in bounds.STORAGE:
            allowed = timing.allowed(bounds.STORAGE[name], rounds)
            found.ratios[f"{said}, {name} over {1e3 * bounds.STORAGE[name]:g} ms"] = (
                timing.ratio(taken, allowed, 1.0 if promised else None)
            )


def _contenders(
    path: pathlib.Path, opened: session.Session, directory: pathlib.Path
) -> list[timing.Contender]:
    checkpoint, target = directory / "state.safetensors", directory / "new.tflite"
    opened.save(checkpoint)  # For those that read it before it was saved in turn.

    def read(_: Any) -> tuple[exports.Source, Any]:
        source = exports.Source.read(path, None)
        return source, source.checkpoint(checkpoint)

    def patch(given: tuple[exports.Source, Any]) -> bytes:
        source, state = given
        return source.patched(state, "trainable")

    stages: dict[str, dict[str, Any]] = {
        "save": {"save": lambda _: opened.save(checkpoint)},
        "restore": {"restore": lambda _: opened.restore(checkpoint)},
        "patch": {"patch": lambda _: opened.export(target)},
        "patch from files": {
            "read model and checkpoint": read,
            "patch": patch,
            "write": lambda data: atomic.write(target, [data]),
        },
    }
    common = {"runtime": opened.runtime, "threads": 1}
    common |= {"classes": len(opened.manifest.classes)}
    return [
        timing.Contender({"contender": name, **common}, functions)
        for name, functions in stages.items()
    ]
