"""Tests of what is proven of a .tflite before an interpreter is given it."""

from __future__ import annotations

import dataclasses
import re

import pytest
import tflite

from checkpoints import soundness, tflite_file
from tests import shared_data, tflite_bytes

FOUR = ((4,), "FLOAT32", 0)
CONSTANT = ((4,), "FLOAT32", 1)
NUMBERS = bytes(16)
ABS, CONV_2D, CUSTOM, DEQUANTIZE, LSTM = 101, 3, 32, 6, 16


def faults(tensors=(FOUR, FOUR, CONSTANT), operators=((0, (0,), (1,)),), **changes):
    """Of a file of one operator, unless told otherwise; its end is tensor 0."""
    named = {"codes": ((ABS, None),), "buffers": (b"", NUMBERS), **changes}
    data = tflite_bytes.model_bytes(tensors, operators=operators, **named)
    return soundness.faults(tflite_file.parse(data))


def code(number: int) -> dict:
    return {"codes": ((number, "mine" if number == CUSTOM else None),)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"signature": True},
        {"operators": ((0, (2,), (1,)),)},
        {"operators": ((0, (0, 2, -1), (1,)),), **code(CONV_2D)},
        {"operators": ((0, (0, -1, -1), (1,)),), **code(LSTM)},
        {"operators": ((0, (-1,), (1,)),), **code(CUSTOM)},
        {"tensors": (FOUR, ((0, 4), "FLOAT32", 0)), "operators": ((0, (1,), ()),)},
        {"tensors": (FOUR, FOUR, ((7,), "INT4", 1)), "buffers": (b"", bytes(4))},
        {"tensors": tflite_bytes.SPARSE, "operators": (), "buffers": (b"", b"")},
    ],
)  # fmt: skip
def test_sound(changes):
    assert faults(**changes) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"operators": ((0, (1,), (1,)),)}, r"operator 0 \(ABS\) reads tensors \[1\]"),
        ({"operators": ((0, (0,), (2,)),)}, r"operator 0 \(ABS\) writes to \[2\]"),
        ({"operators": ((0, (0,), (0,)),)}, r"writes to \[0\]"),
        ({"operators": ((0, (0,), (1, 1)),)}, "writes to one tensor twice"),
        ({"operators": ((0, (0,), (1,)),) * 2}, r"operator 1 \(ABS\) writes to \[1\]"),
        ({"operators": ((0, (-1,), (1,)),)}, r"operator 0 \(ABS\) lacks an input"),
        (
            {"operators": ((0, (0, -1, 2), (1,)),), **code(CONV_2D)},
            r"operator 0 \(CONV_2D\) lacks an input",
        ),
        ({"operators": ((0, (-1,), (1,)),), **code(LSTM)}, "lacks an input"),
        ({"tensors": (CONSTANT, FOUR)}, "input 0, which is a constant"),
        (
            {"tensors": (FOUR, FOUR, ((5,), "FLOAT32", 1))},
            r"tensor 2 of FLOAT32 \(5,\) with 16 bytes",
        ),
        (
            {"tensors": (FOUR, FOUR, ((2,), "STRING", 1))},
            "string constant of shape",
        ),
        (
            {"tensors": (FOUR, FOUR, ((2**15, 2**14, 2), "FLOAT32", 0))},
            "of 4294967296 bytes",
        ),
    ],
)
def test_unsound(changes, message):
    (found,) = faults(**changes)
    assert re.search(message, found), found


@pytest.mark.parametrize(
    "name, needed",
    [
        ("CONV_2D", 2), ("CONV_3D", 2), ("DEPTHWISE_CONV_2D", 2),
        ("FULLY_CONNECTED", 2), ("CONV_3D_TRANSPOSE", 3), ("TRANSPOSE_CONV", 3),
        ("SVDF", 1), ("LSTM", 1), ("ADD", 9),
    ],
)  # fmt: skip
def test_what_an_operator_may_do_without(name, needed):
    """Its bias, and what lies behind it; without weights it reads a null pointer."""
    kind = code(getattr(tflite.BuiltinOperator, name))
    for place in range(5):
        inputs = tuple(-1 if each == place else 2 for each in range(5))
        found = faults(operators=((0, inputs, (1,)),), **kind)
        assert any("lacks an input" in fault for fault in found) == (place < needed)


def test_outputs_and_signatures_must_be_the_subgraphs_own():
    data = tflite_bytes.model_bytes((FOUR, FOUR), signature=True)
    file = tflite_file.parse(data)
    (graph,) = file.subgraphs
    other = dataclasses.replace(graph, outputs=(1,))
    found = soundness.faults(dataclasses.replace(file, subgraphs=(other,)))
    assert found == [
        "outputs [1] that nothing made of subgraph 0",
        "output 'x' of signature 'run', tensor 0, which is no output of subgraph 0",
    ]


@pytest.mark.parametrize("calls, wrong", [
    (((1,), ()), None), (((1,), (1,)), [1]), (((1,), (0,)), [0, 1]),
    (((1, 2), (2,), ()), None), (((1,), (2,), (1,)), [1, 2]),
])  # fmt: skip
def test_no_subgraph_may_call_itself(calls, wrong):
    file = tflite_file.parse(tflite_bytes.model_bytes((FOUR,)))
    (graph,) = file.subgraphs
    graphs = tuple(
        dataclasses.replace(
            graph,
            index=index,
            operators=tuple(
                tflite_file.Operator(
                    i, "CALL_ONCE", False, (), (), {"init_subgraph_index": to}
                )
                for i, to in enumerate(called)
            ),
        )
        for index, called in enumerate(calls)
    )
    found = soundness.faults(dataclasses.replace(file, subgraphs=graphs))
    assert bool(found) == (wrong is not None)
    if wrong is not None:
        # Who calls into a cycle is told with it.
        assert set(wrong) <= set(map(int, re.findall(r"\d+", found[0])))
        with pytest.raises(tflite_file.TfliteError, match="call each other in turn"):
            soundness.require(dataclasses.replace(file, subgraphs=graphs))


def test_what_converters_made_is_sound():
    folder = shared_data.shared("models")
    paths = sorted(folder.glob("*.tflite"))
    assert paths
    for path in paths:
        assert soundness.faults(tflite_file.read(path)) == [], path
