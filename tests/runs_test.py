"""Tests of a run's settings, and of what a checkpoint's header says of a run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from checkpoints import store
from ondevice.device import runs
from tests import small_data

STATE = runs.State(
    epoch=3, steps=15, lines=4, last=small_data.epoch_line(3),
    best=small_data.epoch_line(2),
)  # fmt: skip
RUN = {
    "settings": dataclasses.asdict(runs.Settings()),
    "state": dataclasses.asdict(STATE),
    "data": "ab" * 32,
    "runtime": "ai_edge_litert",
}


def header(run: dict) -> store.Header:
    """Of a checkpoint with this entry, as it is read back from a file."""
    extra = {"run": json.loads(json.dumps(run))}
    return store.Header("0" * 64, {"name": "adam"}, extra=extra)


def test_a_run_comes_back():
    found = runs.resumption(header(RUN))
    assert found == runs.Resumption(
        runs.Settings(), STATE, RUN["data"], RUN["runtime"]
    )


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"run": {}},
        {"run": {"settings": {"frame": 1}}},
        {"run": {"settings": {"frame": [0.5, 0.9], "epochs": 0}}},
        {"run": []},
        {"run": {"settings": 1, "state": [], "data": 1, "runtime": {}}},
    ],
)
def test_a_checkpoint_of_another_program_is_refused(extra):
    found = store.Header("0" * 64, {"name": "adam"}, extra=extra)
    with pytest.raises(runs.TrainingError, match="ondevice.train wrote"):
        runs.resumption(found)


@pytest.mark.parametrize(
    "part, changes",
    [
        ("settings", {"frame": ["0.5", 0.9]}),
        ("settings", {"epochs": 10**400, "learning_rate": 10**400}),
        ("settings", {"another": 1}),
        ("state", {"epoch": "3"}),
        ("state", {"epoch_step": -1}),
        ("state", {"steps": 2**60}),
        ("state", {"loss_sum": []}),
        ("state", {"best": {"epoch": 1}}),
        ("state", {"last": {"kind": "step"}}),
        ("state", {"last": 7}),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(part, changes):
    run = {**RUN, part: RUN[part] | changes}
    with pytest.raises(runs.TrainingError, match="does not tell how"):
        runs.resumption(header(run))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 0}, "one epoch"),
        ({"learning_rate": float("nan")}, "positive, finite"),
        ({"learning_rate": 0.0}, "positive, finite"),
        ({"schedule": "step"}, "schedule"),
        ({"seed": -1}, "seed"),
        ({"frame": (0.5, 1.5)}, "frame"),
        ({"patience": -1}, "patience"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(runs.TrainingError, match=message):
        runs.Settings(**changes)
