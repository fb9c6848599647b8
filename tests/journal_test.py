"""Tests of metrics.jsonl and training.png."""

import json

import pytest
from PIL import Image

from ondevice.device import journal


def step(number):
    return {
        "kind": "step", "step": number, "epoch": 0, "loss": 1.0, "class_loss": 0.5,
        "box_loss": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-3,
    }  # fmt: skip


def epoch(number, loss=0.5):
    return {
        "kind": "epoch", "epoch": number, "step": 10 * number, "loss": 1.0,
        "validation": {
            "loss": loss, "images": 3, "class_accuracy": 0.5, "recall": 1.0,
            "mean_iou": 0.25,
        },
        "best": number == 1,
    }  # fmt: skip


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


@pytest.mark.parametrize("text", ["", "{}\n", "no JSON\n", "[1]\n"])
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


@pytest.mark.parametrize(
    "lines", [[], [step(1)], [step(1), epoch(1), epoch(2, None)]]
)
def test_drawing(tmp_path, lines):
    pytest.importorskip("matplotlib")
    assert journal.draw(lines, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 500
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
