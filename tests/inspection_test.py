"""Tests of what is told of a checkpoint, alone, with its model, and with another."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from absl.testing import absltest

from checkpoints import inspection, interchange
from tests import checkpoint_data

HEADER = checkpoint_data.HEADER


def checkpoint(tensors, header=HEADER) -> interchange.Checkpoint:
    return interchange.Checkpoint(interchange.ONDEVICE, tensors, header)


class DescribeTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.tensors = checkpoint_data.tensors()
        self.model = inspection.Model(checkpoint_data.MANIFEST, self.tensors)

    def test_alone(self):
        found = inspection.describe(
            checkpoint({"b": np.float32([3, -4]), "a": np.array(np.nan)}, None)
        )
        self.assertEqual([tensor["name"] for tensor in found["tensors"]], ["a", "b"])
        self.assertEqual(
            found["tensors"][1],
            {
                "name": "b",
                "dtype": "float32",
                "shape": [2],
                "role": None,
                "l2": 5.0,
                "largest": 4.0,
                "mean": -0.5,
                "not_finite": 0,
                "learnt": None,
            },
        )
        self.assertEqual(found["not_finite"], 1)
        self.assertEqual((found["header"], found["model"]), (None, None))

    def test_what_was_learnt(self):
        moved = self.tensors | {"stem/bias": self.tensors["stem/bias"] + np.float32(2)}
        found = inspection.describe(checkpoint(moved), self.model)
        self.assertEqual(found["header"], HEADER)
        told = {tensor["name"]: tensor for tensor in found["tensors"]}
        self.assertEqual(told["stem/kernel"]["learnt"], {"l2": 0.0, "relative": 0.0})
        learnt = told["stem/bias"]["learnt"]
        self.assertAlmostEqual(learnt["l2"], math.sqrt(12), delta=1e-6)
        norm = float(np.linalg.norm(self.tensors["stem/bias"]))
        self.assertAlmostEqual(learnt["relative"], math.sqrt(12) / norm, delta=1e-6)
        roles = {name: tensor["role"] for name, tensor in told.items()}
        self.assertEqual(roles["stem/bias"], "weight")
        self.assertEqual(roles["stem/bias/m"], "slot")
        self.assertEqual(roles["step"], "step")
        zeros = {name: array * 0 for name, array in self.tensors.items()}
        model = inspection.Model(checkpoint_data.MANIFEST, zeros)
        found = inspection.describe(checkpoint(moved), model)
        self.assertTrue(math.isnan(found["tensors"][0]["learnt"]["relative"]))

    def test_one_that_fits(self):
        found = inspection.describe(checkpoint(self.tensors), self.model)["model"]
        self.assertEqual(
            found,
            {
                "fits": True,
                "faults": [],
                "fingerprint": True,
                "optimizer": True,
                "missing": [],
                "surplus": [],
                "misshapen": [],
            },
        )
        found = inspection.describe(checkpoint(self.tensors, None), self.model)
        self.assertIsNone(found["model"]["fingerprint"])
        self.assertIsNone(found["model"]["optimizer"])
        self.assertTrue(found["model"]["fits"])

    def test_what_differs_from_the_model(self):
        wrong = self.tensors | {
            "stem/bias": np.zeros(4, np.float64),
            "other": np.zeros(1),
        }
        del wrong["step"]
        header = dataclasses.replace(HEADER, fingerprint="x", optimizer={"name": "sgd"})
        told = inspection.describe(checkpoint(wrong, header), self.model)
        found = told["model"]
        self.assertLen(found["faults"], 6)
        self.assertFalse(found["fits"])
        self.assertIs(found["fingerprint"], False)
        self.assertIs(found["optimizer"], False)
        self.assertEqual((found["missing"], found["surplus"]), (["step"], ["other"]))
        self.assertEqual(
            found["misshapen"],
            [
                {
                    "name": "stem/bias",
                    "checkpoint": {"dtype": "float64", "shape": [4]},
                    "model": {"dtype": "float32", "shape": [3]},
                }
            ],
        )
        learnt = {t["name"]: t["learnt"] for t in told["tensors"]}
        self.assertIsNone(learnt["stem/bias"])
        self.assertIsNone(learnt["other"])


class CompareTest(absltest.TestCase):
    def test_equal(self):
        tensors = checkpoint_data.tensors()
        found = inspection.compare(checkpoint(tensors), checkpoint(dict(tensors)))
        self.assertTrue(found["equal"])
        self.assertEqual(found["header"], {})
        self.assertLen(found["common"], len(tensors))
        self.assertTrue(all(tensor["bits_equal"] for tensor in found["common"]))
        # Tensors alone decide; what the headers say is told.
        later = dataclasses.replace(HEADER, epoch=2)
        found = inspection.compare(checkpoint(tensors), checkpoint(tensors, later))
        self.assertTrue(found["equal"])
        self.assertEqual(found["header"], {"epoch": [0, 2]})
        found = inspection.compare(checkpoint(tensors), checkpoint(tensors, None))
        self.assertIsNone(found["header"])

    def test_differences(self):
        one = {"a": np.float32([1, 4]), "b": np.zeros(2), "c": np.zeros(1), "z": ZERO}
        two = {"a": np.float32([1, 8]), "b": np.zeros(3), "d": np.zeros(1), "z": -ZERO}
        found = inspection.compare(checkpoint(one), checkpoint(two))
        self.assertFalse(found["equal"])
        self.assertEqual((found["only_first"], found["only_second"]), (["c"], ["d"]))
        self.assertEqual(
            found["differing"],
            [
                {
                    "name": "b",
                    "first": {"dtype": "float64", "shape": [2]},
                    "second": {"dtype": "float64", "shape": [3]},
                }
            ],
        )
        self.assertEqual(
            [tuple(tensor.values()) for tensor in found["common"]],
            [("a", 4.0, 0.5, False), ("z", 0.0, 0.0, False)],
        )

    def test_each_kind_of_difference_suffices(self):
        one = {"a": np.float32([1])}
        for two in (
            {"a": np.float32([2])},
            {"a": np.float64([1])},
            {"a": np.float32([[1]])},
            {"a": np.float32([1]), "b": np.float32([1])},
            {},
        ):
            for pair in ((one, two), (two, one)):
                found = inspection.compare(*map(checkpoint, pair))
                self.assertFalse(found["equal"], pair)
        found = inspection.compare(checkpoint(one), checkpoint({"a": np.float64([1])}))
        self.assertEqual(found["common"], [])
        self.assertEqual(found["differing"][0]["second"]["dtype"], "float64")


ZERO = np.zeros(1, np.float32)

if __name__ == "__main__":
    absltest.main()
