"""Tests of a Keras application, MobileNetV2, as a trainable file."""

from __future__ import annotations

import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import convert
from ondevice.device import exports, runtimes, session
from signatures import optimizers, trainable
from tests import keras_models, keras_reference

BATCH, RATE = 8, 1e-3
CASE = keras_models.Case(keras_models.mobilenet)


class MobileNetTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.module = trainable.of_keras(
            keras_reference.build(CASE),
            CASE.loss,
            optimizers.Settings("sgd", clip_norm=0.0),
            BATCH,
        )
        cls.directory = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.directory.name)
        convert.write(cls.module, cls.folder)
        specs = cls.module.signature_specs[-1].inputs
        cls.batch = keras_models.batch(CASE, specs)
        cls.truth = {}
        for dtype in ("float32", "float64"):
            reference = keras_reference.Reference(
                CASE, cls.module.parameters(), keras.optimizers.SGD(RATE), dtype
            )
            loss = reference.step([cls.batch["x"]], [cls.batch["y"]])
            cls.truth[dtype] = loss, reference.state()

    @parameterized.parameters(*runtimes.NAMES)
    def test_a_step_is_that_of_keras_and_a_patch_is_its_result(self, runtime):
        """As near to float64 as Keras' own step in float32 is.

        Fifty BatchNorms of random weights make 1e-2 of rounding in either.
        """
        loss, expected = self.truth["float64"]
        _, single = self.truth["float32"]
        with session.Session(self.folder / "model.tflite", runtime, 1) as opened:
            before = opened.state()
            found = opened.train(
                **self.batch,
                sample_weights=np.ones(BATCH, np.float32),
                learning_rate=RATE,
            )
            after = opened.state()
            image = self.batch["x"][:1]
            inferred = opened.infer(image)
        self.assertAlmostEqual(found.loss / loss, 1, delta=1e-4)
        ours, theirs = [], []
        for spec in self.module.specs:
            if spec.role in manifests.PARAMETERS:
                change = np.abs(expected[spec.name] - before[spec.name]).max()
                for errors, state in ((ours, after), (theirs, single)):
                    error = np.abs(state[spec.name] - expected[spec.name]).max()
                    errors.append(error / max(change, 1e-30))
        for share in (0.1, 0.5, 0.9):
            most = max(1e-4, 2 * np.quantile(theirs, share))
            self.assertLess(np.quantile(ours, share), most, share)
        source = exports.Source.read(self.folder / "model.tflite", None)
        with session.Session(source.patched(after, "inference"), runtime, 1) as opened:
            error = np.abs(opened.infer(image) - inferred).max()
        self.assertLess(error, 5e-6 * np.abs(inferred).max())

    def test_operators(self):
        model = tflite_file.read(self.folder / "model.tflite")
        frozen = tflite_file.read(self.folder / "inference.tflite")
        for file in (model, frozen):
            self.assertEqual((file.flex(), file.custom()), ((), ()))
        # Every BatchNorm is folded: what adds is the ten residuals.
        self.assertEqual(
            frozen.census(),
            {
                "ADD": 10,
                "CONV_2D": 35,
                "DEPTHWISE_CONV_2D": 17,
                "FULLY_CONNECTED": 1,
                "MEAN": 1,
            },
        )


if __name__ == "__main__":
    absltest.main()
