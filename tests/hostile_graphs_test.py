"""Graphs that no converter writes take time and memory in proportion."""

from __future__ import annotations

import struct
import time
import tracemalloc

import numpy as np
import pytest
import tflite

from checkpoints import flatbuffer, operator_options, soundness, tflite_file
from checkpoints.tflite_types import (
    BufferRange,
    Operator,
    Signature,
    Subgraph,
    Tensor,
    TfliteFile,
)
from ondevice.rebuild import naming, recognition
from tests import tflite_bytes

EMPTY = BufferRange(0, 0)


def file(*graphs, signatures=()):
    return TfliteFile(graphs, signatures, {}, "", (EMPTY,), b"")


def tensors(count):
    return tuple(
        Tensor(i, "", (), (), "FLOAT32", 0, False, None, None) for i in range(count)
    )


def calls(count):
    """Subgraphs of which each calls the next."""
    return file(
        *(
            Subgraph(
                index, "", (),
                (Operator(0, "CALL_ONCE", False, (), (), {"init_subgraph_index": to}),),
                (), (),
            )
            for index, to in enumerate([*range(1, count), 0])
        )
    )  # fmt: skip


def cut(found):
    """The same, where the last one calls nobody."""
    last = found.subgraphs[-1]
    return file(*found.subgraphs[:-1], Subgraph(last.index, "", (), (), (), ()))


def read_by_signature(count):
    graph = Subgraph(0, "", tensors(1), (), (0,) * 8 * count, ())
    names = {f"{index}": 1 for index in range(count)}
    return file(graph, signatures=(Signature("run", 0, names, {}),))


def of_inputs_and_outputs(count):
    outputs = tuple(range(1, count + 1))
    operator = Operator(0, "ADD", False, (0,) * 20 * count, outputs, {})
    return file(Subgraph(0, "", tensors(count + 1), (operator,), (0,), outputs))


def seconds(act, given):
    """The least of three."""
    found = []
    for _ in range(3):
        started = time.process_time()
        act(given)
        found.append(time.process_time() - started)
    return min(found)


def recognised(given):
    with pytest.raises(recognition.UnknownDetectorError):
        recognition.recognise(given)


@pytest.mark.parametrize(
    "act, made, count",
    [
        (soundness.faults, lambda count: cut(calls(count)), 500),
        (soundness.faults, read_by_signature, 400),
        (recognised, of_inputs_and_outputs, 100),
    ],
    ids=["calls", "signature", "inputs by outputs"],
)
def test_eight_times_as_much_does_not_take_squared_as_long(act, made, count):
    assert seconds(act, made(8 * count)) < 24 * seconds(act, made(count))


def test_chains_and_circles_of_calls():
    assert soundness.faults(cut(calls(50))) == []
    (fault,) = soundness.faults(calls(50))
    assert "subgraphs [0, 1, 2, 3, 4, 5, 6, 7], which call each other" in fault


def test_faults_of_a_subgraph_end():
    operators = tuple(Operator(i, "ADD", False, (9,), (), {}) for i in range(5000))
    graph = Subgraph(0, "", tensors(10), operators, (), ())
    assert len(soundness.faults(file(graph))) == 1000


def strings(count, tensors_, text=b""):
    offsets = [4 * (count + 2) + len(text) * i for i in range(count + 1)]
    stored = struct.pack(f"<{count + 2}i", count, *offsets) + text * count
    rows = [((), "FLOAT32", 0)] + [((count,), "STRING", 1)] * tensors_
    return tflite_file.parse(tflite_bytes.model_bytes(rows, (b"", stored)))


class TestStrings:
    def test_one_buffer_of_many_tensors_is_looked_at_once(self, monkeypatch):
        looked = []
        offsets = TfliteFile.string_offsets

        def seen(given, *where):
            looked.append(where)
            return offsets(given, *where)

        monkeypatch.setattr(TfliteFile, "string_offsets", seen)
        assert soundness.faults(strings(3, 400)) == [] and len(looked) == 1

    def test_one_buffer_of_many_shapes_is_looked_at_once(self, monkeypatch):
        looked = []
        offsets = TfliteFile.string_offsets
        monkeypatch.setattr(
            TfliteFile,
            "string_offsets",
            lambda given, *where: looked.append(where) or offsets(given, *where),
        )
        stored = struct.pack("<10i", 8, *[40] * 9)
        rows = [((), "FLOAT32", 0)]
        rows += [(shape, "STRING", 1) for shape in ((8,), (2, 4), (4, 2), (1, 8))]
        given = tflite_file.parse(tflite_bytes.model_bytes(rows, (b"", stored)))
        assert soundness.faults(given) == [] and len(looked) == 1

    def test_no_string_is_made_to_prove_the_table(self):
        given = strings(100_000, 1, b"ab")
        tracemalloc.start()
        try:
            assert soundness.faults(given) == []
            assert tracemalloc.get_traced_memory()[1] < len(given.data) + 2**20
        finally:
            tracemalloc.stop()

    def test_too_many_for_their_file_are_refused(self):
        assert strings(1000, 1, b"ab").constant(0, 1)[999] == b"ab"
        with pytest.raises(tflite_file.TfliteError, match="must not take more memory"):
            strings(200_000, 1).constant(0, 1)


@pytest.mark.parametrize("paddings", [np.full((4, 2), np.nan), np.full((4, 2), np.inf)])
def test_paddings_that_are_no_integers(paddings):
    data = tflite_bytes.model_bytes(
        [((1, 2, 2, 1), "FLOAT32", 0), ((4, 2), "FLOAT32", 1), ((1, 4), "FLOAT32", 0)],
        (b"", paddings.astype("<f4").tobytes()),
        [(0, [0, 1], [2])],
        [(tflite.BuiltinOperator.PAD, None)],
    )
    given = tflite_file.parse(data)
    assert soundness.faults(given) == []
    assert naming.name_all(given)[0] is None


def test_messages_are_short():
    graph = Subgraph(0, "", tensors(1), (), (0,) * 5000, ())
    kinds = tuple(Operator(i, f"{i}" * 99, True, (), (), {}) for i in range(5000))
    strange = Subgraph(0, "", (), kinds, (), ())
    # Characters of which a repr takes ten each.
    tags = tuple(
        Operator(i, chr(65 + i) + "\U000e0001" * 100, True, (), (), {})
        for i in range(20)
    )
    for given in (file(graph), file(strange), file(Subgraph(0, "", (), tags, (), ()))):
        with pytest.raises(recognition.UnknownDetectorError) as caught:
            recognition.recognise(given)
        assert len(str(caught.value)) < 8000


class TestOptions:
    def table(self, fields, size):
        vtable = struct.pack(f"<HH{fields}H", 4 + 2 * fields, size, *[0] * fields)
        vtable += b"\0" * (-len(vtable) % 4)
        start = 4 + len(vtable)
        data = struct.pack("<I", start) + vtable + struct.pack("<i", len(vtable))
        return flatbuffer.Reader(data + bytes(size)).root()

    def test_no_more_fields_are_kept_than_there_are(self):
        assert len(self.table(30_000, 4).fields) == flatbuffer.MAX_SLOTS + 1

    def test_long_tables_are_not_looked_up_by_content(self):
        short, long = self.table(3, 1024), self.table(3, 1028)
        for table, kept in ((short, 1), (long, 0)):
            found = operator_options.decode(table, "AddOptions")
            assert found["pot_scale_int16"] is True
            assert len(table.reader.same) == kept
