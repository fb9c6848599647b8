"""Tests of light that is drawn at random."""

import numpy as np

from ondevice.device import lighting

SQUARE = np.zeros((64, 64, 3), np.uint8)
SQUARE[16:48, 16:48] = np.random.default_rng(0).integers(60, 256, (32, 32, 3))


def drawn(picture, count=200):
    return [lighting.relit(picture, np.random.default_rng(i)) for i in range(count)]


def test_the_same_draw_gives_the_same_picture_in_range():
    first, again = (drawn(SQUARE, count=20) for _ in range(2))
    for one, other in zip(first, again):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32 and one.shape == SQUARE.shape
        assert 0 <= one.min() and one.max() <= 255
    assert all((one != first[0]).any() for one in first[1:])


def test_black_stays_black_and_greys_keep_their_order():
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[:, np.newaxis], 3, 1)
    for (lit,) in drawn(ramp[np.newaxis]):
        assert not lit[0].any()
        assert (np.diff(lit, axis=0) >= 0).all()
    means = [lit.mean() for lit in drawn(SQUARE)]
    assert min(means) < 0.6 * SQUARE.mean() and max(means) > SQUARE.mean()
