"""Tests of constants as expressions of weights."""

from __future__ import annotations

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import folds

W = ["weight", "w", [2, 3]]
VALUES = {
    "w": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    "s": np.array([1, 4, 16], np.float32),
}


class EvaluateTest(parameterized.TestCase):
    def test_a_folded_batch_norm(self):
        scale = ["Rsqrt", ["Add", ["weight", "s", [3]], ["constant", [], [0.0]]]]
        found = folds.evaluate(["Mul", W, scale], VALUES)
        np.testing.assert_array_equal(found, [[1, 1, 0.75], [4, 2.5, 1.5]])
        self.assertEqual(found.dtype, np.float32)
        self.assertEqual(folds.weights(["Mul", W, scale]), {"w": (2, 3), "s": (3,)})

    def test_an_offset_through_a_filter(self):
        offset = ["constant", [2], [10.0, 1.0]]
        found = folds.evaluate(["Through", offset, W], VALUES)
        np.testing.assert_array_equal(found, [14, 25, 36])
        deep = ["Reshape", W, [1, 1, 2, 3]]
        np.testing.assert_array_equal(
            folds.evaluate(["Through", offset, deep], VALUES), found
        )
        each = folds.evaluate(["ThroughEach", offset, deep], VALUES)
        np.testing.assert_array_equal(each, [10, 20, 30, 4, 5, 6])

    @parameterized.parameters(
        (None,),
        ("w",),
        ([],),
        (["weight"],),
        (["weight", 3, [2, 3]],),
        (["weight", "w", [3, 2]],),
        (["weight", "unknown", [2, 3]],),
        (["weight", "w", [-2, -3]],),
        (["weight", "w", [True, 3]],),
        (["constant", [2], [1.0]],),
        (["constant", [1], ["x"]],),
        (["constant", [2**40, 2**40], []],),
        (["Reshape", W, [7]],),
        (["Exec", W, W],),
        (["Mul", W],),
        (["Mul", W, ["constant", [5], [1.0] * 5]],),
        (["Through", ["weight", "s", [3]], W],),
        (["ThroughEach", ["constant", [], [1.0]], W],),
    )
    def test_malformed(self, expression):
        with self.assertRaisesRegex(folds.FoldError, "A fold must be"):
            folds.evaluate(expression, VALUES)

    def test_depth_is_bounded(self):
        expression = W
        for _ in range(100_000):
            expression = ["Neg", expression]
        for function in (folds.weights, lambda e: folds.evaluate(e, VALUES)):
            with self.assertRaisesRegex(folds.FoldError, "A fold must be"):
                function(expression)


if __name__ == "__main__":
    absltest.main()
