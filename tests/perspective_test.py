"""OpenCV's sampling positions, against exact fractions."""

import fractions
import math

import numpy as np
import pytest

from ondevice.device import perspective


def letterbox(width, height):
    """Sides of the square around a picture, in its pixels."""
    side = max(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def exactly(start, end, size):
    """Positions along an axis in steps, as fractions."""
    start, end = fractions.Fraction(start), fractions.Fraction(end)
    return [32 * (start + (end - start) * u / size) for u in range(size)]


@pytest.mark.parametrize("size", [7, 128, 192, 256])
@pytest.mark.parametrize("shape", [(100, 100), (101, 57), (1023, 769), (3, 500)])
def test_only_halves_are_rounded_by_noise(shape, size):
    left, top, right, bottom = letterbox(*shape)
    x_steps, y_steps = perspective.steps(left, top, right, bottom, size)
    assert x_steps.shape == y_steps.shape == (size, size)
    for columns, exact in (
        (x_steps, exactly(left, right, size)),
        (y_steps.T, exactly(top, bottom, size)),
    ):
        for place, position in enumerate(exact):
            found = set(columns[:, place].tolist())
            low = math.floor(position)
            half = position - low == fractions.Fraction(1, 2)
            assert found <= ({low, low + 1} if half else {round(position)})


def test_one_column_is_rounded_both_ways():
    x_steps, _ = perspective.steps(*letterbox(948, 815), 256)
    assert sum(len(set(column.tolist())) == 2 for column in x_steps.T) == 47


def test_far_positions_stay_within_32_bits():
    x, y = perspective.steps(-1e9, -5, 1e9, 5, 192)
    assert x.min() == -(2**31 - 1) and x.max() == 2**31 - 1
    assert np.abs(y).max() == 160
