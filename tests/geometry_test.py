"""Affine maps, the letterbox and IoU."""

import math

import numpy as np
import pytest

from ondevice.detection import geometry


class TestLetterbox:
    def test_wide_picture_by_hand(self):
        # 200 x 100 in the square: whole width, the middle half of the height.
        found = geometry.letterbox(200, 100)
        assert found == geometry.Affine(1.0, 0.5, 0.0, 0.25)

    def test_tall_picture_at_half_size_in_a_corner(self):
        found = geometry.letterbox(100, 200, share=0.5, place=(1.0, 0.0))
        assert found == geometry.Affine(0.25, 0.5, 0.75, 0.0)

    def test_flip_mirrors_inside_the_same_rectangle(self):
        plain = geometry.letterbox(30, 40, 0.6, (0.2, 0.7))
        flipped = geometry.letterbox(30, 40, 0.6, (0.2, 0.7), flip=True)
        whole = np.array([0.0, 0.0, 1.0, 1.0])
        np.testing.assert_allclose(flipped.boxes(whole), plain.boxes(whole))
        point = np.array([0.1, 0.3])
        np.testing.assert_allclose(
            flipped.points(point), plain.points(np.array([0.9, 0.3]))
        )

    @pytest.mark.parametrize("share", [0.01, 0.4, 1.0])
    @pytest.mark.parametrize("flip", [False, True])
    def test_picture_stays_in_the_square(self, share, flip):
        for place in [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)]:
            found = geometry.letterbox(640, 480, share, place, flip)
            box = found.boxes(np.array([0.0, 0.0, 1.0, 1.0]))
            # Rounding of doubles.
            assert box.min() >= -1e-12 and box.max() <= 1 + 1e-12
            assert box[2] - box[0] == pytest.approx(share)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((0, 5), "pixels"),
            ((5, 5, 0.0), "share"),
            ((5, 5, 1.1), "share"),
            ((5, 5, math.nan), "share"),
            ((5, 5, 1.0, (0.5, 1.5)), "place"),
        ],
    )
    def test_refuses_wrong_arguments(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            geometry.letterbox(*arguments)


class TestAffine:
    @pytest.mark.parametrize("scale_x", [0.5, -0.5])
    def test_inverse_undoes(self, scale_x):
        there = geometry.Affine(scale_x, -2.0, 0.1, 0.7)
        back = there.inverse()
        boxes = np.random.default_rng(0).random((5, 2, 2))
        boxes = np.sort(boxes, axis=1).reshape(5, 4)
        np.testing.assert_allclose(back.boxes(there.boxes(boxes)), boxes)
        points = boxes[:, :2]
        np.testing.assert_allclose(back.points(there.points(points)), points)

    def test_mirrored_boxes_stay_in_order(self):
        boxes = np.array([[0.1, 0.2, 0.3, 0.9]])
        found = geometry.Affine(-1.0, 1.0, 1.0, 0.0).boxes(boxes)
        np.testing.assert_allclose(found, [[0.7, 0.2, 0.9, 0.9]])

    def test_keeps_float32(self):
        boxes = np.zeros((3, 4), np.float32)
        assert geometry.letterbox(3, 4).boxes(boxes).dtype == np.float32

    @pytest.mark.parametrize("scale", [0.0, math.nan, math.inf])
    def test_refuses_what_has_no_inverse(self, scale):
        with pytest.raises(ValueError, match="must"):
            geometry.Affine(1.0, scale, 0.0, 0.0)

    def test_refuses_wrong_shapes(self):
        with pytest.raises(ValueError, match="length 4"):
            geometry.letterbox(3, 4).boxes(np.zeros(5))


class TestIou:
    def test_by_hand(self):
        # Two unit squares that share half of each: 0.5 / 1.5.
        first = np.array([0.0, 0.0, 1.0, 1.0])
        assert geometry.iou(first, np.array([0.5, 0, 1.5, 1])) == pytest.approx(1 / 3)
        assert geometry.iou(first, first) == 1
        assert geometry.iou(first, np.array([1.0, 0.0, 2.0, 1.0])) == 0

    def test_empty_and_inverted_boxes_have_none(self):
        empty = np.zeros(4)
        assert geometry.iou(empty, empty) == 0
        assert geometry.iou(np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 1])) == 0

    def test_is_symmetric_and_broadcasts(self):
        rng = np.random.default_rng(1)
        boxes = np.sort(rng.random((6, 2, 2)), axis=1).reshape(6, 4)
        table = geometry.iou(boxes[:, np.newaxis], boxes)
        np.testing.assert_allclose(table, table.T)
        np.testing.assert_allclose(np.diag(table), 1)


class TestInside:
    def test_by_hand(self):
        small, large = np.array([0.0, 0, 1, 1]), np.array([0.5, 0, 9, 9])
        assert geometry.inside(small, large) == 0.5
        assert geometry.inside(large, small) == pytest.approx(0.5 / (8.5 * 9))
        found = geometry.inside(small, np.array([[0, 0, 1, 1], [5, 5, 6, 6]]))
        np.testing.assert_array_equal(found, [1, 0])

    def test_empty_boxes_and_none(self):
        assert geometry.inside(np.zeros(4), np.array([-1.0, -1, 1, 1])) == 0
        assert geometry.inside(np.ones(4), np.zeros((0, 4))).shape == (0,)
