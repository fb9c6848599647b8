"""Tests of files in fewer bits, on the tiny detector, in every installed runtime."""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from checkpoints import tflite_file
from ondevice import convert, fresh
from ondevice import precision as precisions
from ondevice.device import runtimes, session
from tests import tiny_builds, tiny_detector

IMAGES = [
    np.random.default_rng(seed).random((1, 32, 32, 3), np.float32) for seed in range(4)
]


@functools.cache
def made(activations: str) -> bytes:
    """The tiny detector with int8 weights."""
    precision = precisions.Precision(
        "int8", activations, IMAGES if activations == "int8" else ()
    )
    with tiny_detector.known():
        data, constants = fresh.make_inference(
            tiny_builds.heads_recipe(),
            tiny_builds.heads().manifest,
            tiny_detector.weights(1, len(tiny_builds.CLASSES)),
            precision,
        )
    assert not constants
    return data


def operands(data: bytes) -> dict[tuple[str, int], set[str]]:
    """(operator, place) -> dtypes of the operands there, behind DEQUANTIZE if such."""
    (graph,) = tflite_file.parse(data).subgraphs
    file = tflite_file.parse(data)
    behind = {
        o.outputs[0]: o.inputs[0]
        for o in graph.operators
        if o.name == "DEQUANTIZE" and file.constant(0, o.inputs[0]) is not None
    }
    found: dict[tuple[str, int], set[str]] = {}
    for operator in graph.operators:
        for place, index in enumerate(operator.inputs):
            dtype = graph.tensors[behind.get(index, index)].dtype
            found.setdefault((operator.name, place), set()).add(dtype)
    return found


def relative(data: bytes, runtime: str) -> list[float]:
    """RMS of the difference from float32 over the RMS, for each output."""
    figures = []
    with (
        session.Session(tiny_builds.heads().inference, runtime) as exact,
        session.Session(data, runtime) as rounded,
    ):
        for one, two in zip(exact.infer(IMAGES[0]), rounded.infer(IMAGES[0])):
            figures.append(float(np.sqrt(np.mean((one - two) ** 2) / np.mean(one**2))))
    return figures


class WeightsTest(parameterized.TestCase):
    def test_what_is_stored_how(self):
        found = operands(made("float32"))
        self.assertEqual(found["CONV_2D", 1], {"INT8"})
        self.assertEqual(found["CONV_2D", 2], {"FLOAT32"})
        self.assertEqual(found["DEPTHWISE_CONV_2D", 1], {"FLOAT16"})
        self.assertEqual(found["DEPTHWISE_CONV_2D", 2], {"FLOAT16"})
        self.assertEqual(found["PRELU", 1], {"FLOAT16"})
        self.assertEqual(found["CONV_2D", 0], {"FLOAT32"})
        self.assertLess(len(made("float32")), len(tiny_builds.heads().inference))

    def test_nothing_is_stored_twice(self):
        file = tflite_file.parse(made("float32"))
        (graph,) = file.subgraphs
        used = {i for o in graph.operators for i in (*o.inputs, *o.outputs)}
        used |= {*graph.inputs, *graph.outputs}
        self.assertEqual(used - {-1}, set(range(len(graph.tensors))))
        held = {t.buffer for t in graph.tensors}
        size = sum(b.size for i, b in enumerate(file.buffers) if i in held)
        weights = tiny_detector.weights(1, len(tiny_builds.CLASSES))
        count = sum(value.size for value in weights.values())
        # A byte a weight, two or four for the few that are none of the kernels.
        self.assertLess(size, 2.5 * count)

    @parameterized.parameters(*runtimes.installed())
    def test_outputs(self, runtime):
        # 127 steps to the largest weight of a channel: half a percent a layer.
        self.assertBetween(max(relative(made("float32"), runtime)), 1e-4, 0.05)

    def test_each_channel_has_its_own_scale(self):
        kernel = np.zeros((1, 1, 2, 3), np.float32)
        kernel[0, 0, :, 0], kernel[0, 0, :, 1] = (100.0, -50.0), (0.001, 0.0005)

        def function(weights, image):
            x = tf.nn.conv2d(image, weights["k"], 1, "SAME") + weights["b"]
            # The bias of one convolution is that of a depthwise one, too.
            y = tf.nn.depthwise_conv2d(x, weights["d"], (1, 1, 1, 1), "SAME")
            return (y + weights["b"],)

        values = {
            "k": kernel,
            "b": np.array([1.0001, 2, 3], np.float32),
            "d": np.full((3, 3, 3, 1), 0.5, np.float32),
        }
        data, _ = convert.inference(
            function,
            [tf.TensorSpec((1, 4, 4, 2), name="in")],
            values,
            ["out"],
            precisions.Precision("int8"),
        )
        file = tflite_file.parse(data)
        (stored,) = (t for t in file.subgraphs[0].tensors if t.dtype == "INT8")
        np.testing.assert_allclose(
            stored.quantization.scale, [100 / 127, 0.001 / 127, 1], rtol=1e-6
        )
        found = operands(data)
        self.assertEqual(found["CONV_2D", 2], {"FLOAT32"})
        self.assertEqual(found["DEPTHWISE_CONV_2D", 2], {"FLOAT16"})
        image = np.random.default_rng(0).random((1, 4, 4, 2), np.float32)
        tensors = {name: tf.constant(value) for name, value in values.items()}
        (expected,) = function(tensors, image)
        for runtime in runtimes.installed():
            interpreter = runtimes.create(data, runtime)
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
            interpreter.invoke()
            index = interpreter.get_output_details()[0]["index"]
            np.testing.assert_allclose(
                # Half a step of each of two weights, of 127 to the largest.
                interpreter.get_tensor(index), expected, rtol=2e-2, err_msg=runtime
            )


class IntegersTest(parameterized.TestCase):
    def test_what_is_computed_in_what(self):
        found = operands(made("int8"))
        # The body in int8; the heads in float, their kernels stored as elsewhere.
        self.assertEqual(found["CONV_2D", 0], {"INT8", "FLOAT32"})
        self.assertEqual(found["CONV_2D", 1], {"INT8"})
        self.assertEqual(found["DEPTHWISE_CONV_2D", 0], {"INT8"})
        self.assertEqual(found["PRELU", 0], {"FLOAT32"})
        for name in ("LOG", "ELU", "LOGISTIC", "CONCATENATION"):
            self.assertEqual(found[name, 0], {"FLOAT32"}, name)

    def test_input_and_outputs_are_the_vendors(self):
        (graph,) = tflite_file.parse(made("int8")).subgraphs
        ends = [graph.tensors[i] for i in (*graph.inputs, *graph.outputs)]
        spec = tiny_detector.SPEC
        self.assertEqual([t.name for t in ends], [spec.input_name, *spec.outputs])
        self.assertEqual({t.dtype for t in ends}, {"FLOAT32"})

    @parameterized.parameters(*runtimes.installed())
    def test_outputs(self, runtime):
        self.assertBetween(max(relative(made("int8"), runtime)), 1e-4, 0.3)


class PrecisionTest(parameterized.TestCase):
    @parameterized.parameters(
        ("float8", "float32", 0),
        ("int8", "int4", 0),
        ("float16", "dynamic", 0),
        ("int8", "int8", 0),
        ("int8", "float32", 1),
    )
    def test_what_does_not_go_together(self, weights, activations, count):
        with self.assertRaisesRegex(ValueError, "Received: "):
            precisions.Precision(weights, activations, IMAGES[:count])


if __name__ == "__main__":
    absltest.main()
