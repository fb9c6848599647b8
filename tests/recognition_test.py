"""Tests of ondevice/rebuild/recognition.py and porting.py."""

import flatbuffers
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import tflite_file
from ondevice.rebuild import porting, recognition, specs, topology
from tests import shared_data, tiny_detector


def _edited(edit):
    """The tiny detector's file after `edit` has changed its object form."""
    model = schema.ModelT.InitFromPackedBuf(tiny_detector.vendor_file(), 0)
    edit(model)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return tflite_file.parse(bytes(builder.Output()))


def _operators(model, code):
    return [
        operator
        for operator in model.subgraphs[0].operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == code
    ]


class TinyTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _known(self):
        with tiny_detector.known():
            yield

    def test_names_and_order_play_no_part(self):
        def shuffle(model):
            graph = model.subgraphs[0]
            random = np.random.default_rng(0)
            for tensor in graph.tensors:
                tensor.name = b"a name that means nothing"
            # Tensors change places, and operators keep only the order that they need.
            order = random.permutation(len(graph.tensors)).tolist()
            place = {old: new for new, old in enumerate(order)}
            graph.tensors = [graph.tensors[old] for old in order]
            for operator in graph.operators:
                operator.inputs = [place.get(i, -1) for i in operator.inputs]
                operator.outputs = [place[i] for i in operator.outputs]
            graph.inputs = [place[i] for i in graph.inputs]
            graph.outputs = [place[i] for i in graph.outputs][::-1]
            for definition in model.signatureDefs:
                for entry in (*definition.inputs, *definition.outputs):
                    entry.tensorIndex = place[entry.tensorIndex]
            graph.operators = _reordered(graph.operators, random)

        file = _edited(shuffle)
        found = recognition.recognise(file)
        self.assertEqual(found.spec.name, "palm_tiny")
        self.assertEqual(dict(found.outputs), {"regressors": 1, "scores": 0})
        ported = porting.port(file, found)
        for name, value in tiny_detector.weights().items():
            np.testing.assert_array_equal(ported[name], value, err_msg=name)

    def test_another_window_is_another_network(self):
        def widen(model):
            pool = _operators(model, schema.BuiltinOperator.MAX_POOL_2D)[0]
            pool.builtinOptions.filterHeight = pool.builtinOptions.filterWidth = 5

        with self.assertRaisesRegex(
            recognition.UnknownDetectorError, "palm_tiny.*first other one is max_pool"
        ):
            recognition.recognise(_edited(widen))

    def test_a_fused_activation_is_another_network(self):
        def fuse(model):
            add = _operators(model, schema.BuiltinOperator.ADD)[0]
            add.builtinOptions.fusedActivationFunction = 1  # RELU

        with self.assertRaises(recognition.UnknownDetectorError):
            recognition.recognise(_edited(fuse))

    def test_another_way_of_upsampling_is_another_network(self):
        def align(model):
            resize = _operators(model, schema.BuiltinOperator.RESIZE_BILINEAR)[0]
            resize.builtinOptions.halfPixelCenters = False

        with self.assertRaises(recognition.UnknownDetectorError):
            recognition.recognise(_edited(align))

    def test_a_float_constant_that_nothing_ports_is_named(self):
        def add_bias(model):
            # The depthwise convolution gets a bias that is not zero.
            graph = model.subgraphs[0]
            operator = _operators(model, schema.BuiltinOperator.DEPTHWISE_CONV_2D)[0]
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


def _reordered(operators, random):
    """A random order in which every operator still comes after what it reads."""
    made = {out for operator in operators for out in operator.outputs}
    waiting, ready, order = list(operators), set(), []
    while waiting:
        free = [o for o in waiting if not (set(o.inputs) & made) - ready]
        chosen = free[random.integers(len(free))]
        waiting.remove(chosen)
        ready.update(chosen.outputs)
        order.append(chosen)
    return order


class VendorTest(parameterized.TestCase):
    def test_palm_128_is_recognised_and_ported(self):
        path = shared_data.shared("models", "palm_detection_128.tflite")
        file = tflite_file.read(path)
        found = recognition.recognise(file)
        self.assertEqual(found.spec.name, "palm_128")
        self.assertEqual(dict(found.outputs), {"regressors": 0, "scores": 1})
        weights = porting.port(file, found)
        self.assertEqual(sum(value.size for value in weights.values()), 959_608)
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
