"""Tests of ondevice/rebuild/recognition.py and porting.py."""

import struct

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import tflite_file
from ondevice import convert
from ondevice.rebuild import network, nodes, porting, recognition, specs, topology
from signatures import stateless
from tests import rewritten, shared_data, tiny_detector

TINY = tiny_detector.ALL

# File in ../shared/models -> its detector and the weights in it.
VENDORS = {
    "palm_detection_128": ("palm_128", 959_608),
    "palm_detection_builtin_256_integer_quant": ("palm_256", 1_757_342),
    "face_detection_front": ("face_short_range", 100_412),
    "face_detection_short_range": ("face_short_range", 100_412),
    "face_detection_back": ("face_back", 134_704),
    "face_detection_full_range": ("face_full_range", 510_489),
    "face_detection_full_range_sparse": ("face_full_range_sparse", 508_308),
}


def _edited(edit):
    """The tiny detector's file after `edit` has changed its object form."""
    return tflite_file.parse(rewritten.edited(tiny_detector.vendor_file(), edit))


def _ported(data):
    file = tflite_file.parse(data)
    found = recognition.recognise(file)
    return found, porting.port(file, found)


class TinyTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _known(self):
        with tiny_detector.known():
            yield

    @parameterized.parameters(*TINY)
    def test_names_and_order_play_no_part(self, name):
        data = rewritten.shuffled(tiny_detector.vendor_file(0, TINY[name]))
        found, ported = _ported(data)
        self.assertEqual(found.spec.name, name)
        self.assertEqual(dict(found.outputs), {"regressors": 1, "scores": 0})
        expected = tiny_detector.weights(spec=TINY[name])
        self.assertEqual(ported.keys(), expected.keys())
        for variable, value in expected.items():
            np.testing.assert_array_equal(ported[variable], value, err_msg=variable)

    @parameterized.parameters(False, True)
    def test_the_custom_operator_is_a_transpose_convolution(self, mixed):
        spec = tiny_detector.HOURGLASS
        data = rewritten.with_custom_operator(tiny_detector.vendor_file(0, spec))
        file = tflite_file.parse(data)
        self.assertEqual(file.custom(), (rewritten.CUSTOM,))
        found, ported = _ported(rewritten.shuffled(data) if mixed else data)
        self.assertEqual(found.spec.name, spec.name)
        for variable, value in tiny_detector.weights(spec=spec).items():
            np.testing.assert_array_equal(ported[variable], value, err_msg=variable)

    def test_a_custom_operator_of_another_stride_is_another_network(self):
        def stretch(model):
            operator, _ = rewritten.operators(model, "CUSTOM")
            options = struct.pack("<3i", 1, 3, 3)
            operator.customOptions = np.frombuffer(options, np.uint8)

        data = tiny_detector.vendor_file(0, tiny_detector.HOURGLASS)
        data = rewritten.edited(rewritten.with_custom_operator(data), stretch)
        with self.assertRaisesRegex(
            recognition.UnknownDetectorError,
            r"first other one is conv2d_transpose; .*Convolution2DTransposeBias \(op",
        ):
            recognition.recognise(tflite_file.parse(data))

    def test_an_operator_that_no_layer_is_like_is_named_with_its_place(self):
        def leak(model):
            (code,) = [
                code
                for code in model.operatorCodes
                if code.builtinCode == schema.BuiltinOperator.PRELU
            ]
            code.builtinCode = schema.BuiltinOperator.LEAKY_RELU
            code.deprecatedBuiltinCode = code.builtinCode

        with self.assertRaisesRegex(
            recognition.UnknownDetectorError,
            r"no layer is like LEAKY_RELU \(operator 1\)",
        ):
            recognition.recognise(_edited(leak))

    def test_another_window_is_another_network(self):
        def widen(model):
            pool = rewritten.operators(model, "MAX_POOL_2D")[0]
            pool.builtinOptions.filterHeight = pool.builtinOptions.filterWidth = 5

        with self.assertRaisesRegex(
            recognition.UnknownDetectorError, "palm_tiny.*first other one is max_pool"
        ):
            recognition.recognise(_edited(widen))

    def test_a_fused_activation_is_another_network(self):
        def fuse(model):
            add = rewritten.operators(model, "ADD")[0]
            add.builtinOptions.fusedActivationFunction = 1  # RELU

        with self.assertRaises(recognition.UnknownDetectorError):
            recognition.recognise(_edited(fuse))

    def test_another_way_of_upsampling_is_another_network(self):
        def align(model):
            resize = rewritten.operators(model, "RESIZE_BILINEAR")[0]
            resize.builtinOptions.halfPixelCenters = False

        with self.assertRaises(recognition.UnknownDetectorError):
            recognition.recognise(_edited(align))

    @parameterized.parameters(("first", [0, 1]), ("second", [1, 0]))
    def test_padding_of_one_side_is_another_network(self, _, sides):
        def shift(model):
            pad = rewritten.operators(model, "PAD")[0]
            table = model.buffers[model.subgraphs[0].tensors[pad.inputs[1]].buffer]
            paddings = np.array([[0, 0], sides, [1, 1], [0, 0]], np.int32)
            table.data = np.frombuffer(paddings.tobytes(), np.uint8)

        data = tiny_detector.vendor_file(0, tiny_detector.SUBPIXEL)
        recognition.recognise(tflite_file.parse(data))
        with self.assertRaisesRegex(
            recognition.UnknownDetectorError, r"no layer is like PAD \(operator 0\)"
        ):
            recognition.recognise(tflite_file.parse(rewritten.edited(data, shift)))

    def test_a_float_constant_that_nothing_ports_is_named(self):
        def add_bias(model):
            # The depthwise convolution gets a bias that is not zero.
            graph = model.subgraphs[0]
            operator = rewritten.operators(model, "DEPTHWISE_CONV_2D")[0]
            channels = graph.tensors[operator.inputs[1]].shape[3]
            buffer = schema.BufferT()
            buffer.data = np.ones(channels, np.float32).view(np.uint8)
            tensor = schema.TensorT()
            tensor.shape, tensor.type = [channels], schema.TensorType.FLOAT32
            tensor.buffer, tensor.name = len(model.buffers), b"bias"
            model.buffers.append(buffer)
            operator.inputs = [*operator.inputs[:2], len(graph.tensors)]
            graph.tensors.append(tensor)

        file = _edited(add_bias)
        with self.assertRaisesRegex(porting.PortingError, "a depthwise bias, is not"):
            porting.port(file, recognition.recognise(file))

    def test_a_row_that_is_missing_is_named(self):
        file = tflite_file.parse(tiny_detector.vendor_file())
        found = recognition.recognise(file)
        rows = porting.weight_map(file, found)
        with absltest.mock.patch.object(porting, "weight_map", return_value=rows[1:]):
            with self.assertRaisesRegex(
                porting.PortingError,
                r"unset variables: \['conv2d/kernel'\]; unread float constants",
            ):
                porting.port(file, found)


class PaddingTest(parameterized.TestCase):
    # pad on each side, kernel, stride -> the window of the node.
    @parameterized.parameters(
        (1, 3, 1, (3, 1)),
        (2, 5, 1, (5, 1)),
        (1, 3, 2, (3, 2, "valid")),
        (2, 3, 1, (3, 1, "valid")),
        (1, 2, 1, (2, 1, "valid")),
    )
    def test_pad_before_a_valid_window(self, added, kernel, stride, window):
        layers = (
            topology.Layer("image", "input", (), (8, 8, 2), ""),
            topology.Layer("pad", "spatial_pad", ("image",), (), "", added),
            topology.Layer(
                "out", "conv", ("pad",), (0, 0, 3), "", kernel, stride, "valid"
            ),
        )
        model = stateless.Stateless(network.build(layers, "padded"))
        weights = {
            "out/kernel": np.ones((kernel, kernel, 2, 3), np.float32),
            "out/bias": np.ones(3, np.float32),
        }
        data, _ = convert.inference(
            lambda values, image: (model(values, image)["out"],),
            [tf.TensorSpec((1, 8, 8, 2), name="image")],
            weights,
            ("out",),
        )
        graph = nodes.read(tflite_file.parse(data))
        found = {node.output: node for node in graph.nodes}[graph.outputs[0]]
        self.assertEqual((found.kind, found.window), ("conv", window))
        same = found.inputs == tuple(graph.inputs)
        self.assertEqual(same, len(window) == 2)


class VendorTest(parameterized.TestCase):
    @parameterized.parameters(*VENDORS)
    def test_a_shuffled_copy_without_names_gives_the_same_weights(self, name):
        data = shared_data.vendor(name).read_bytes()
        spec, count = VENDORS[name]
        found, weights = _ported(data)
        self.assertEqual(found.spec.name, spec)
        self.assertEqual(sum(value.size for value in weights.values()), count)
        places = found.outputs.values()
        self.assertCountEqual(places, (0, 1))
        again, others = _ported(rewritten.shuffled(data))
        self.assertEqual(again.spec.name, spec)
        self.assertEqual([1 - i for i in again.outputs.values()], list(places))
        self.assertEqual(others.keys(), weights.keys())
        for variable, value in weights.items():
            np.testing.assert_array_equal(others[variable], value, err_msg=variable)

    def test_palm_128s_slopes_are_those_that_its_names_tell(self):
        path = shared_data.shared("models", "palm_detection_128.tflite")
        file = tflite_file.read(path)
        weights = porting.port(file, recognition.recognise(file))
        # The largest slope of a PReLU, as read from the file by its tensors' names.
        slopes = np.concatenate(
            [v.ravel() for n, v in weights.items() if n.endswith("alpha")]
        )
        named = [
            file.constant(0, tensor.index).ravel()
            for tensor in file.subgraphs[0].tensors
            if tensor.name.endswith("/Alpha")
        ]
        self.assertEqual(slopes.size, 4096)
        self.assertEqual(slopes.max(), np.concatenate(named).max())


def test_new_class_logits_start_at_zero_and_the_rest_is_the_vendors():
    layers = topology.draw(tiny_detector.SPEC, 3)
    vendors = tiny_detector.weights()
    weights = porting.with_classes(vendors, layers)
    assert list(weights) == list(topology.variables(layers))
    for name, value in vendors.items():
        np.testing.assert_array_equal(weights[name], value)
    for head in tiny_detector.SPEC.heads:
        for name in (f"class_{head.stride}/kernel", f"class_{head.stride}/bias"):
            assert not weights.pop(name).any()
    new = [name for name in weights if name not in vendors]
    assert all(weights[name].any() == name.endswith("/kernel") for name in new)
    again = porting.with_classes(vendors, layers)
    assert all((again[name] == value).all() for name, value in weights.items())


def test_a_branch_at_its_start_keeps_the_size_of_what_it_reads():
    """Glorot's limits: outputs of about the variance of the inputs."""
    layers = topology.draw(specs.PRESETS["palm_full"], 7)
    kernels = porting.with_classes({}, layers)
    kernel = kernels["class_grid/kernel"]
    assert kernel.var() == pytest.approx(2 / (256 + 64), rel=0.05)
    assert kernel.dtype == np.float32
