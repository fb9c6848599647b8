"""Warped pictures: pixels, keypoints and boxes go to the same places."""

import numpy as np
import pytest

from ondevice.detection import targets
from ondevice.device import warps

WIDTH, HEIGHT = 120, 80
QUARTER = warps.Warp(((0.0, -1.0), (1.0, 0.0)))
POINTS = ((0.25, 0.25), (0.5, 0.5), (0.75, 0.6))


def drawn(count=20, turn=15.0, slant=0.2):
    return [warps.draw(np.random.default_rng(i), turn, slant) for i in range(count)]


def dots(points):
    """A black picture with a white square of 4 pixels at each point."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for x, y in points:
        column, row = round(x * WIDTH), round(y * HEIGHT)
        pixels[row - 2 : row + 2, column - 2 : column + 2] = 255
    return pixels


def test_a_quarter_turn_by_hand():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    expected = np.rot90(pixels, -1)
    np.testing.assert_array_equal(QUARTER.picture(pixels), expected)
    assert QUARTER.size(3, 2) == (2, 3)
    # The left end of the upper edge goes to the right one.
    points = QUARTER.points(np.array([[0.0, 0.0], [0.5, 0.5]]), 3, 2)
    np.testing.assert_allclose(points, [[1.0, 0.0], [0.5, 0.5]], atol=1e-12)


def test_no_turn_and_no_slant_leave_everything():
    (same,) = drawn(1, 0.0, 0.0)
    pixels = dots(POINTS)
    np.testing.assert_array_equal(same.picture(pixels), pixels)
    label = targets.Label((0.2, 0.3, 0.5, 0.7), POINTS, 3)
    found = same.label(label, WIDTH, HEIGHT)
    np.testing.assert_allclose(found.box, label.box)
    np.testing.assert_allclose(found.keypoints, label.keypoints)
    assert found.class_index == 3


@pytest.mark.parametrize("point", POINTS)
def test_keypoints_lie_where_the_pixels_do(point):
    for warp in drawn():
        white = warp.picture(dots([point]))[..., 0].astype(float)
        assert white.shape == warp.size(WIDTH, HEIGHT)[::-1]
        rows, columns = np.mgrid[: white.shape[0], : white.shape[1]] + 0.5
        middle = np.array([(columns * white).sum(), (rows * white).sum()]) / white.sum()
        label = targets.Label((0.1, 0.1, 0.9, 0.9), (point,), 0)
        (found,) = warp.label(label, WIDTH, HEIGHT).keypoints
        expected = np.array(found) * white.shape[::-1]
        np.testing.assert_allclose(middle, expected, atol=0.15)


def test_areas_stay_and_nothing_is_cut_off():
    pixels = dots([(2 / WIDTH, 2 / HEIGHT), (1 - 2 / WIDTH, 1 - 2 / HEIGHT)])
    for warp in drawn():
        assert np.linalg.det(warp.matrix) == pytest.approx(1)
        # Two squares of 16 pixels; bilinear sampling keeps their light, edges apart.
        light = warp.picture(pixels)[..., 0].sum() / 255
        assert light == pytest.approx(32, abs=5)


def test_a_box_stays_upright_and_grows_with_its_keypoints():
    square = ((0.25, 0.25), (0.5, 0.25), (0.5, 0.625), (0.25, 0.625))  # 30 pixels.
    label = targets.Label((0.25, 0.25, 0.5, 0.625), square, 0)
    angle = np.radians(45)
    turned = warps.Warp(
        (
            (np.cos(angle), -np.sin(angle)),
            (np.sin(angle), np.cos(angle)),
        )
    )
    size = np.array(turned.size(WIDTH, HEIGHT))
    found = turned.label(label, WIDTH, HEIGHT)
    corners = np.array(found.box).reshape(2, 2) * size
    np.testing.assert_allclose(corners[1] - corners[0], 30 * np.sqrt(2))
    points = np.array(found.keypoints) * size
    np.testing.assert_allclose(corners.mean(0), points.mean(0))
    area = turned.box(label.box, WIDTH, HEIGHT)
    np.testing.assert_allclose(np.array(area), np.array(found.box))


def test_without_keypoints_a_box_keeps_its_size():
    label = targets.Label((0.25, 0.25, 0.5, 0.625), (), 0)
    found = QUARTER.label(label, WIDTH, HEIGHT)
    assert found.keypoints == ()
    corners = np.array(found.box).reshape(2, 2) * QUARTER.size(WIDTH, HEIGHT)
    np.testing.assert_allclose(corners[1] - corners[0], 30)


def test_draws_cover_their_range_and_repeat():
    found = [np.array(warp.matrix) for warp in drawn(300)]
    angles = [np.degrees(np.arctan2(m[1, 0], m[0, 0])) for m in found]
    assert -15 <= min(angles) < -14 and 14 < max(angles) <= 15
    stretches = [np.log(np.hypot(m[0, 0], m[1, 0])) for m in found]
    assert -0.2 <= min(stretches) < -0.18 and 0.18 < max(stretches) <= 0.2
    assert drawn(5) == drawn(5) and drawn(5)[0] != drawn(5)[1]
