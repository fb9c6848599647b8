"""The power fails at any moment of a run's writing; what the disk has flushed is there.

Checkpoints and metrics are written as training writes them, and each call of the system
is recorded. Then a moment is drawn, and what a disk may hold that lost its power there:
bytes that were flushed are there, of others any part; names that were flushed are
there, of later changes of names the first few. The checkpoint must be one that was
saved, whole, and none older than the last whose saving had ended; and no line of the
metrics may be missing that it knows of.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np

from checkpoints import store
from ondevice.device import journal, runs, training
from tests.soak import shim

# Moments that are drawn of one recording.
_CUTS = 30
_CREATE, _RENAME, _WRITE, _FLUSH, _SAVED = "create", "rename", "write", "flush", "saved"
_NAMES = (_CREATE, _RENAME, "unlink")
# Stands for the directory where a file's number would.
_DIRECTORY = 0

# What else a line of a step has.
_NUMBERS = dict.fromkeys(
    ("epoch", "loss", "class_loss", "box_loss", "gradient_norm", "learning_rate"), 0.5
)


class Disk:
    """Records what is asked of a disk, and draws what a power failure leaves.

    Attributes:
      log: What was asked, in order.
    """

    def __init__(self) -> None:
        self.log: list[tuple] = []
        self._files: dict[int, int] = {}  # Descriptor -> number of the file.
        self._places: dict[int, int] = {}  # Descriptor -> where it writes.
        self._numbers: dict[str, int] = {}  # Name -> number, as programs see it.

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Has the writers' calls recorded."""
        with shim.installed(self) as _:
            with mock.patch.object(journal, "open", self._stream, create=True):
                yield

    def __call__(
        self, number: int, name: str, made: Callable[[], Any], arguments: tuple
    ) -> Any:
        """Records one call of `os`."""
        found = made()
        if name == "open":
            self._opened(found, *arguments[:2])
        elif name == "lseek":
            self._places[arguments[0]] = found
        elif name in ("write", "writev"):
            descriptor, given = arguments
            data = bytes(given) if name == "write" else b"".join(given)
            place = self._places[descriptor]
            self.log.append((_WRITE, self._files[descriptor], place, data[:found]))
            self._places[descriptor] = place + found
        elif name == "fsync":
            self.log.append((_FLUSH, self._files[arguments[0]]))
        elif name == "replace":
            old, new = map(os.fspath, arguments)
            self.log.append((_RENAME, old, new))
            self._numbers[new] = self._numbers.pop(old)
        return found

    def left(self, moment: int, drawn: random.Random) -> dict[str, bytes]:
        """What there is by name after a power failure at a moment of the log."""
        log = self.log[:moment]
        names: dict[str, int] = {}
        changes = [place for place, entry in enumerate(log) if entry[0] in _NAMES]
        sure = _last(log, (_FLUSH, _DIRECTORY))
        unsure = [place for place in changes if place > sure]
        kept = {*changes} - {*unsure[drawn.randint(0, len(unsure)) :]}
        for place in sorted(kept):
            kind, name, to = log[place]
            if kind == _CREATE:
                names[name] = to
            else:
                names[to] = names.pop(name)
        return {name: _data(log, number, drawn) for name, number in names.items()}

    def _opened(self, descriptor: int, path: Any, flags: int) -> None:
        name = os.fspath(path)
        self._places[descriptor] = 0
        if flags & os.O_DIRECTORY:
            self._files[descriptor] = _DIRECTORY
        elif flags & os.O_CREAT:
            number = self._numbers.setdefault(name, len(self.log) + 1)
            self._files[descriptor] = number
            self.log.append((_CREATE, name, number))
        else:
            self._files[descriptor] = self._numbers.get(name, -1)

    def _stream(self, path: pathlib.Path, mode: str) -> Any:
        """What the journal's `open` gives, to append to."""
        assert mode == "ab"
        stream = open(path, mode)
        number, descriptor = self._numbers[os.fspath(path)], stream.fileno()
        self._files[descriptor] = number

        def write(data: bytes) -> None:
            place = os.fstat(descriptor).st_size
            stream.write(data)
            stream.flush()
            self.log.append((_WRITE, number, place, data))

        found = types.SimpleNamespace(write=write, fileno=stream.fileno)
        return contextlib.nullcontext(found)


def _last(log: list[tuple], wanted: tuple) -> int:
    return max((at for at, entry in enumerate(log) if entry == wanted), default=-1)


def _data(log: list[tuple], number: int, drawn: random.Random) -> bytes:
    """Bytes of a file: those that were flushed, and of later ones any part."""
    sure, data = _last(log, (_FLUSH, number)), bytearray()
    for place, entry in enumerate(log):
        if entry[:2] != (_WRITE, number):
            continue
        _, _, start, written = entry
        if place > sure:
            written = written[: drawn.choice([0, len(written), drawn.randrange(99)])]
        if written:
            data.extend(bytes(max(start + len(written) - len(data), 0)))
            data[start : start + len(written)] = written
    return bytes(data)


def run(seed: int) -> Mapping[str, int]:
    """The campaign's case."""
    drawn, disk = random.Random(seed), Disk()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        place = pathlib.Path(directory).resolve()
        with disk.recording():
            saved = _run(place, disk, drawn)
        latest, metrics = (
            os.fspath(place / name) for name in (training.LATEST, training.METRICS)
        )
        for _ in range(_CUTS):
            moment = drawn.randint(0, len(disk.log))
            _check(disk, moment, saved, disk.left(moment, drawn), latest, metrics)
    return {"power failures": _CUTS}


def _run(place: pathlib.Path, disk: Disk, drawn: random.Random) -> list[bytes]:
    """Writes lines and checkpoints; returns what the checkpoints are."""

    def save(path: pathlib.Path, epoch: int, seed: int, extra: Any) -> None:
        tensors = {"step": np.array(len(saved), np.int32)}
        header = store.Header("ab" * 32, {"name": "sgd"}, extra=extra)
        store.save_file(path, tensors, header)

    saved: list[bytes] = []
    written = journal.Journal(place / training.METRICS)
    state = runs.State()
    # What training saves with, the order of its writings included.
    run_of = types.SimpleNamespace(
        _settings=runs.Settings(), state=state, _data="", _journal=written,
        _directory=place, _session=types.SimpleNamespace(runtime="", save=save),
    )  # fmt: skip
    for _ in range(drawn.randint(1, 4)):
        for _ in range(drawn.randint(0 if written.count else 1, 3)):
            written.add({"kind": journal.STEP, "step": written.count, **_NUMBERS})
            state.lines = written.count
        training.Training._save(run_of, training.LATEST)  # type: ignore[arg-type]
        saved.append((place / training.LATEST).read_bytes())
        disk.log.append((_SAVED, len(saved)))
    return saved


def _check(
    disk: Disk,
    moment: int,
    saved: list[bytes],
    found: Mapping[str, bytes],
    latest: str,
    metrics: str,
) -> None:
    """Proves that the checkpoint is whole and new enough, and no line is missing."""
    ended = sum(entry[0] == _SAVED for entry in disk.log[:moment])
    if latest not in found:
        assert not ended, "the checkpoint is lost"
        return
    assert found[latest] in saved, "the checkpoint is no whole one"
    number = saved.index(found[latest]) + 1
    assert number >= ended, f"of {ended} checkpoints there is the {number}."
    path = pathlib.Path(latest)
    path.write_bytes(found[latest])
    lines = store.load_file(path)[1].extra["run"]["state"]["lines"]
    kept = journal.Journal(pathlib.Path(metrics))
    pathlib.Path(metrics).write_bytes(found.get(metrics, b""))
    kept.rewind(lines)
    assert kept.count == lines, f"of {lines} lines there are {kept.count}"
