"""Tests of reading weights out of a file's buffers, by its manifest."""

from __future__ import annotations

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest, tflite_file, weights
from tests import manifest_test, tflite_bytes

KERNEL = np.arange(24, dtype="<f4").reshape(2, 3, 4)
PERMUTATION = (2, 0, 1)
TURNED = KERNEL.transpose(PERMUTATION)
VARIABLES = (
    manifest.VariableSpec("stem/kernel", (2, 3, 4), "float32", "weight", 2),
    manifest.VariableSpec("step", (), "int32", "step", 1),
    manifest.VariableSpec("half", (3,), "float16", "weight", 3),
)
HALF = np.array([0.5, -2, 3], "<f2")


def file(*buffers: np.ndarray) -> tflite_file.TfliteFile:
    contents = (b"", *(array.tobytes() for array in buffers))
    return tflite_file.parse(tflite_bytes.model_bytes(buffers=contents))


class TrainableTest(parameterized.TestCase):
    def test_every_variable(self):
        made = manifest_test.example(variables=VARIABLES)
        found = weights.of_trainable(file(np.int32(7), KERNEL, HALF), made)
        self.assertEqual(list(found), ["stem/kernel", "step", "half"])
        np.testing.assert_array_equal(found["stem/kernel"], KERNEL)
        np.testing.assert_array_equal(found["half"], HALF)
        self.assertEqual((found["step"].shape, int(found["step"])), ((), 7))
        self.assertEqual(found["step"].dtype, np.int32)
        self.assertFalse(found["stem/kernel"].flags.writeable)

    def test_names_every_buffer_of_another_size(self):
        made = manifest_test.example(variables=VARIABLES)
        with self.assertRaisesRegex(
            weights.WeightsError,
            r"buffer of every variable .*: 'stem/kernel', float32 \(2, 3, 4\) in "
            r"buffer 2 of 92 bytes; 'half', float16 \(3,\) in buffer 3 of 0 bytes\.",
        ):
            weights.of_trainable(file(np.int32(7), KERNEL.ravel()[:23]), made)

    @parameterized.parameters(-1, 3)
    def test_a_buffer_that_is_not_there(self, buffer):
        spec = manifest.VariableSpec("a", (1,), "float32", "weight", buffer)
        made = manifest_test.example(variables=(spec,))
        with self.assertRaisesRegex(weights.WeightsError, f"buffer {buffer} of 0 by"):
            weights.of_trainable(file(KERNEL[:1, :1, :1], KERNEL[:1, :1, :1]), made)


class InferenceTest(absltest.TestCase):
    def manifest(self, permutation=PERMUTATION):
        spec = manifest.ConstantSpec("stem/kernel", 1, TURNED.shape, permutation)
        return manifest_test.example(constants=(spec,))

    def test_it_is_turned_back(self):
        found = weights.of_inference(
            file(TURNED), self.manifest(), {"stem/kernel": (2, 3, 4)}
        )
        np.testing.assert_array_equal(found["stem/kernel"], KERNEL)

    def test_only_what_is_asked_for(self):
        self.assertEqual(weights.of_inference(file(TURNED), self.manifest(), {}), {})

    def test_names_every_weight_that_is_not_there(self):
        with self.assertRaisesRegex(
            weights.WeightsError,
            r"every weight must .*: no 'a'; 'stem/kernel', \(2, 3, 5\) by \(2, 0, 1\) "
            r"in buffer 1 of 96 bytes; no 'b'\.",
        ):
            weights.of_inference(
                file(TURNED),
                self.manifest(),
                {"a": (1,), "stem/kernel": (2, 3, 5), "b": ()},
            )

    def test_another_rank(self):
        with self.assertRaisesRegex(weights.WeightsError, r"\(6, 4\) by \(2, 0, 1\)"):
            weights.of_inference(
                file(TURNED), self.manifest(), {"stem/kernel": (6, 4)}
            )


if __name__ == "__main__":
    absltest.main()
