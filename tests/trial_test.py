"""Tests of trying a file apart, and of what is spared it."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from checkpoints import tflite_file
from ondevice import sources
from ondevice.device import probe, runtimes, trial
from tests import hostile_files, tflite_bytes

RUNTIME = runtimes.installed()[0]
GOOD = tflite_bytes.model_bytes((((4,), "FLOAT32", 0),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A record of the test's own."""
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tries(monkeypatch):
    """What was tried: the bytes and the runtime; all of it runs."""
    found = []

    def run(path, runtime, timeout):
        with open(path, "rb") as stream:
            found.append((stream.read(), runtime))
        return probe.Verdict(True)

    monkeypatch.setattr(probe, "probe", run)
    return found


def require(data: bytes, runtime: str = RUNTIME) -> None:
    trial.require(tflite_file.parse(data), runtime, "x.tflite")


def test_what_runs_is_tried_once_and_then_on_record(tries, cache):
    require(GOOD)
    require(GOOD)
    assert tries == [(GOOD, RUNTIME)]
    (line,) = (cache / "tried.txt").read_text().splitlines()
    assert line.split()[1] == RUNTIME


def test_what_was_made_here_is_not_tried(tries, tmp_path):
    trial.record(GOOD, b"other")
    require(GOOD)
    path = tmp_path / "x.tflite"
    path.write_bytes(GOOD)
    with mock.patch.object(tflite_file, "read") as read:
        trial.require(path, RUNTIME, "x.tflite")
    assert not tries and not read.called  # Nor even parsed, by its path.


def test_another_byte_another_runtime_or_version_is_tried_again(tries, monkeypatch):
    require(GOOD)
    other = GOOD + b"\0"
    require(other)
    monkeypatch.setattr(trial.importlib.metadata, "version", lambda name: "0.0.1")
    require(GOOD)
    assert [data for data, _ in tries] == [GOOD, other, GOOD]
    if len(runtimes.installed()) > 1:
        require(GOOD, runtimes.installed()[1])
        assert tries[-1] == (GOOD, runtimes.installed()[1])


def test_a_runtime_without_a_version_tries_each_time(tries, cache, monkeypatch):
    def unknown(name):
        raise trial.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(trial.importlib.metadata, "version", unknown)
    require(GOOD)
    require(GOOD)
    assert len(tries) == 2 and not cache.exists()
    trial.record(GOOD)
    require(GOOD)
    assert len(tries) == 2


def test_what_is_unsound_is_not_even_tried(tries):
    four = ((4,), "FLOAT32", 0)
    data = tflite_bytes.model_bytes(
        (four, four), operators=((0, (1,), (1,)),), codes=((101, None),)
    )
    with pytest.raises(tflite_file.TfliteError, match="nothing made"):
        require(data)
    assert not tries


def test_a_crash_is_told_and_not_remembered(cache):
    if "tflite_runtime" not in runtimes.installed():
        pytest.skip("tflite_runtime 2.14 alone dies of this file")
    for _ in range(2):
        with pytest.raises(
            runtimes.RuntimeFailure, match="process of its own.*SIGSEGV.*in x.tflite"
        ):
            require(hostile_files.crashing(), "tflite_runtime")
    assert not (cache / "tried.txt").exists()


def test_the_record_is_kept_short(tries, cache, monkeypatch):
    monkeypatch.setattr(trial, "_KEPT", 3)
    for number in range(20):
        trial.record(str(number).encode())
        lines = (cache / "tried.txt").read_text().splitlines()
        assert len(lines) <= 7 and lines[-1].startswith(
            trial.hashlib.sha256(str(number).encode()).hexdigest()
        )


def test_without_a_record_files_are_tried_each_time(tries, cache):
    cache.write_bytes(b"no folder")
    require(GOOD)
    require(GOOD)
    trial.record(GOOD)
    assert len(tries) == 2
    assert os.path.isfile(sources.cache_directory())
