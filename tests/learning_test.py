"""Tests of docs/learning.py: runs' accuracy against seconds, as a picture."""

from __future__ import annotations

import runpy
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ondevice.device import events
from tests import conftest
from tests.small_data import epoch_line, step_line

pytest.importorskip("tensorboard")
pytest.importorskip("matplotlib")

SCRIPT = conftest.ROOT / "docs" / "learning.py"

# Matplotlib's first colour.
FIRST_CURVE = (31, 119, 180)


@pytest.fixture(name="run")
def _run(tmp_path):
    """A run whose first step ends at second 100, and its epochs 7 and 9 later."""
    folder = tmp_path / "heads"
    folder.mkdir()
    lines = [step_line(1), epoch_line(1), epoch_line(2)]
    # The first line brings two records before itself.
    times = [100.0, 100.0, 100.0, 107.0, 109.0]
    with mock.patch.object(events.time, "time", side_effect=times):
        each = events.Events(folder / "tensorboard")
        for line in lines:
            each.add(line)
        each.close()
    return folder


def test_seconds_count_from_the_first_step(run):
    curve = runpy.run_path(str(SCRIPT))["curve"]
    assert curve(run) == ([7.0, 9.0], [0.5, 0.5])


def test_the_picture(run, tmp_path):
    picture = tmp_path / "learning.png"
    done = subprocess.run(
        [sys.executable, SCRIPT, picture, run], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(picture) as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert pixels.shape == (450, 800, 3)
    assert (pixels == FIRST_CURVE).all(-1).sum() > 50


def test_what_it_must_be_given():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2 and "out/learning.png" in done.stderr
