"""Tests of counting what operators do."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from checkpoints import tflite_file
from ondevice.measuring import activations, work
from ondevice.rebuild import specs, topology


def _converted(function, *shapes) -> tflite_file.TfliteFile:
    """A file with the signature `serving_default`, its inputs not constant."""
    module = tf.Module()
    module.call = tf.function(
        function, input_signature=[tf.TensorSpec(shape) for shape in shapes]
    )
    concrete = module.call.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    return tflite_file.parse(converter.convert())


def _macs(function, *shapes) -> dict[str, int]:
    (key,) = [s.key for s in _converted(function, *shapes).signatures]
    works = work.of_signature(_converted(function, *shapes), key)
    return {w.name: w.macs for w in works if w.macs}


def test_counts_convolutions():
    found = _macs(
        lambda x, w, d: tf.nn.depthwise_conv2d(
            tf.nn.conv2d(x, w, 2, "SAME"), d, (1, 1, 1, 1), "VALID"
        ),
        *((2, 8, 6, 3), (5, 5, 3, 7), (3, 3, 7, 1)),
    )
    assert found == {
        "CONV_2D": 2 * 4 * 3 * 7 * 5 * 5 * 3,
        "DEPTHWISE_CONV_2D": 2 * 2 * 1 * 7 * 3 * 3,
    }


def test_counts_transposed_convolutions():
    found = _macs(
        lambda x, w: tf.nn.conv2d_transpose(x, w, (1, 8, 8, 5), 2, "SAME"),
        *((1, 4, 4, 3), (2, 2, 5, 3)),
    )
    assert found == {"TRANSPOSE_CONV": 4 * 4 * 3 * 2 * 2 * 5}


@pytest.mark.parametrize("transposed", [False, True])
def test_counts_matrix_products(transposed):
    one = (4, 6, 5) if transposed else (4, 5, 6)
    found = _macs(
        lambda a, b: tf.matmul(a, b, transpose_a=transposed), one, (4, 6, 3)
    )
    assert found == {"BATCH_MATMUL": 4 * 5 * 6 * 3}


def test_counts_bytes_and_equal_operators_once():
    file = _converted(lambda x: tf.exp(tf.exp(x)) * np.float32(2), (3, 5))
    (key,) = [s.key for s in file.signatures]
    found = work.census(work.of_signature(file, key))
    by_name = {w.name: (count, w.read, w.written) for w, count in found}
    assert by_name["EXP"] == (2, 60, 60)
    assert by_name["MUL"][:2] == (1, 64)
    assert next(iter(by_name)) == "EXP"  # It moves most.


def test_unknown_signatures_are_named():
    file = _converted(lambda x: x + 1, (2,))
    with pytest.raises(work.NoSignatureError, match="'train'"):
        work.of_signature(file, "train")


def test_a_step_is_three_passes():
    assert work.of_step(100, 8) == 2400


def _kept(trainable: str) -> int:
    found = activations.of_sample("palm_lite", trainable, 1)
    assert found is not None
    return found


def test_activations_of_a_detector():
    """All that goes into convolutions, slopes and pools; less where less trains."""
    layers = topology.draw(specs.PRESETS["palm_lite"])
    shapes = {layer.name: layer.shape for layer in layers}
    kinds = ("conv", "depthwise", "prelu", "max_pool")
    names = {n for layer in layers if layer.kind in kinds for n in layer.inputs}
    assert _kept("all") == 4 * sum(int(np.prod(shapes[n])) for n in names)
    # The grids at which the two kinds of heads begin.
    assert _kept("heads") == 4 * (24 * 24 * 128 + 12 * 12 * 256)
    assert _kept("heads") < _kept("blocks:4") < _kept("bias") <= _kept("all")


def test_activations_of_an_unknown_detector():
    assert activations.of_sample("palm_none", "all", 1) is None
