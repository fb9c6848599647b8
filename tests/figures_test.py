"""Tests of norms and differences, against numbers computed by hand."""

from __future__ import annotations

import math

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import figures

NAN, INF = math.nan, math.inf


class OfTest(parameterized.TestCase):
    @parameterized.parameters(
        (np.float32([3, -4]), (5.0, 4.0, -0.5, 0)),
        (np.float32([[3, NAN], [-4, INF]]), (5.0, 4.0, -0.5, 2)),
        (np.int32([[1, 2], [2, 0]]), (3.0, 2.0, 1.25, 0)),
        (np.array([True, False]), (1.0, 1.0, 0.5, 0)),
        (np.array(-7, np.int64), (7.0, 7.0, -7.0, 0)),
        (np.zeros((0, 3), np.float32), (0.0, 0.0, 0.0, 0)),
        (np.float32([NAN]), (0.0, 0.0, 0.0, 1)),
        (np.float64([3e200, 4e200]), (5e200, 4e200, 3.5e200, 0)),
    )
    def test_by_hand(self, array, expected):
        found = figures.of(array)
        np.testing.assert_allclose(
            (found.l2, found.largest, found.mean, found.not_finite), expected, 1e-15
        )

    def test_sums_in_float64(self):
        # In float32, 0.1 ten million times adds up to 1,087,937.
        array = np.full(10**6, 0.1, np.float32)
        self.assertAlmostEqual(figures.of(array).mean, float(array[0]), delta=1e-12)


class BetweenTest(parameterized.TestCase):
    @parameterized.parameters(
        ([1, 2], [1, 2], 0.0, 0.0, 0.0, True),
        ([1, 4], [4, 8], 4.0, 0.5, 5.0, False),
        ([0, 0], [0, 0], 0.0, 0.0, 0.0, True),
        ([0.0], [-0.0], 0.0, 0.0, 0.0, False),
        ([NAN, INF], [NAN, INF], 0.0, 0.0, 0.0, True),
        ([], [], 0.0, 0.0, 0.0, True),
    )
    def test_by_hand(self, one, two, largest, relative, l2, equal):
        found = figures.between(np.float32(one), np.float32(two))
        self.assertEqual(found, figures.Difference(largest, relative, l2, equal))

    @parameterized.parameters(([1, NAN], [1, 2]), ([INF], [-INF]), ([INF], [1]))
    def test_not_finite_in_one_alone_is_no_distance(self, one, two):
        found = figures.between(np.float32(one), np.float32(two))
        self.assertTrue(math.isnan(found.largest))
        self.assertTrue(math.isnan(found.relative))
        self.assertFalse(found.bits_equal)

    def test_order_does_not_matter(self):
        a, b = np.float32([1, 5]), np.float32([2, -3])
        self.assertEqual(figures.between(a, b), figures.between(b, a))


if __name__ == "__main__":
    absltest.main()
