"""Tests of ondevice/rebuild/network.py and signatures/stateless.py."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from ondevice.detection import geometry
from ondevice.device import images, runtimes
from ondevice.rebuild import network, porting, recognition, topology, trunks
from ondevice.verification import check, compare
from checkpoints import tflite_file
from signatures import stateless
from tests import shared_data, tiny_detector

LAYERS = topology.draw(tiny_detector.SPEC, 3)


def _model(classes=3):
    model = network.build(topology.draw(tiny_detector.SPEC, classes), "tiny")
    network.assign(model, tiny_detector.weights(classes=classes))
    return model


def test_variables_are_named_by_layer_and_attribute():
    named = stateless.named_variables(_model())
    shapes = {name: tuple(variable.shape) for name, variable in named.items()}
    assert shapes == topology.variables(LAYERS)


def test_stateless_calls_take_the_weights_given():
    model = _model()
    pure = stateless.Stateless(model)
    image = tf.constant(np.random.default_rng(0).random((2, 32, 32, 3)), tf.float32)
    weights = tiny_detector.weights(classes=3)
    same, own = pure(weights, image), model(image)
    other = pure(tiny_detector.weights(1, classes=3), image)
    for name in own:
        np.testing.assert_array_equal(same[name], own[name])
        assert np.abs(other[name] - own[name]).max() > 1e-3


def test_trunk_and_heads_compute_what_the_whole_does():
    features = trunks.trunk_features(
        LAYERS, topology.trained_variables(LAYERS, "heads")
    )
    below, above = trunks.split(LAYERS, features)
    weights = tiny_detector.weights(classes=3)
    trunk = stateless.Stateless(network.build(below, "trunk", features))
    heads = stateless.Stateless(network.build(above, "heads"))
    image = tf.constant(np.random.default_rng(0).random((1, 32, 32, 3)), tf.float32)
    parts = heads(weights, trunk(weights, image))
    whole = stateless.Stateless(_model())(weights, image)
    for name in whole:
        np.testing.assert_array_equal(parts[name], whole[name])


def test_weights_that_do_not_fit_are_named_and_nothing_is_set():
    model = _model()
    before = [v.numpy().copy() for v in model.variables]
    weights = tiny_detector.weights(5, classes=3)
    weights["stranger/kernel"] = weights.pop("conv2d/kernel")
    weights["conv2d/bias"] = np.zeros(99, np.float32)
    with pytest.raises(ValueError) as error:
        network.assign(model, weights)
    for part in (
        "no weight for conv2d/kernel",
        "no variable stranger/kernel",
        "conv2d/bias must have shape (4,), not (99,)",
    ):
        assert part in str(error.value)
    for variable, value in zip(model.variables, before):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("runtime", runtimes.NAMES)
@pytest.mark.parametrize(
    "name",
    [
        "palm_detection_128",
        "face_detection_front",
        "face_detection_short_range",
        "face_detection_back",
        "face_detection_full_range",
        "face_detection_full_range_sparse",
    ],
)
def test_the_model_is_within_the_bound_of_its_file(name, runtime):
    if runtime not in runtimes.installed():
        shared_data.missing(f"{runtime} is not installed.")
    path = shared_data.vendor(name)
    folder = shared_data.shared("data", "sign_digits")
    model, found = _ported(path)
    interpreter = runtimes.create(str(path), runtime)
    random = np.random.default_rng(0)
    size = found.spec.input_size
    shown = [random.uniform(-1, 1, (size, size, 3)).astype(np.float32)]
    for photograph in sorted(folder.glob("[0-6]/*.jpg"))[::230]:
        pixels = images.read(photograph)
        placed = images.place(pixels, geometry.letterbox(*pixels.shape[1::-1]), size)
        shown.append(images.to_input(placed, found.spec.input_range))
    assert len(shown) == 6
    for image in shown:
        entry = interpreter.get_input_details()[0]["index"]
        interpreter.set_tensor(entry, image[None])
        interpreter.invoke()
        outputs = model(image[None])
        for name, place in found.outputs.items():
            detail = interpreter.get_output_details()[place]
            vendor = interpreter.get_tensor(detail["index"])
            figure = compare.parity(np.asarray(outputs[name]), vendor)
            assert figure <= check.PARITY, (name, figure)


@functools.cache
def _ported(path):
    """The Keras model of a vendor's file, with its weights."""
    file = tflite_file.read(path)
    found = recognition.recognise(file)
    model = network.build(found.layers, found.spec.name)
    network.assign(model, porting.port(file, found))
    return model, found
