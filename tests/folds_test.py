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

    @parameterized.parameters(
        ("Add", [4, 6]), ("AddV2", [4, 6]), ("Maximum", [3, 4]), ("Minimum", [1, 2]),
        ("Mul", [3, 8]), ("RealDiv", [1 / 3, 0.5]), ("Sub", [-2, -2]),
    )  # fmt: skip
    def test_an_operator_of_two(self, kind, expected):
        pair = ["constant", [2], [1.0, 2.0]], ["constant", [2], [3.0, 4.0]]
        found = folds.evaluate([kind, *pair], {})
        np.testing.assert_array_equal(found, np.float32(expected))

    @parameterized.parameters(
        ("Neg", [-4, -9]), ("Rsqrt", [1 / 2, 1 / 3]), ("Sqrt", [2, 3]),
        ("Square", [16, 81]),
    )  # fmt: skip
    def test_an_operator_of_one(self, kind, expected):
        found = folds.evaluate([kind, ["constant", [2], [4.0, 9.0]]], {})
        np.testing.assert_array_equal(found, np.float32(expected))

    def test_a_transposed_weight(self):
        found = folds.evaluate(["Transpose", W, [1, 0]], VALUES)
        np.testing.assert_array_equal(found, [[1, 4], [2, 5], [3, 6]])
        self.assertEqual(folds.weights(["Transpose", W, [1, 0]]), {"w": (2, 3)})

    def test_filters_are_summed_in_float64(self):
        taps = ["constant", [3, 1, 1], [1e8, 1.0, -1e8]]  # float32 gives 0
        for kind in ("Through", "ThroughEach"):
            found = folds.evaluate([kind, ["constant", [1], [1.0]], taps], {})
            np.testing.assert_array_equal(found, [1])

    def test_a_weight_of_another_type(self):
        with self.assertRaisesRegex(folds.FoldError, "'w' of float64"):
            folds.evaluate(W, {"w": VALUES["w"].astype(np.float64)})

    def test_a_shape_beyond_reason(self):
        with self.assertRaisesRegex(folds.FoldError, "A fold must be"):
            folds.weights(["weight", "w", [2**20, 2**20]])

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
        (["Transpose", W, [0, 0]],),
        (["Transpose", W, [0]],),
        (["Transpose", W, [0, 2]],),
        (["Transpose", W],),
        (["Exec", W, W],),
        (["Mul", W],),
        (["Neg", W, W],),
        (["Add", ["constant", [8000, 1], [0.0] * 8000],
          ["constant", [1, 8000], [0.0] * 8000]],),
        (["Through", ["constant", [2, 2], [0.0] * 4], W],),
        (["ThroughEach", ["constant", [1], [0.0]], W],),
        (["Mul", W, ["constant", [5], [1.0] * 5]],),
        (["Through", ["weight", "s", [3]], W],),
        (["ThroughEach", ["constant", [], [1.0]], W],),
    )
    def test_malformed(self, expression):
        with self.assertRaisesRegex(folds.FoldError, "A fold must be"):
            folds.evaluate(expression, VALUES)

    def test_no_weight_is_written_to(self):
        # numpy takes an operand too many for the place of the result.
        for kind in folds.OPERATORS:
            values = {name: array.copy() for name, array in VALUES.items()}
            for operands in ([W], [W, W], [W, W, W]):
                try:
                    found = folds.evaluate([kind, *operands], values)
                except folds.FoldError:
                    continue
                self.assertFalse(np.shares_memory(found, values["w"]))
            np.testing.assert_array_equal(values["w"], VALUES["w"])

    @parameterized.parameters(
        (W,), (["Reshape", W, [6]],), (["Transpose", W, [1, 0]],)
    )
    def test_a_result_is_no_part_of_a_weight(self, expression):
        found = folds.evaluate(expression, VALUES)
        self.assertFalse(np.shares_memory(found, VALUES["w"]))

    @parameterized.parameters(
        (["weight", "a" * 10_000, [1]],), (["constant", [1], ["a" * 10_000]],)
    )
    def test_an_error_is_short(self, expression):
        with self.assertRaises(folds.FoldError) as caught:
            folds.evaluate(expression, VALUES)
        self.assertLess(len(str(caught.exception)), 1_000)

    def test_errors_of_wide_and_deep_expressions_are_short(self):
        expression = "a" * 28
        for _ in range(6):
            expression = [expression] * 6
        with self.assertRaises(folds.FoldError) as caught:
            folds.weights(expression)
        self.assertLess(len(str(caught.exception)), 1_000)

    @parameterized.parameters("Through", "ThroughEach")
    def test_a_filter_without_numbers_makes_none(self, kind):
        # Summed up over no rows, [0, 1, 2 ** 30] would be 8 GB.
        filters = ["constant", [0, 1, 2**30], []]
        with self.assertRaisesRegex(folds.FoldError, "for a filter"):
            folds.evaluate([kind, ["constant", [1], [0]], filters], {})

    def test_small_operands_may_be_broadcast(self):
        row = ["constant", [1, 60], [1.0] * 60]
        found = folds.evaluate(["Mul", row, ["Transpose", row, [1, 0]]], {})
        self.assertEqual(found.shape, (60, 60))

    def test_depth_is_bounded(self):
        expression = W
        for _ in range(100_000):
            expression = ["Neg", expression]
        for function in (folds.weights, lambda e: folds.evaluate(e, VALUES)):
            with self.assertRaisesRegex(folds.FoldError, "A fold must be"):
                function(expression)


if __name__ == "__main__":
    absltest.main()
