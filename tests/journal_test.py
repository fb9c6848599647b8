"""Tests of metrics.jsonl."""

import json

import pytest

from ondevice.device import journal
from tests.small_data import epoch_line as epoch
from tests.small_data import step_line as step
from tests.soak import shim


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_nothing_is_written_before_the_first_line(path):
    path.write_text("of an earlier run\n")
    first = journal.Journal(path)
    assert path.read_text() == "of an earlier run\n"
    first.add(step(1))
    first.add(epoch(1))
    assert read(path) == [step(1), epoch(1)] == first.lines
    assert first.count == 2


def test_rewinding_drops_what_the_checkpoint_does_not_know(path):
    first = journal.Journal(path)
    for number in range(1, 6):
        first.add(step(number))
    again = journal.Journal(path)
    again.rewind(2)
    assert len(read(path)) == 5  # Until there is a line to write.
    again.add(epoch(1))
    assert read(path) == [step(1), step(2), epoch(1)]


@pytest.mark.parametrize(
    "text",
    [
        "", "{}\n", "no JSON\n", "[1]\n", "[" * 100_000 + "\n", '{"kind": "step"}\n',
        json.dumps({**step(1), "loss": None}), json.dumps({**step(1), "step": "1"}),
        json.dumps({**step(1), "loss": 1e300}), json.dumps({**epoch(1), "best": []}),
        json.dumps({**epoch(1), "validation": 1}), json.dumps({**epoch(1), "kind": []}),
        json.dumps({**epoch(1), "validation": {"recall": 1}}),
    ],
)  # fmt: skip
def test_lost_lines_do_not_stop_a_run(path, text):
    path.write_text(text)
    again = journal.Journal(path)
    again.rewind(3)
    again.add(step(9))
    assert read(path) == [step(9)]


def test_half_a_line_of_a_killed_run_is_dropped(path):
    first = journal.Journal(path)
    first.add(step(1))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"kind": "st')
    again = journal.Journal(path)
    again.rewind(1)
    again.add(step(2))
    assert read(path) == [step(1), step(2)]


@pytest.mark.parametrize("garbage", [b"\0" * 9, b"\xff\xfe", b'{"kind": "st'])
def test_what_a_power_failure_left_behind_the_lines_is_dropped(path, garbage):
    first = journal.Journal(path)
    for number in (1, 2):
        first.add(step(number))
    lines = path.read_bytes()
    for kept in (lines, lines[:-1]):  # The last byte may be missing.
        path.write_bytes(kept + b"\n" * (kept != lines) + garbage)
        again = journal.Journal(path)
        again.rewind(2)
        again.add(step(3))
        assert read(path) == [step(1), step(2), step(3)] == again.lines
        assert again.count == 3


def test_lines_are_on_the_disk_before_a_checkpoint_knows_of_them(path):
    first = journal.Journal(path)
    first.flush()  # Of nothing.
    with shim.installed(shim.counting) as calls:
        first.add(step(1))
        first.add(step(2))
        before = calls.count("fsync")
        first.flush()
    assert calls.count("fsync") == before + 1
    assert read(path) == [step(1), step(2)]
