"""Tests of metrics.jsonl."""

import json

import pytest

from ondevice.device import journal
from tests.small_data import epoch_line as epoch
from tests.small_data import step_line as step


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
