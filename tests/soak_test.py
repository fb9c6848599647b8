"""Tests of the frame that campaigns run in."""

from __future__ import annotations

import json
import os
import signal
import time
from unittest import mock

import pytest

from ondevice import commands
from tests.soak import __main__ as soak
from tests.soak import campaigns


def odd_breaks(seed: int) -> dict[str, int]:
    assert seed % 4 != 1, f"seed {seed}"
    return {"inputs": 10}


@pytest.fixture
def run(capsys):
    """Runs the command on a campaign of the test; status and last line of stdout."""

    def begin(*arguments, campaign=odd_breaks):
        with mock.patch.dict(campaigns.ALL, {"odd": campaign}, clear=True):
            argv = ["soak", *map(str, arguments)]
            status = commands.execute(soak.main, soak.__doc__, argv, soak.FLAGS)
        lines = capsys.readouterr().out.splitlines()
        return status, json.loads(lines[-1]) if lines else None

    yield begin
    soak.FLAGS.unparse_flags()
    for flag in soak.FLAGS:
        soak.FLAGS[flag].value = soak.FLAGS[flag].default
    soak.FLAGS.mark_as_parsed()


def test_counts_add_up_in_the_file_behind_the_last_seed(run, tmp_path):
    path = tmp_path / "counts.json"
    path.write_text("{}")
    status, found = run("odd", "--count=3", f"--counts={path}")
    assert (status, json.loads(path.read_text())) == (1, found)
    assert found["odd"] == {
        "runs": 3, "failures": 1, "seeds": [[0, 2]], "counted": {"inputs": 20},
        "failed": [[1, "AssertionError: seed 1\nassert (1 % 4) != 1"]],
    }  # fmt: skip
    status, found = run("--count=2", f"--counts={path}")
    assert (status, found["odd"]["seeds"]) == (0, [[0, 4]])  # No new failure.
    assert (found["odd"]["runs"], found["odd"]["failures"]) == (5, 1)
    assert found["odd"]["counted"] == {"inputs": 40}
    assert json.loads(path.read_text()) == found


def test_a_failure_is_played_again_by_its_seed(run):
    status, found = run("--seed=9", "--count=1")
    assert (status, found["odd"]["seeds"], found["odd"]["failures"]) == (1, [[9, 9]], 1)
    assert run("--seed=8", "--count=1")[0] == 0


def test_other_campaigns_in_the_file_stay(run, tmp_path):
    path = tmp_path / "counts.json"
    other = {"runs": 1, "failures": 0, "seeds": [], "counted": {}, "failed": []}
    path.write_text(json.dumps({"other": other}))
    run("--seed=0", "--count=1", f"--counts={path}")
    found = json.loads(path.read_text())
    assert (found["other"], set(found)) == (other, {"other", "odd"})


def test_ctrl_c_ends_it_with_what_was_counted(run, tmp_path):
    def pressed(seed):
        if seed == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    path = tmp_path / "counts.json"
    status, found = run(f"--counts={path}", "--seconds=60", campaign=pressed)
    signal.signal(signal.SIGINT, before)
    assert (status, found["odd"]["runs"], found["odd"]["seeds"]) == (0, 2, [[0, 1]])
    assert json.loads(path.read_text()) == found


def test_time_ends_it(run):
    status, found = run("--seconds=0.3", campaign=lambda seed: time.sleep(0.01))
    assert status == 0
    assert 1 < found["odd"]["runs"] <= 31  # The last begins before the end.


@pytest.mark.parametrize(
    "arguments, status",
    [(["even"], 2), (["--count=1", "--seconds=1"], 2), (["--counts=FILE"], 1)],
    ids=["campaign", "both", "counts"],
)
def test_refusals(run, tmp_path, capsys, arguments, status):
    path = tmp_path / "other.json"
    path.write_text('{"odd": {"runs": 1}}')
    arguments = [argument.replace("FILE", os.fspath(path)) for argument in arguments]
    assert run(*arguments) == (status, None)
    assert path.read_text() == '{"odd": {"runs": 1}}'
