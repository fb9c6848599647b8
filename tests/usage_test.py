"""Tests of what a process has used."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest

from ondevice.device import usage
from tests import conftest

MANY = 300 * 2**20


def test_peak_memory_counts_what_is_no_longer_there():
    before = usage.peak_memory()
    assert before is not None and before > 2**20
    taken = np.ones(MANY, np.uint8)
    peak = usage.peak_memory()
    del taken
    assert peak is not None and peak >= MANY
    # Linux sums a count for each thread now and then: a few pages may be missing.
    assert usage.peak_memory() > peak - 2**22


def test_a_child_does_not_count_what_its_parent_had():
    taken = np.ones(MANY, np.uint8)
    code = "from ondevice.device import usage; print(usage.peak_memory())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=conftest.ROOT,
    )
    del taken
    assert int(done.stdout) < MANY


def test_without_proc_the_operating_system_is_asked(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(usage, "_STATUS", pathlib.Path("nowhere"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for platform, unit in (("linux", 1024), ("darwin", 1)):
        with mock.patch.object(sys, "platform", platform):
            assert usage.peak_memory() == pytest.approx(peak * unit, rel=0.05)
    with mock.patch.dict(sys.modules, {"resource": None}):
        assert usage.peak_memory() is None


def test_cpu_seconds_count_work_and_not_sleep():
    start = usage.cpu_seconds()
    time.sleep(0.2)
    slept = usage.cpu_seconds() - start
    while usage.cpu_seconds() - start < slept + 0.2:
        pass
    assert slept < 0.2
