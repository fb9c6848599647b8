"""Tests of checkpoints/constants.py."""

import dataclasses

import numpy as np
import pytest

from checkpoints import constants, tflite_types


def _file(stored, dtype, quantization=None, sparse=False):
    """A file of one tensor."""
    data = np.ascontiguousarray(stored).tobytes()
    tensor = tflite_types.Tensor(
        0, "kernel", np.shape(stored), (), dtype, 0, False, quantization, sparse
    )
    graph = tflite_types.Subgraph(0, "", (tensor,), (), (), ())
    buffers = (tflite_types.BufferRange(0, len(data)),)
    return tflite_types.TfliteFile((graph,), (), {}, "", buffers, data)


def test_floats_are_themselves():
    values = np.array([[1.5, -2.25], [3e-5, 0.0]], np.float16)
    found = constants.decoded(_file(values, "FLOAT16"), 0, 0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)
    single = np.array([0.1, -7], np.float32)
    found = constants.decoded(_file(single, "FLOAT32"), 0, 0)
    np.testing.assert_array_equal(found, single)


def test_integers_by_the_tensors_one_scale():
    given = tflite_types.Quantization((0.5,), (-3,), 0)
    stored = np.array([-3, 1, 127], np.int8)
    found = constants.decoded(_file(stored, "INT8", given), 0, 0)
    np.testing.assert_array_equal(found, [0.0, 2.0, 65.0])


@pytest.mark.parametrize(
    "axis, expected", [(0, [[2, 4], [12, 16]]), (1, [[2, 8], [6, 16]])]
)
def test_integers_by_a_scale_for_each_index_of_an_axis(axis, expected):
    given = tflite_types.Quantization((2.0, 4.0), (0, 0), axis)
    stored = np.array([[1, 2], [3, 4]], np.int32)
    found = constants.decoded(_file(stored, "INT32", given), 0, 0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "stored, dtype, given, sparse, message",
    [
        ([1], "INT8", None, False, "INT8 with no scale; in tensor 0 .'kernel'. of sub"),
        ([1], "BOOL", None, False, "BOOL with no scale; in tensor 0"),
        ([1, 2, 3], "INT8", ((1.0, 2.0), (0, 0), 0), False, "2 scales, 2 zero points"),
        ([1, 2], "INT8", ((1.0, 2.0), (0,), 0), False, "2 scales, 1 zero points"),
        ([1, 2], "INT8", ((float("nan"),), (0,), 0), False, "one finite scale"),
        ([1, 2], "INT8", ((1.0,), (0,), 0), True, "sparse INT8; in tensor 0"),
    ],
)
def test_what_has_no_decoder_is_told_with_its_place(
    stored, dtype, given, sparse, message
):
    quantization = tflite_types.Quantization(*given) if given else None
    file = _file(np.array(stored, np.int8), dtype, quantization, sparse)
    with pytest.raises(tflite_types.TfliteError, match=message):
        constants.decoded(file, 0, 0)


def test_what_is_computed_is_no_weight():
    file = _file(np.zeros(2, np.float32), "FLOAT32")
    empty = dataclasses.replace(file, buffers=(tflite_types.BufferRange(0, 0),))
    with pytest.raises(tflite_types.TfliteError, match="which holds none"):
        constants.decoded(empty, 0, 0)
