"""Tests of --target: it reaches the file, and the file is right in every runtime."""

from __future__ import annotations

import collections
import dataclasses
import functools
import subprocess
import sys

import keras
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice import fresh, reconvert
from ondevice.rebuild import porting, recognition
from ondevice.verification import prove, vendors
from signatures import contract, trainable
from tests import conftest, tiny_detector

TARGET = manifests.TFLITE_RUNTIME
RUNTIMES = ("ai_edge_litert", "tflite_runtime", "tensorflow")


@functools.cache
def made(target: str) -> tuple[fresh.Recipe, fresh.Files]:
    """The tiny detector with every weight trainable."""
    recipe = tiny_detector.recipe(target=target)
    with tiny_detector.known():
        return recipe, fresh.make(recipe, vendor().weights)


@functools.cache
def vendor() -> vendors.Vendor:
    data = tiny_detector.vendor_file()
    with tiny_detector.known():
        file = tflite_file.parse(data)
        found = recognition.recognise(file)
        return vendors.Vendor(data, found, porting.port(file, found))


def census(data: bytes, key: str) -> collections.Counter:
    """Operators of a signature."""
    file = tflite_file.parse(data)
    (index,) = [s.subgraph for s in file.signatures if s.key == key]
    return collections.Counter(o.name for o in file.subgraphs[index].operators)


class FileTest(parameterized.TestCase):
    @parameterized.parameters(contract.TRAIN, contract.INFER, contract.EVALUATE)
    def test_it_reaches_the_graph(self, key):
        kernel, shifted = (census(made(t)[1].model, key) for t in manifests.TARGETS)
        self.assertGreater(kernel["DEPTHWISE_CONV_2D"], 0)
        self.assertEqual(shifted["DEPTHWISE_CONV_2D"], 0)
        self.assertGreater(shifted["SLICE"], kernel["SLICE"] + 25)

    def test_it_is_told(self):
        _, files = made(TARGET)
        found = manifests.of_file(tflite_file.parse(files.model))
        self.assertEqual((found.target, files.manifest.target), (TARGET, TARGET))
        with tiny_detector.known():
            self.assertEqual(fresh.recipe_of(found).target, TARGET)

    def test_a_checkpoint_fits_the_files_of_either(self):
        one, two = (made(target)[1].manifest for target in manifests.TARGETS)
        self.assertEqual(one.fingerprint, two.fingerprint)

    @parameterized.parameters((None, "any"), (TARGET, TARGET))
    def test_reconverting_keeps_or_changes_it(self, target, expected):
        _, files = made(manifests.ANY)
        state = weights.of_trainable(tflite_file.parse(files.model), files.manifest)
        with tiny_detector.known():
            data = reconvert.reconvert(
                files.manifest, state, lambda: None, "trainable", target=target
            )
        found = manifests.of_file(tflite_file.parse(data))
        self.assertEqual(found.target, expected)
        self.assertEqual(
            census(data, contract.TRAIN), census(made(expected)[1].model, "train")
        )

    def test_every_proof_holds_in_every_runtime(self):
        recipe, files = made(TARGET)
        with tiny_detector.known():
            ported = dict(vendor().weights)
            proof = prove.prove(vendor(), recipe, ported, files, [], 3, RUNTIMES)
        self.assertEqual([c for c in proof.checks if not c.holds], [])
        self.assertEqual({c.runtime for c in proof.checks} - {""}, {*RUNTIMES})


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
        kinds = {operation.type for operation in function.graph.get_operations()}
        used = {
            t.op.type
            for operation in function.graph.get_operations()
            if operation.type != "NoOp"
            for t in operation.inputs
        }
        self.assertIn("Slice", kinds)
        self.assertNotIn("DepthwiseConv2dNative", used)
        with self.assertRaisesRegex(ValueError, "any, tflite_runtime. Rec.*'tflite'"):
            make(target="tflite")
        with self.assertRaisesRegex(ValueError, "ops='select' target must be one of a"):
            make(target=TARGET, ops="select")

    def test_a_recipe(self):
        recipe = dataclasses.replace(made(TARGET)[0], target="tflite")
        with self.assertRaisesRegex(ValueError, "any, tflite_runtime. Rec.*'tflite'"):
            fresh.make_trainable(recipe, vendor().weights, {})

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
