"""Tests of training.png: what is drawn, and when."""

from __future__ import annotations

import gc
import threading
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from ondevice.device import plot
from tests.small_data import epoch_line, step_line

figure = pytest.importorskip("matplotlib.figure")


class Clock:
    """Stands for the module `time`: a drawing takes `cost` seconds."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost, self._spent = 0.0, cost, 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        self._spent += self.cost
        return self._spent


@pytest.fixture
def drawn(monkeypatch):
    """How many lines each drawing had."""
    counts = []
    monkeypatch.setattr(plot, "draw", lambda lines, path: counts.append(len(lines)))
    return counts


def settle(each: plot.Plot) -> None:
    assert each._running is not None
    each._running.result()


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [step_line(1)],
        [step_line(1), epoch_line(1), epoch_line(2, None)],
        [step_line(number) for number in range(1, 400)],
    ],
)
def test_drawing(tmp_path, lines):
    plot.draw(lines, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 500
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_the_first_line_is_drawn_while_training_goes_on(tmp_path):
    path = tmp_path / "training.png"
    each = plot.Plot(path)
    each.offer([step_line(1)])
    settle(each)
    assert path.stat().st_size > 1000
    each.close()


def test_no_figure_is_left(tmp_path):
    def figures() -> int:
        return sum(isinstance(each, figure.Figure) for each in gc.get_objects())

    gc.collect()
    gc.disable()  # Nobody collects, but the plot itself.
    before = figures()
    try:
        each = plot.Plot(tmp_path / "training.png")
        each.offer([step_line(1)])
        settle(each)
        assert figures() == before
        each.close()
    finally:
        gc.enable()


def test_no_step_waits_for_a_drawing(tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    counts = []

    def slow(lines, path):
        begun.set()
        assert go_on.wait(30)
        counts.append(len(lines))

    monkeypatch.setattr(plot, "draw", slow)
    each = plot.Plot(tmp_path / "x.png")
    lines = [step_line(1)]
    each.offer(lines)
    assert begun.wait(30)
    for number in range(2, 6):  # Comes back at once though the drawing has not ended.
        lines.append(step_line(number))
        each.offer(lines)
    go_on.set()
    each.close()
    assert counts == [1, 5]


def test_it_rests_a_hundred_times_as_long_as_it_worked(tmp_path, monkeypatch, drawn):
    clock = Clock(cost=0.5)
    monkeypatch.setattr(plot, "time", clock)
    each = plot.Plot(tmp_path / "x.png")
    lines = []
    for now in (0, 10, 49, 51, 60, 100, 102):
        clock.now = now
        lines.append(step_line(len(lines) + 1))
        each.offer(lines)
        settle(each)
    assert drawn == [1, 4, 7]
    each.close()
    assert drawn == [1, 4, 7]  # Nothing was left to draw.


def test_the_end_is_drawn_whatever_the_time(tmp_path, monkeypatch, drawn):
    clock = Clock(cost=0.5)
    monkeypatch.setattr(plot, "time", clock)
    each = plot.Plot(tmp_path / "x.png")
    lines = []
    for number in range(1, 4):
        lines.append(step_line(number))
        each.offer(lines)
        settle(each)
    each.close()
    assert drawn == [1, 3]


def test_without_a_line_there_is_no_picture(tmp_path, drawn):
    plot.Plot(tmp_path / "x.png").close()
    assert drawn == []


def test_a_full_disk_costs_only_the_picture(tmp_path, caplog):
    with mock.patch.object(plot, "draw", side_effect=OSError("no space")) as draw:
        each = plot.Plot(tmp_path / "x.png")
        each.offer([step_line(1)])
        settle(each)
        each.offer([step_line(1), step_line(2)])
        each.close()
    assert draw.call_count == 1
    assert caplog.text.count("no space") == 1


def test_another_fault_is_not_lost_in_the_thread(tmp_path):
    with mock.patch.object(plot, "draw", side_effect=RuntimeError("of ours")):
        each = plot.Plot(tmp_path / "x.png")
        each.offer([step_line(1)])
        with pytest.raises(RuntimeError, match="of ours"):
            each.close()


class TestSmoothed:
    def test_by_hand(self):
        # Three at a time; two at the ends.
        found = plot.smoothed([0, 3, 6, 0, 0, 12])
        np.testing.assert_allclose(found, [1.5, 3, 3, 2, 4, 6])

    @pytest.mark.parametrize("count", [0, 1, 2, 100, 5000])
    def test_a_straight_line_stays_where_it_has_both_sides(self, count):
        values = np.arange(count, dtype=np.float64)
        found = plot.smoothed(list(values))
        assert found.shape == (count,)
        inside = slice(60, count - 60)
        np.testing.assert_allclose(found[inside], values[inside])

    def test_noise_is_taken_off(self):
        noise = np.random.default_rng(0).standard_normal(2000)
        # The mean of 101 values has a tenth of their spread.
        assert plot.smoothed(list(noise)).std() < 0.15 * noise.std()
