"""Tests of light and surroundings that are drawn at random."""

import numpy as np
import pytest

from ondevice.device import backdrops

SQUARE = np.zeros((64, 64, 3), np.uint8)
SQUARE[16:48, 16:48] = np.random.default_rng(0).integers(60, 256, (32, 32, 3))
INSIDE = np.zeros((64, 64), bool)
INSIDE[16:48, 16:48] = True


def drawn(function, *arguments, count=200):
    return [function(*arguments, np.random.default_rng(i)) for i in range(count)]


@pytest.mark.parametrize(
    "function, arguments",
    [(backdrops.light, (SQUARE,)), (backdrops.surround, (SQUARE, INSIDE))],
)
def test_the_same_draw_gives_the_same_picture_in_range(function, arguments):
    first, again = (drawn(function, *arguments, count=20) for _ in range(2))
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32 and one.shape == SQUARE.shape
        assert 0 <= one.min() and one.max() <= 255
    assert any((one != first[0]).any() for one in first[1:])


def test_light_keeps_black_black_and_the_order_of_greys():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, np.newaxis], 3, 1)
    for lit in drawn(lambda random: backdrops.light(ramp[np.newaxis], random)[0]):
        assert not lit[0].any()
        assert (np.diff(lit, axis=0) >= 0).all()
    means = [lit.mean() for lit in drawn(backdrops.light, SQUARE)]
    assert min(means) < 0.6 * SQUARE.mean() and max(means) > SQUARE.mean()


def test_a_surrounding_fills_the_frame_and_half_of_the_pictures_take_it_up():
    made = drawn(backdrops.surround, SQUARE, INSIDE)
    assert all(one[~INSIDE].std() > 1 for one in made)
    kept = np.mean([(one[INSIDE] == SQUARE[INSIDE]).all() for one in made])
    assert kept == pytest.approx(0.5, abs=0.12)


def test_a_textures_power_falls_with_the_frequency():
    grey = np.mean(
        [
            np.abs(np.fft.fft2(backdrops.texture(np.random.default_rng(i), 64).mean(2)))
            for i in range(30)
        ],
        axis=0,
    )
    low, middle, high = grey[0, 1:4].mean(), grey[0, 8:12].mean(), grey[0, 24:32].mean()
    assert low > 2 * middle > 4 * high
