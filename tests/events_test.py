"""Tests of TensorBoard's event files, read by TensorBoard itself."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from unittest import mock

import pytest

from ondevice.device import events
from tests import conftest
from tests.small_data import epoch_line, step_line

pytest.importorskip("tensorboard")


def write(directory: pathlib.Path, lines, steps: int = 0) -> None:
    each = events.Events(directory, steps)
    for line in lines:
        each.add(line)
    each.close()


def read(directory: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing import event_accumulator

    found = event_accumulator.EventAccumulator(str(directory))
    found.Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_what_tensorboard_shows(tmp_path):
    write(tmp_path / "x", [step_line(1), step_line(10), epoch_line(1)])
    found = read(tmp_path / "x")
    assert found["train/loss"] == [(1, 1.0), (10, 1.0)]
    assert found["train/gradient_norm"] == [(1, 2.0), (10, 2.0)]
    assert found["train/learning_rate"] == [(s, pytest.approx(1e-3)) for s in (1, 10)]
    assert found["validation/class_accuracy"] == [(10, 0.5)]
    assert found["epoch/loss"] == [(10, 1.0)]
    assert set(found) == {
        *(f"train/{name}" for name in ("loss", "class_loss", "box_loss")),
        *(f"train/{name}" for name in ("gradient_norm", "learning_rate")),
        *(f"validation/{name}" for name in ("loss", "class_accuracy", "recall")),
        "validation/mean_iou",
        "epoch/loss",
    }


def test_what_was_lost_with_a_killed_process_is_dropped(tmp_path):
    write(tmp_path, [step_line(10), epoch_line(1), step_line(20), step_line(30)])
    write(tmp_path, [{**step_line(20), "loss": 2.0}], steps=10)
    found = read(tmp_path)
    assert found["train/loss"] == [(10, 1.0), (20, 2.0)]
    assert found["validation/recall"] == [(10, 1.0)]


def test_what_is_not_known_is_not_shown(tmp_path):
    write(tmp_path, [epoch_line(1, loss=None)])
    assert "validation/loss" not in read(tmp_path)


def test_nothing_is_written_before_the_first_line(tmp_path):
    write(tmp_path / "x", [])
    assert not (tmp_path / "x").exists()


def test_lines_can_be_read_while_training_runs(tmp_path):
    each = events.Events(tmp_path)
    each.add(step_line(1))
    assert read(tmp_path)["train/loss"] == [(1, 1.0)]
    each.close()


def test_without_tensorboard_nothing_is_written(tmp_path):
    with mock.patch.object(events.importlib.util, "find_spec", return_value=None):
        write(tmp_path / "x", [step_line(1)])
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_costs_only_the_events(tmp_path, caplog):
    (tmp_path / "x").write_text("")
    write(tmp_path / "x", [step_line(1), step_line(2)])
    assert caplog.text.count("no more events") == 1


def test_tensorflow_is_not_imported_though_it_is_there(tmp_path):
    pytest.importorskip("tensorflow")
    code = (
        "import pathlib, sys\n"
        "from ondevice.device import events\n"
        "each = events.Events(pathlib.Path(sys.argv[1]))\n"
        "each.add({'kind': 'step', 'step': 1, 'loss': 1.0})\n"
        "each.close()\n"
        "found = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "if found: sys.exit(f'imports {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        cwd=conftest.ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path) == {"train/loss": [(1, 1.0)]}
