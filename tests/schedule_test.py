"""Tests of the learning rate's schedule."""

import math

import pytest

from ondevice.device import schedule


def rates(name, steps, epoch_steps=50, base=2.0):
    return [schedule.rate(name, base, i, epoch_steps, steps) for i in range(steps)]


def test_warm_up_is_a_line_to_the_full_rate():
    assert rates("constant", 100)[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates("constant", 100)[19:] == [2.0] * 81


def test_cosine_at_its_start_middle_and_end():
    found = rates("cosine", 101)
    middle = schedule.FLOOR + (1 - schedule.FLOOR) / 2
    assert found[50] == pytest.approx(2 * middle)
    assert found[100] == pytest.approx(2 * schedule.FLOOR)
    assert found[20:] == sorted(found[20:], reverse=True)


def test_constant_does_not_depend_on_how_many_steps_follow():
    assert rates("constant", 30) == rates("constant", 90)[:30]


def test_warm_up_is_no_longer_than_an_epoch():
    assert rates("constant", 9, epoch_steps=3)[2:] == [2.0] * 7


@pytest.mark.parametrize("name", schedule.NAMES)
def test_extremes_are_positive_and_finite(name):
    for arguments in ((0, 1, 1), (10, 1, 1), (10**9, 100, 1000)):
        found = schedule.rate(name, 1.0, *arguments)
        assert 0 < found <= 1 and math.isfinite(found)


def test_unknown():
    with pytest.raises(ValueError, match="cosine.*'step'"):
        schedule.rate("step", 1.0, 0, 1, 1)
