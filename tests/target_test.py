"""Tests of --target: it reaches the file, and the file is right in every runtime."""

from __future__ import annotations

import collections
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator

import keras
import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice import fresh, reconvert
from ondevice.device import session
from signatures import contract, trainable
from tests import conftest, tiny_detector

TARGET = manifests.TFLITE_RUNTIME


@dataclasses.dataclass(frozen=True)
class Made:
    """A trainable file, and its manifest."""

    model: bytes
    manifest: manifests.Manifest


@functools.cache
def made(target: str, part: str = "all") -> Made:
    """The tiny detector with every weight trainable, or a part."""
    with tiny_detector.known():
        recipe = tiny_detector.recipe(target=target, trainable=part)
        return Made(*fresh.make_trainable(recipe, tiny_detector.weights(3), {}))


def operators(
    file: tflite_file.TfliteFile, key: str
) -> Iterator[tuple[tflite_file.Subgraph, tflite_file.Operator]]:
    """Those of a signature with their graphs, what a WHILE calls among them."""
    graphs = [s.subgraph for s in file.signatures if s.key == key]
    for index in graphs:  # Grows as it goes.
        for operator in file.subgraphs[index].operators:
            yield file.subgraphs[index], operator
            if operator.name == "WHILE":
                graphs += operator.calls


def census(data: bytes, key: str) -> collections.Counter:
    """Operators of a signature by name."""
    file = tflite_file.parse(data)
    return collections.Counter(operator.name for _, operator in operators(file, key))


def constant_filters(data: bytes, key: str) -> set[bool]:
    """Whether the filters of a signature's depthwise convolutions are constants."""
    file = tflite_file.parse(data)
    return {
        file.buffers[graph.tensors[operator.inputs[1]].buffer].size > 0
        for graph, operator in operators(file, key)
        if operator.name == "DEPTHWISE_CONV_2D"
    }


class FileTest(parameterized.TestCase):
    @parameterized.parameters(contract.TRAIN, contract.INFER, contract.EVALUATE)
    def test_it_reaches_the_graph(self, key):
        changing, planes = (
            constant_filters(made(target).model, key) for target in manifests.TARGETS
        )
        self.assertEqual((changing, planes), ({False}, {True}))

    def test_products_turn_the_weights_but_in_tflite_runtime(self):
        kernel, shifted = (
            census(made(t).model, contract.TRAIN) for t in manifests.TARGETS
        )
        self.assertLess(kernel["TRANSPOSE"] + 10, shifted["TRANSPOSE"])

    # The kernel of tflite-runtime 2.14 for a PRELU whose slope changes is ten times as
    # slow as its parts, which matters where the rest is not slow anyway.
    @parameterized.parameters(
        (manifests.ANY, "all", True),
        (manifests.ANY, "bias", False),
        (TARGET, "all", False),
    )
    def test_slopes_that_change_go_into_the_operator(self, target, part, expected):
        constant = made(manifests.ANY, "heads").model
        activations = census(constant, contract.INFER)["PRELU"]
        self.assertGreater(activations, 0)
        changing = made(target, part).model
        # The same in a step: no delegate takes it, so the backward pass does without.
        for key in (contract.INFER, contract.TRAIN):
            found = census(changing, key)["PRELU"]
            self.assertEqual(found, activations if expected else 0, key)

    def test_it_is_told(self):
        files = made(TARGET)
        found = manifests.of_file(tflite_file.parse(files.model))
        self.assertEqual((found.target, files.manifest.target), (TARGET, TARGET))
        with tiny_detector.known():
            self.assertEqual(fresh.recipe_of(found).target, TARGET)

    def test_a_checkpoint_fits_the_files_of_either(self):
        one, two = (made(target).manifest for target in manifests.TARGETS)
        self.assertEqual(one.fingerprint, two.fingerprint)

    def test_reconverting_changes_it(self):
        files = made(manifests.ANY)
        state = weights.of_trainable(tflite_file.parse(files.model), files.manifest)
        with tiny_detector.known():
            data = reconvert.reconvert(
                files.manifest, state, lambda: None, "trainable", target=TARGET
            )
        found = manifests.of_file(tflite_file.parse(data))
        self.assertEqual(found.target, TARGET)
        self.assertEqual(
            census(data, contract.TRAIN), census(made(TARGET).model, contract.TRAIN)
        )

    @parameterized.parameters("ai_edge_litert", "tflite_runtime", "tensorflow")
    def test_a_step_is_that_of_the_other_file(self, runtime):
        # Which the whole proof of a build holds against TensorFlow.
        random = np.random.default_rng(0)
        (spec,) = [
            s for s in made(TARGET).manifest.signatures if s.key == contract.TRAIN
        ]
        batch = {t.name: random.random(t.shape, np.float32) for t in spec.inputs}
        batch["class_targets"] = (batch["class_targets"] < 0.1).astype(np.float32)
        found = []
        for target in manifests.TARGETS:
            with session.Session(made(target).model, runtime, 1) as opened:
                before, outputs = opened.state(), opened.infer(batch["image"][:1])
                loss = opened.train(**{**batch, "learning_rate": 1e-2}).loss
                found.append((loss, outputs, opened.state()))
        (loss, outputs, after), (other_loss, others, other_after) = found
        np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
        for got, want in zip(others, outputs):
            np.testing.assert_allclose(got, want, atol=5e-6 * np.abs(want).max())
        for name, want in after.items():
            bound = 1e-4 * np.abs(want - before[name]).max()
            bound += 2 * np.spacing(np.abs(want).max().astype(np.float32))
            got = other_after[name]
            np.testing.assert_allclose(got, want, rtol=0, atol=bound, err_msg=name)
            self.assertGreater(np.abs(want - before[name]).max(), 0, name)


class ChoiceTest(parameterized.TestCase):
    def test_of_keras(self):
        model = keras.Sequential(
            [keras.Input((4, 4, 2)), keras.layers.DepthwiseConv2D(3),
             keras.layers.Flatten(), keras.layers.Dense(2)]
        )  # fmt: skip
        make = functools.partial(
            trainable.of_keras, model, "sparse_softmax_cross_entropy"
        )
        self.assertEqual(make().target, "any")
        step = make(target=TARGET, batch_size=2)
        (function,) = step.functions(
            [s for s in step.signature_specs if s.key == contract.TRAIN]
        ).values()
        filters = {
            operation.inputs[1].op.type
            for operation in function.graph.get_operations()
            if operation.type == "DepthwiseConv2dNative"
            and operation.outputs[0].consumers()
        }
        self.assertEqual(filters, {"Const"})
        with self.assertRaisesRegex(ValueError, "any, tflite_runtime. Rec.*'tflite'"):
            make(target="tflite")
        with self.assertRaisesRegex(ValueError, "ops='select' target must be one of a"):
            make(target=TARGET, ops="select")

    def test_a_recipe(self):
        recipe = tiny_detector.recipe(target="tflite")
        with self.assertRaisesRegex(ValueError, "any, tflite_runtime. Rec.*'tflite'"):
            fresh.make_trainable(recipe, tiny_detector.weights(3), {})

    @parameterized.parameters(
        (("build", "--target=tflite"), "any.tflite_runtime"),
        (("build", f"--target={TARGET}", "--ops=select"), "--ops=builtin"),
        (("pytorch", "import", "--target=tflite"), "any.tflite_runtime"),
        (("pytorch", "export", f"--target={TARGET}"), "not go with export"),
        (("export", "--model=a", "--output=b", "--target=tflite"), "tflite_runtime"),
        (
            ("export", "--model=a", "--output=b", f"--target={TARGET}"),
            "--kind=trainable --method=reconvert. Rec",
        ),
    )
    def test_a_wrong_flag(self, arguments, message):
        command, *rest = arguments
        done = subprocess.run(
            [sys.executable, "-m", f"ondevice.{command}", *rest],
            capture_output=True,
            text=True,
            cwd=conftest.ROOT,
        )
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, message)


if __name__ == "__main__":
    absltest.main()
