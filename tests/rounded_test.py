"""Tests of ondevice/verification/rounded.py, on an int8 file that TensorFlow makes."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from checkpoints import tflite_file
from ondevice.device import runtimes
from ondevice.rebuild import network, nodes, porting, recognition, topology
from ondevice.verification import check, rounded
from signatures import stateless
from tests import shared_data, tiny_detector

SPEC = tiny_detector.HOURGLASS
_RANDOM = np.random.default_rng(5)
IMAGES = _RANDOM.uniform(-1, 1, (8, 1, 32, 32, 3)).astype(np.float32)


@functools.cache
def _integer_file() -> tflite_file.TfliteFile:
    """The tiny hourglass, weights and activations in int8, its ends in float."""
    model = stateless.Stateless(network.build(topology.draw(SPEC), SPEC.name))

    @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32)])
    def call(image):
        weights = tiny_detector.weights(spec=SPEC)
        found = model({n: tf.constant(value) for n, value in weights.items()}, image)
        return found["regressors"], found["scores"]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()]
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image] for image in IMAGES)
    return tflite_file.parse(converter.convert())


@functools.cache
def _rebuilt():
    """What was recognised in it, and its Keras model."""
    file = _integer_file()
    with tiny_detector.known():
        found = recognition.recognise(file)
    model = network.build(found.layers, found.spec.name)
    weights = porting.port(file, found)
    network.assign(model, weights)
    return model, found, weights


@functools.cache
def _errors(runtime):
    model, found, _ = _rebuilt()
    return rounded.errors(model, found, _integer_file(), IMAGES[0], _shown(runtime))


@functools.cache
def _shown(runtime):
    if runtime not in runtimes.installed():
        shared_data.missing(f"{runtime} is not installed.")
    interpreter = runtimes.create(rounded.exposed(_integer_file()), runtime, 1)
    return runtimes.run(interpreter, IMAGES[0])


def test_weights_are_those_of_before_but_for_a_step_of_their_scale():
    _, found, weights = _rebuilt()
    assert found.spec.name == SPEC.name
    for name, value in tiny_detector.weights(spec=SPEC).items():
        # Half of the 127th part of a channel's largest weight; biases have finer steps.
        assert np.abs(weights[name] - value).max() <= np.abs(value).max() / 253, name


def test_files_that_compute_with_integers_are_told():
    assert nodes.rounds(_integer_file())
    for spec in (tiny_detector.SPEC, SPEC):
        file = tflite_file.parse(tiny_detector.vendor_file(spec=spec))
        assert not nodes.rounds(file)


@pytest.mark.parametrize("runtime", runtimes.NAMES)
def test_every_layer_is_the_files_in_every_runtime(runtime):
    errors = _errors(runtime)
    layers = [x.name for x in _rebuilt()[1].layers if x.kind != "input"]
    # A convolution whose ReLU is fused into it keeps its result to itself.
    assert len(errors) > 0.7 * len(layers)
    assert {"regressors", "scores"} <= errors.keys()
    assert max(errors.values()) <= check.UNLIKENESS, errors


@pytest.mark.parametrize(
    "name", ["depthwise_conv2d_2/kernel", "conv2d_transpose/kernel", "regressor_8/bias"]
)
def test_a_wrong_weight_is_caught(name):
    model, found, weights = _rebuilt()
    wrong = weights[name].copy()
    wrong.flat[0] += 4 * np.abs(wrong).max()
    network.assign(model, {**weights, name: wrong})
    try:
        shown = _shown("ai_edge_litert")
        errors = rounded.errors(model, found, _integer_file(), IMAGES[0], shown)
    finally:
        network.assign(model, weights)
    assert max(errors.values()) > check.UNLIKENESS


def test_unlikeness_by_hand():
    one = np.array([1.0, 2.0, 3.0])
    assert rounded.unlikeness(one, 10 * one - 3) == pytest.approx(0, abs=1e-12)
    assert rounded.unlikeness(one, -one) == pytest.approx(2)
    assert rounded.unlikeness(np.ones(3), np.ones(3)) == 0
    assert np.isnan(rounded.unlikeness(one, np.ones(4)))
