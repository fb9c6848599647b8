"""Tests of running a job in a process of its own."""

import pytest

from ondevice.verification import runners


def _module(tmp_path, monkeypatch, source: str) -> str:
    (tmp_path / "job_of_a_test.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "job_of_a_test"


def test_the_job_and_the_runtime_are_told(tmp_path, monkeypatch):
    source = "import pathlib, sys; pathlib.Path(sys.argv[1], sys.argv[2]).touch()"
    module = _module(tmp_path, monkeypatch, source)
    assert runners.alone(module, tmp_path, "a_runtime") == ""
    assert (tmp_path / "a_runtime").exists()


@pytest.mark.parametrize(
    "source, told",
    [
        ("raise ValueError('too\\nwrong')", "exit status 1: wrong"),
        ("import sys; sys.exit(3)", "exit status 3: no message"),
        ("import os; os.kill(os.getpid(), 9)", "exit status -9: no message"),
    ],
)
def test_a_failure_is_a_result(tmp_path, monkeypatch, source, told):
    module = _module(tmp_path, monkeypatch, source)
    assert runners.alone(module, tmp_path, "a_runtime") == told


def test_what_does_not_end_is_stopped(tmp_path, monkeypatch):
    module = _module(tmp_path, monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(runners, "_TIMEOUT_SECONDS", 0.5)
    assert runners.alone(module, tmp_path, "x") == "no end after 0.5 seconds"
