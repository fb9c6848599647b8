"""Tests of the signatures: what other programs call by name, written out."""

from __future__ import annotations

from absl.testing import absltest, parameterized

from checkpoints import manifest
from signatures import contract

VARIABLES = (
    manifest.VariableSpec("stem/kernel", (5, 5, 3, 32), "float32", "weight", 4),
    manifest.VariableSpec("step", (), "int32", "step", 5),
)
# Three images of 16 pixels, 24 anchors, 18 coordinates, two classes.
SIZES = (3, 16, 24, 18, 2)
RATE = "learning_rate[]"
TARGETS = (
    "class_targets[3,24,2] box_targets[3,24,18] anchor_weights[3,24] sample_weights[3]"
)
LOSSES = "loss[] class_loss[] box_loss[]"
STATE = "format_version[]int32 stem/kernel[5,5,3,32] step[]int32"
ALWAYS = {
    "train": f"image[3,16,16,3] {TARGETS} {RATE} -> {LOSSES} gradient_norm[]",
    "infer": "image[1,16,16,3] -> regressors[1,24,18] classificators[1,24,2]",
    "save": f"format_version[]int32 -> {STATE}",
    "restore": f"{STATE} -> restored[]int32",
    "evaluate": f"image[3,16,16,3] {TARGETS} -> {LOSSES}",
}
ON_FEATURES = (
    f"feature_0[3,4,4,8] feature_1[3,2,2,5] {TARGETS} {RATE} -> {LOSSES} "
    "gradient_norm[]"
)
FEATURES = "image[1,16,16,3] -> feature_0[1,4,4,8] feature_1[1,2,2,5]"


def written(signatures) -> dict[str, str]:
    def tensors(specs):
        return " ".join(
            f"{s.name}[{','.join(map(str, s.shape))}]"
            + ("" if s.dtype == "float32" else s.dtype)
            for s in specs
        )

    keys = [s.key for s in signatures]
    assert keys == sorted(set(keys)), keys
    return {s.key: f"{tensors(s.inputs)} -> {tensors(s.outputs)}" for s in signatures}


class DetectorTest(parameterized.TestCase):
    def test_everything_trains(self):
        made = contract.signatures(contract.Dimensions(*SIZES), VARIABLES)
        self.assertEqual(written(made), ALWAYS)

    @parameterized.parameters((True, "train_features"), (False, "train_classes"))
    def test_on_features(self, frozen, key):
        sizes = contract.Dimensions(*SIZES, ((4, 4, 8), (2, 2, 5)), frozen)
        made = contract.signatures(sizes, VARIABLES)
        more = {"features": FEATURES, key: ON_FEATURES}
        self.assertEqual(written(made), ALWAYS | more)
        self.assertContainsSubset({key, "train"}, contract.STEPS)

    def test_features_are_of_a_frozen_trunk_unless_said(self):
        made = contract.signatures(contract.Dimensions(*SIZES, ((4, 4, 8),)), ())
        self.assertIn("train_features", written(made))

    def test_the_overviews_way(self):
        made = contract.signatures(contract.Dimensions(*SIZES), VARIABLES, "select")
        path = "checkpoint_path[]string"
        more = {"save": f"{path} -> {path}", "restore": f"{path} -> restored[]int32"}
        self.assertEqual(written(made), ALWAYS | more)


class ModelTest(parameterized.TestCase):
    @parameterized.parameters((False, ""), (True, " seed[]int32"))
    def test_any_model(self, seeded, seed):
        spec = manifest.TensorSpec
        made = contract.of_model(
            inputs=(spec("x", (7,)), spec("z", (), "int32")),
            targets=(spec("y", (4,), "int32"), spec("sample_weights", (4,))),
            outputs=(spec("logits", (10,)),),
            variables=VARIABLES,
            batch=4,
            infer_batch=2,
            seeded=seeded,
        )
        given = "x[4,7] z[4]int32 y[4]int32 sample_weights[4]"
        self.assertEqual(
            written(made),
            {
                "train": f"{given} {RATE}{seed} -> loss[] gradient_norm[]",
                "infer": "x[2,7] z[2]int32 -> logits[2,10]",
                "save": ALWAYS["save"],
                "restore": ALWAYS["restore"],
                "evaluate": f"{given} -> loss[]",
            },
        )


if __name__ == "__main__":
    absltest.main()
