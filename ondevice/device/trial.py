"""Tries a .tflite in a process of its own before it is let into this one.

A file may be sound as data (`tflite_file`) and as a program (`soundness`) and still
crash an interpreter: what its kernels make of an axis or a stride is theirs to check,
and they do not always. So a command that runs a file in its own process has it tried
first, once: `require` starts `ondevice.device.probe`, which invokes every signature.
Spared are files whose digests are on record: what a build, a conversion or an export
of ours has made (`record`), and what a runtime of the same version ran before.

The record is `tried.txt` in the cache: a line for each, the digest and who ran it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import tempfile

from absl import logging

from checkpoints import atomic, soundness, tflite_file
from ondevice import sources
from ondevice.device import probe, runtimes

# Seconds in which every signature must have run once.
TIMEOUT = 120.0

_RECORD = "tried.txt"
_MADE_HERE = "made here"
# Lines that are kept when there are twice as many.
_KEPT = 4096


def require(
    model: tflite_file.TfliteFile | str | os.PathLike[str], runtime: str, where: str
) -> None:
    """Proves that a file does not crash a runtime.

    Args:
      model: A .tflite, parsed or its path.
      runtime: As `runtimes.choose` takes it.
      where: What the file is called, for messages.

    Raises:
      TfliteError: If it is malformed or unsound.
      RuntimeChoiceError: As `runtimes.choose`.
      RuntimeFailure: If the runtime refuses it, crashes on it or hangs.
      OSError: If it cannot be read.
    """
    if not isinstance(model, tflite_file.TfliteFile):
        data = pathlib.Path(model).read_bytes()
        if _is_on_record(data, runtimes.choose(runtime)):
            return  # It need not even be parsed.
        model = tflite_file.read(model)
    soundness.require(model)
    name = runtimes.choose(runtime, bool(model.flex()))
    if _is_on_record(model.data, name):
        return
    logging.info("%s was not made here: it is tried apart first.", where)
    # The bytes that were checked, whatever the path holds by now.
    with tempfile.NamedTemporaryFile(suffix=".tflite") as copy:
        copy.write(model.data)
        copy.flush()
        verdict = probe.probe(copy.name, name, TIMEOUT)
    if not verdict.runs:
        raise runtimes.RuntimeFailure(
            f"The runtime {name!r} must be able to run the model, which is tried in a "
            f"process of its own. Received: {verdict.error}; in {where}."
        )
    if by := _ran_by(name):
        _add(f"{_digest(model.data)} {by}")


def record(*models: bytes) -> None:
    """Puts files on record that a build, a conversion or an export of ours made."""
    _add(*(f"{_digest(model)} {_MADE_HERE}" for model in models))


def _is_on_record(data: bytes, runtime: str) -> bool:
    digest = _digest(data)
    wanted = {f"{digest} {by}" for by in (_MADE_HERE, _ran_by(runtime))}
    return not wanted.isdisjoint(_lines())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _ran_by(runtime: str) -> str | None:
    """A runtime and its version; None where that is not known, as of nightly builds."""
    try:
        version = importlib.metadata.version(runtimes.DISTRIBUTIONS[runtime])
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"{runtime} {version}"


def _lines() -> list[str]:
    try:
        return _path().read_text("utf-8", errors="replace").splitlines()
    except OSError:  # None yet; without it files are tried more often, that is all.
        return []


def _add(*lines: str) -> None:
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        there = _lines()
        if len(there) > 2 * _KEPT:
            kept = "".join(f"{line}\n" for line in there[-_KEPT:])
            atomic.write(_path(), [(kept + text).encode()])
            return
        with open(_path(), "a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        logging.warning("%s, so files are tried again each time.", error)


def _path() -> pathlib.Path:
    return sources.cache_directory() / _RECORD
