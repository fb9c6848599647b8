"""Tests of checkpoints/constants.py and checkpoints/sparsity.py."""

import dataclasses

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

from checkpoints import constants, tflite_file, tflite_types
from tests import shared_data, tflite_bytes


def _file(stored, dtype, quantization=None, shape=None):
    """A file of one tensor."""
    data = np.ascontiguousarray(stored).tobytes()
    tensor = tflite_types.Tensor(
        0, "kernel", shape or np.shape(stored), (), dtype, 0, False, quantization, None
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
    "stored, dtype, given, message",
    [
        ([1], "INT8", None, "INT8 with no scale; in tensor 0 .'kernel'. of sub"),
        ([1], "BOOL", None, "BOOL with no scale; in tensor 0"),
        ([1, 2, 3], "INT8", ((1.0, 2.0), (0, 0), 0), "2 scales, 2 zero points"),
        ([1, 2], "INT8", ((1.0, 2.0), (0,), 0), "2 scales, 1 zero points"),
        ([1, 2], "INT8", ((float("nan"),), (0,), 0), "one finite scale"),
        ([1, 2], "INT8", ((), (), 0, "BlockwiseQuantization"), "with Blockwise"),
        ([1, 2, 3], "FLOAT32", None, "must have 12 bytes.*Received: 3; in tensor 0"),
        ([1, 2], "FLOAT16", ((1.0,), (0,), 0), "FLOAT16 with scales"),
    ],
)
def test_what_has_no_decoder_is_told_with_its_place(
    stored, dtype, given, message
):
    quantization = tflite_types.Quantization(*given) if given else None
    file = _file(np.array(stored, np.int8), dtype, quantization)
    with pytest.raises(tflite_types.TfliteError, match=message):
        constants.decoded(file, 0, 0)


def test_what_is_computed_is_no_weight():
    file = _file(np.zeros(2, np.float32), "FLOAT32")
    empty = dataclasses.replace(file, buffers=(tflite_types.BufferRange(0, 0),))
    with pytest.raises(tflite_types.TfliteError, match="which holds none"):
        constants.decoded(empty, 0, 0)


def test_int4_has_the_lower_half_of_a_byte_first():
    given = tflite_types.Quantization((0.5,), (), 0)
    stored = np.array([0x7F, 0x08], np.int8)  # -1, 7, -8
    found = constants.decoded(_file(stored, "INT4", given, (3,)), 0, 0)
    np.testing.assert_array_equal(found, [-0.5, 3.5, -4.0])


def _sparse(shape, order, blocks, levels, values):
    """A file of one sparse float32."""
    stored = np.array(values, "<f4").tobytes()
    row = (shape, "FLOAT32", 1, (order, blocks, levels))
    return tflite_file.parse(tflite_bytes.model_bytes((row,), (b"", stored)))


ROWS = [[0, 5, 0, 0], [0, 0, 0, 0], [6, 0, 0, 7]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_rows_of_a_sparse_matrix(dtype):
    levels = (3, ([0, 1, 1, 3], [1, 0, 3], dtype))
    file = _sparse((3, 4), (0, 1), (), levels, [5, 6, 7])
    np.testing.assert_array_equal(constants.decoded(file, 0, 0), ROWS)


def test_columns_first():
    levels = (4, ([0, 1, 2, 2, 3], [2, 0, 2], "uint8"))
    file = _sparse((3, 4), (1, 0), (), levels, [6, 5, 7])
    np.testing.assert_array_equal(constants.decoded(file, 0, 0), ROWS)


def test_blocks():
    # Blocks of 2 x 2: the first row of blocks has one in column 1, the other in 0.
    levels = (2, ([0, 1, 2], [1, 0], "uint8"), 2, 2)
    values = [1, 2, 3, 4, 5, 6, 7, 8]
    file = _sparse((4, 4), (0, 1, 2, 3), (0, 1), levels, values)
    expected = [[0, 0, 1, 2], [0, 0, 3, 4], [5, 6, 0, 0], [7, 8, 0, 0]]
    np.testing.assert_array_equal(constants.decoded(file, 0, 0), expected)


def test_a_byte_of_an_encoding_may_stand_for_256_numbers():
    levels = (1, ([0, 3], [1, 0, 3], "uint8"))  # 2 + 3 bytes, and 12 of values
    file = _sparse((1, 17 * 256), (0, 1), (), levels, [5, 6, 7])
    found = constants.decoded(file, 0, 0)
    assert found.shape == (1, 4352) and found[0, :4].tolist() == [6, 5, 0, 7]


GOOD = ([0, 1, 1, 3], [1, 0, 3], "uint8")


@pytest.mark.parametrize(
    "shape, order, blocks, levels, message",
    [
        ((3, 4), (0, 0), (), (3, GOOD), r"2 axes.*order \(0, 0\)"),
        ((3, 4), (0, 1), (), (3,), "1 levels"),
        ((3, 4), (0, 1, 2), (5,), (3, GOOD, 1), r"blocks of axes \(5,\)"),
        ((3, 4), (0, 1, 2), (1,), (3, GOOD, 3), "divide axis 1.*blocks of 3"),
        ((3, 4), (0, 1), (), (2, GOOD), "level 0 must have the 3 indices"),
        ((3, 4), (0, 1), (), (3, ([0, 3], [1, 0, 3], "uint8")), "4 segments"),
        ((3, 4), (0, 1), (), (3, ([0, 2, 1, 3], [1, 0, 3], "uint8")), "must rise"),
        ((3, 4), (0, 1), (), (3, ([0, 1, 1, 2], [1, 0, 3], "uint8")), "must rise"),
        ((3, 4), (0, 1), (), (3, ([0, 1, 1, 3], [1, 0, 4], "uint8")), r"in \[0, 4\)"),
        ((3, 4), (0, 1), (), (3, ([0, 1, 1, 3], [1, 0, -1], "int32")), "-1 to 1"),
        ((3, 4), (0, 1), (), (3, ([0, 1, 1, 3], [1, 3, 3], "uint8")), "of its own"),
        ((3, 4), (0, 1), (), (3, ([0, 1, 1, 2], [1, 0], "uint8")), "2 values"),
        ((1, 2**31 - 9), (0, 1), (), (1, ([0, 3], [1, 0, 3], "uint8")), "256 numbers"),
        ((1, 4353), (0, 1), (), (1, ([0, 3], [1, 0, 3], "uint8")), "for 17 bytes"),
        ((2**30, 2), (0, 1), (), (2**30, 2), "2147483648 values. Received: 3"),
    ],
)
def test_an_encoding_that_contradicts_itself(shape, order, blocks, levels, message):
    file = _sparse(shape, order, blocks, levels, [5, 6, 7])
    place = r"; in tensor 0 \('t0'\) of subgraph 0"
    with pytest.raises(tflite_types.TfliteError, match=f"sparse.*{message}.*{place}"):
        constants.decoded(file, 0, 0)


def test_indices_of_an_unknown_kind_are_told():
    with pytest.raises(tflite_types.TfliteError, match="level 1 of sparsity of tensor"):
        _sparse((3, 4), (0, 1), (), (3, ([0], [1], "int16")), [5])


@pytest.mark.parametrize(
    "name, decoders",
    [("face_detection_short_range", 74), ("face_detection_full_range_sparse", 182)],
)
def test_equals_what_an_interpreter_decodes(name, decoders):
    content = shared_data.vendor(name).read_bytes()
    interpreter = litert.Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=(
            litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    interpreter.allocate_tensors()
    interpreter.invoke()
    file, compared = tflite_file.parse(content), 0
    graph = file.subgraphs[0]
    for operator in graph.operators:
        tensor = graph.tensors[operator.inputs[0]]
        decoder = operator.name in ("DENSIFY", "DEQUANTIZE")
        if not decoder or not file.buffer_bytes(tensor.buffer).nbytes:
            continue
        expected = interpreter.get_tensor(operator.outputs[0]).astype(np.float32)
        found = constants.decoded(file, 0, tensor.index)
        assert found.tobytes() == expected.tobytes(), tensor.name
        compared += 1
    assert compared == decoders
