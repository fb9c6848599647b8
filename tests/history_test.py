"""Tests of the lines that are kept to draw."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.device import history
from tests.small_data import epoch_line, step_line


def test_few_lines_are_kept_as_they_are():
    kept = history.History()
    for number in range(1, history.MOST):
        kept.add(step_line(number))
    kept.add(epoch_line(1))
    steps = [step_line(number) for number in range(1, history.MOST)]
    assert kept.lines == [*steps, epoch_line(1)]


@pytest.mark.parametrize("count", [history.MOST, 10 * history.MOST + 7])
def test_of_many_each_stands_for_its_neighbours(count):
    kept = history.History()
    for number in range(1, count + 1):
        kept.add({**step_line(number), "loss": float(number), "epoch": number // 9})
    found = kept.lines
    assert history.MOST // 2 <= len(found) <= history.MOST
    at = np.array([line["step"] for line in found])
    assert at[-1] == count and (np.diff(at) > 0).all()
    # The mean of the numbers since the line before.
    before = np.concatenate([[0], at[:-1]])
    means = [line["loss"] for line in found]
    np.testing.assert_allclose(means, (before + 1 + at) / 2, rtol=1e-12)
    assert set(found[0]) == set(step_line(1))


def test_of_many_epochs_every_second_goes_but_not_the_best():
    kept = history.History()
    for number in range(1, 3 * history.MOST):
        kept.add({**epoch_line(number, None), "best": number in (3, 700)})
    found = kept.lines
    assert history.MOST // 2 <= len(found) <= history.MOST
    assert [line["epoch"] for line in found if line["best"]] == [3, 700]
    assert found[-1]["epoch"] == 3 * history.MOST - 1


def test_as_many_best_epochs_as_there_are_do_not_fill_the_memory():
    kept = history.History()
    for number in range(1, 2 * history.MOST):
        kept.add({**epoch_line(number), "best": True})
    assert len(kept.lines) == history.MOST
