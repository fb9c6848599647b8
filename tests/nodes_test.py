"""Tests of operators as nodes: what is a layer's, and what stays the operator it is."""

from __future__ import annotations

import struct

import numpy as np
import tflite
from absl.testing import absltest, parameterized

from checkpoints import tflite_types
from ondevice.rebuild import nodes

SAME, VALID = tflite.Padding.SAME, tflite.Padding.VALID
NONE, RELU = nodes._NONE, nodes._RELU
IMAGE = (1, 8, 8, 4)


def file(*operators, constants=(), shapes=None, dtypes=None):
    """A file of one subgraph.

    Args:
      *operators: (name, inputs, output, options) each; tensor 0 is the input.
      constants: Tensor -> array.
      shapes: Tensor -> shape, of others than IMAGE.
      dtypes: Tensor -> dtype, of others than FLOAT32.
    """
    constants, shapes, dtypes = dict(constants), shapes or {}, dtypes or {}
    named = [i for _, inputs, output, _ in operators for i in (*inputs, output)]
    data, buffers, tensors = b"", [tflite_types.BufferRange(0, 0)], []
    for index in range(max(named) + 1):
        array, buffer = constants.get(index), 0
        shape = shapes.get(index, IMAGE)
        if array is not None:
            buffer, shape = len(buffers), array.shape
            buffers.append(tflite_types.BufferRange(len(data), array.nbytes))
            data += array.tobytes()
        dtype = dtypes.get(index, "FLOAT32")
        if array is not None and array.dtype == np.int32:
            dtype = "INT32"
        tensors.append(
            tflite_types.Tensor(
                index, f"t{index}", shape, (), dtype, buffer, False, None, None
            )
        )
    made = tuple(
        tflite_types.Operator(place, name, False, tuple(inputs), (output,), options)
        for place, (name, inputs, output, options) in enumerate(operators)
    )
    last = operators[-1][2]
    graph = tflite_types.Subgraph(0, "", tuple(tensors), made, (0,), (last,))
    return tflite_types.TfliteFile((graph,), (), {}, "", tuple(buffers), data)


def kinds(*operators, **options) -> list[tuple]:
    return [
        (node.kind, node.window, node.weights, node.known)
        for node in nodes.read(file(*operators, **options)).nodes
    ]


def convolution(padding=SAME, stride=(1, 1), dilation=(1, 1), activation=NONE):
    return {
        "padding": padding,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "dilation_h_factor": dilation[0],
        "dilation_w_factor": dilation[1],
        "fused_activation_function": activation,
    }


def kernel(*shape):
    return np.ones(shape, np.float32)


class ConvolutionTest(parameterized.TestCase):
    @parameterized.parameters(
        ("CONV_2D", (4, 3, 3, 4), convolution(), ("conv", (3, 1))),
        ("CONV_2D", (4, 5, 5, 4), convolution(stride=(2, 2)), ("conv", (5, 2))),
        ("CONV_2D", (4, 3, 3, 4), convolution(VALID), ("conv", (3, 1, "valid"))),
        ("CONV_2D", (4, 1, 1, 4), convolution(VALID), ("conv", (1, 1))),
        ("DEPTHWISE_CONV_2D", (1, 3, 3, 4), convolution(), ("depthwise", (3, 1))),
    )
    def test_is_a_layers(self, name, shape, options, expected):
        found = kinds((name, (0, 1, 2), 3, options),
                      constants={1: kernel(*shape), 2: kernel(4)})
        self.assertEqual(found, [(*expected, (1, 2), True)])

    @parameterized.parameters(
        (kernel(4, 3, 5, 4), convolution()),
        (kernel(4, 3, 3, 4), convolution(stride=(1, 2))),
        (kernel(4, 3, 3, 4), convolution(dilation=(2, 1))),
        (kernel(4, 3, 3, 4), convolution(dilation=(1, 2))),
        (kernel(3, 3, 4), convolution()),
        (kernel(4, 3, 3, 4), convolution(activation=3)),
    )  # fmt: skip
    def test_is_no_layers(self, weights, options):
        ((kind, window, places, known),) = kinds(
            ("CONV_2D", (0, 1, 2), 3, options), constants={1: weights, 2: kernel(4)}
        )
        self.assertEqual((kind, places, known), ("CONV_2D", (), False))
        self.assertEqual(dict(window)["stride_w"], repr(options["stride_w"]))

    def test_a_bias_may_be_absent(self):
        for inputs in ((0, 1), (0, 1, -1)):
            ((_, _, weights, known),) = kinds(
                ("CONV_2D", inputs, 2, convolution()),
                constants={1: kernel(4, 3, 3, 4)},
            )
            self.assertEqual((weights, known), ((1, -1), True))

    def test_an_activation_is_a_node_of_its_own(self):
        made = nodes.read(
            file(
                ("CONV_2D", (0, 1, 2), 3, convolution(activation=RELU)),
                constants={1: kernel(4, 3, 3, 4), 2: kernel(4)},
            )
        )
        first, second = made.nodes
        self.assertEqual((first.kind, first.output, first.inputs), ("conv", 7, (0,)))
        self.assertEqual((second.kind, second.output), ("relu", 3))
        self.assertEqual((second.inputs, second.weights), ((7,), ()))
        self.assertEqual((second.window, made.outputs), ((1, 1), (3,)))
        self.assertEqual(made.inputs, {0: (8, 8, 4)})

    def test_weights_behind_what_decodes_them(self):
        made = nodes.read(
            file(
                ("DENSIFY", (4,), 5, {}),
                ("DEQUANTIZE", (5,), 1, {}),
                ("CONV_2D", (0, 1, 2), 3, convolution()),
                constants={4: kernel(4, 3, 3, 4), 2: kernel(4)},
            )
        )
        (node,) = made.nodes
        self.assertEqual((node.weights, node.operator), ((4, 2), 2))
        self.assertEqual(nodes.decoded_from(file(
            ("DENSIFY", (4,), 5, {}), ("DEQUANTIZE", (5,), 1, {}),
        )), {5: 4, 1: 4})  # fmt: skip


class TransposeTest(parameterized.TestCase):
    OPTIONS = {"padding": SAME, "stride_h": 2, "stride_w": 2}

    def sizes(self):
        return {1: kernel(4, 2, 2, 4), 2: np.array(IMAGE, np.int32), 3: kernel(4)}

    def test_with_a_bias_inside(self):
        found = kinds(("TRANSPOSE_CONV", (2, 1, 0, 3), 4, self.OPTIONS),
                      constants=self.sizes())
        self.assertEqual(found, [("transpose_conv", (2, 2), (1, 3), True)])

    def test_with_a_bias_behind(self):
        for operands in ((4, 3), (3, 4)):
            made = nodes.read(
                file(
                    ("TRANSPOSE_CONV", (2, 1, 0), 4, self.OPTIONS),
                    ("ADD", operands, 5, {}),
                    constants=self.sizes(),
                )
            )
            last = made.nodes[-1]
            self.assertEqual((last.kind, last.window), ("transpose_conv", (2, 2)))
            self.assertEqual((last.weights, last.inputs), ((1, 3), (0,)))
            self.assertEqual((last.output, last.operator), (5, 1))

    def test_what_is_added_is_no_bias(self):
        # Of another shape; or behind something else.
        wide = kernel(1, 8, 8, 4)
        made = nodes.read(
            file(
                ("TRANSPOSE_CONV", (2, 1, 0), 4, self.OPTIONS),
                ("ADD", (4, 3), 5, {}),
                constants=self.sizes() | {3: wide},
            )
        )
        self.assertEqual(made.nodes[-1].kind, "add")
        made = nodes.read(
            file(
                ("RELU", (0,), 4, {}), ("ADD", (4, 3), 5, {}), constants=self.sizes()
            )
        )
        self.assertEqual(made.nodes[-1].kind, "add")

    @parameterized.parameters((1, 2), (2, 1))
    def test_windows_that_overlap_are_no_layers(self, *step):
        options = {"padding": SAME, "stride_h": step[0], "stride_w": step[1]}
        ((kind, *_),) = kinds(
            ("TRANSPOSE_CONV", (2, 1, 0, 3), 4, options), constants=self.sizes()
        )
        self.assertEqual(kind, "TRANSPOSE_CONV")

    @parameterized.parameters(
        (struct.pack("<3i", 1, 2, 2), True),
        (struct.pack("<3i", 2, 2, 2) + b"\0", True),
        (struct.pack("<3i", 0, 2, 2), False),
        (struct.pack("<3i", 3, 2, 2), False),
        (struct.pack("<3i", 1, 1, 1), False),
        (struct.pack("<3i", 1, 2, 1), False),
        (struct.pack("<2i", 1, 2), False),
    )
    def test_the_custom_operator(self, stored, known):
        ((kind, window, weights, found),) = kinds(
            ("Convolution2DTransposeBias", (0, 1, 3), 4, {"custom_options": stored}),
            constants={1: kernel(4, 2, 2, 4), 3: kernel(4)},
        )
        self.assertEqual(found, known)
        if known:
            self.assertEqual(
                (kind, window, weights), ("transpose_conv", (2, 2), (1, 3))
            )


class OtherKindsTest(parameterized.TestCase):
    def pad(self, *rows, after=()):
        added = np.array(rows, np.int32)
        return kinds(("PAD", (0, 1), 2, {}), *after, constants={1: added})[0]

    def test_padding_of_channels_behind_alone(self):
        self.assertEqual(
            self.pad([0, 0], [0, 0], [0, 0], [0, 4]), ("channel_pad", (1, 1), (), True)
        )

    def test_padding_of_all_sides_alike(self):
        self.assertEqual(
            self.pad([0, 0], [2, 2], [2, 2], [0, 0]), ("spatial_pad", (2, 1), (), True)
        )

    @parameterized.parameters(
        ([0, 0], [0, 0], [0, 0], [1, 4]),
        ([0, 0], [0, 0], [1, 1], [0, 4]),
        ([0, 0], [1, 1], [0, 0], [0, 4]),
        ([1, 0], [0, 0], [0, 0], [0, 4]),
        ([0, 0], [2, 2], [2, 1], [0, 0]),
        ([0, 0], [2, 2], [2, 2], [0, 1]),
        ([0, 0], [0, 1]),
    )
    def test_other_padding_is_no_layers(self, *rows):
        kind, _, _, known = self.pad(*rows)
        self.assertEqual((kind, known), ("PAD", False))

    @parameterized.parameters((3, (3, 1)), (5, (5, 1)), (7, (7, 1)))
    def test_padding_before_a_window_is_the_windows(self, side, window):
        half = side // 2
        made = nodes.read(
            file(
                ("PAD", (0, 1), 2, {}),
                ("CONV_2D", (2, 3, 4), 5, convolution(VALID)),
                constants={
                    1: np.array([[0, 0], [half] * 2, [half] * 2, [0, 0]], np.int32),
                    3: kernel(4, side, side, 4),
                    4: kernel(4),
                },
            )
        )
        last = made.nodes[-1]
        self.assertEqual((last.kind, last.window, last.inputs), ("conv", window, (0,)))

    @parameterized.parameters((3, 2, VALID, 1), (3, 1, VALID, 2), (3, 2, SAME, 1))
    def test_other_padding_before_a_window_is_not(self, side, half, padding, stride):
        made = nodes.read(
            file(
                ("PAD", (0, 1), 2, {}),
                ("CONV_2D", (2, 3, 4), 5, convolution(padding, (stride, stride))),
                constants={
                    1: np.array([[0, 0], [half] * 2, [half] * 2, [0, 0]], np.int32),
                    3: kernel(4, side, side, 4),
                    4: kernel(4),
                },
            )
        )
        self.assertEqual(made.nodes[-1].inputs, (2,))

    @parameterized.parameters(
        ("DEPTH_TO_SPACE", {"block_size": 2}, ("depth_to_space", (2, 1))),
        ("RESIZE_BILINEAR", {"half_pixel_centers": True}, ("upsample", (1, 1))),
        ("CONCATENATION", {"axis": 1}, ("concat", (1, 1))),
        ("CONCATENATION", {"axis": -2}, ("concat", (1, 1))),
        ("RELU", {}, ("relu", (1, 1))),
        ("ADD", {}, ("add", (1, 1))),
        ("RESHAPE", {}, ("reshape", (1, 1))),
        (
            "MAX_POOL_2D",
            {"filter_height": 2, "filter_width": 2, "stride_h": 3, "stride_w": 3},
            ("max_pool", (2, 3)),
        ),
    )
    def test_is_a_layers(self, name, options, expected):
        found = kinds((name, (0,), 1, options))
        self.assertEqual(found, [(*expected, (), True)])

    @parameterized.parameters(
        ("RESIZE_BILINEAR", {"half_pixel_centers": False}),
        ("RESIZE_BILINEAR", {"half_pixel_centers": True, "align_corners": True}),
        ("CONCATENATION", {"axis": 3}),
        ("CONCATENATION", {"axis": 1, "fused_activation_function": 3}),
        (
            "MAX_POOL_2D",
            {"filter_height": 2, "filter_width": 3, "stride_h": 2, "stride_w": 2},
        ),
        (
            "MAX_POOL_2D",
            {"filter_height": 2, "filter_width": 2, "stride_h": 2, "stride_w": 1},
        ),
        ("LOGISTIC", {}),
    )
    def test_is_no_layers(self, name, options):
        ((kind, window, weights, known),) = kinds((name, (0,), 1, options))
        self.assertEqual((kind, weights, known), (name, (), False))
        told = sorted((key, repr(value)) for key, value in options.items())
        self.assertEqual(window, tuple(told))

    def test_slopes(self):
        found = kinds(("PRELU", (0, 1), 2, {}), constants={1: kernel(1, 1, 4)})
        self.assertEqual(found, [("prelu", (1, 1), (1,), True)])


class RoundsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("FLOAT32", False), ("INT8", True), ("UINT8", True), ("INT16", True),
        ("FLOAT16", False),
    )  # fmt: skip
    def test_computing_with_integers(self, dtype, rounds):
        made = file(("RELU", (0, -1), 1, {}), dtypes={0: dtype, 1: "INT8"})
        self.assertEqual(nodes.rounds(made), rounds)

    def test_decoding_is_no_computing(self):
        made = file(
            ("DEQUANTIZE", (2,), 1, {}), ("ADD", (0, 1), 3, {}), dtypes={2: "INT8"}
        )
        self.assertFalse(nodes.rounds(made))


if __name__ == "__main__":
    absltest.main()
