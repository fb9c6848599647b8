"""What a parsed .tflite takes of memory: never more than its reader accounts for."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
import tflite

from checkpoints import allowance, flatbuffer, tflite_file
from tests import shared_data, tflite_bytes, tflite_file_test

SCALAR = ((), "FLOAT32", 0)
BUILTIN = tflite.BuiltinOperator
COUNT = 6_000
# What is most of a file, by what `tflite_bytes.model_bytes` is given.
KINDS: dict[str, dict] = {
    "one tensor again and again": {"tensors": [SCALAR] * COUNT, "shared": True},
    "scalars": {"tensors": [SCALAR] * COUNT},
    "small shapes": {"tensors": [((1, 2, 3, 4), "FLOAT32", 0)] * COUNT},
    "large shapes": {"tensors": [((300, 1000, 1000, 1), "FLOAT32", 0)] * COUNT},
    "sparse tensors": {"tensors": [tflite_bytes.SPARSE[0]] * 4_000},
    "operators": {
        "tensors": [SCALAR] * 600,
        "operators": [(0, [300, 400, -1], [500])] * COUNT,
        "codes": [(BUILTIN.ADD, None)],
    },
    "buffers": {"buffers": [b"", b"1234"] * COUNT},
    "operator codes": {"codes": [(BUILTIN.CUSTOM, "Custom")] * COUNT},
    "metadata": {"metadata": [(f"{number:x}", 0) for number in range(COUNT)]},
    "wide names": {"metadata": [(f"\U0001f600{n:x}" * 9, 0) for n in range(COUNT)]},
}


@pytest.fixture(name="readers")
def _readers(monkeypatch):
    """The readers that are made, to see what is left of their allowance."""
    made = []
    build = flatbuffer.Reader.__init__

    def remembered(reader, data):
        build(reader, data)
        made.append(reader)

    monkeypatch.setattr(flatbuffer.Reader, "__init__", remembered)
    return made


def peak(data: bytes) -> int:
    tflite_file.parse(tflite_bytes.model_bytes())  # What is cached once.
    tracemalloc.start()
    try:
        tflite_file.parse(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def spent(reader: flatbuffer.Reader) -> int:
    return allowance.of(reader.size) - reader.size - reader._memory


@pytest.mark.no_cover  # Coverage's own memory would count.
class TestAccount:
    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_takes_more(self, readers, kind):
        data = tflite_bytes.model_bytes(**KINDS[kind])
        taken = peak(data)
        # Beside it, what lists have in reserve while tuples are made of them.
        assert spent(readers[-1]) / 4 < taken < spent(readers[-1]) + 2**18

    def test_of_a_vtable_for_each_table(self, readers):
        count = 3_000
        data = tflite_bytes.model_bytes(buffers=[b""] * count)
        # The buffers' tables are replaced by such with vtables of their own, of 15
        # fields each that lie nowhere.
        vector = _buffers(data)
        vtable = struct.pack("<HH15H", 34, 4, *[0] * 15)
        tables = b"".join(
            vtable + b"\0\0" + struct.pack("<i", 36) for _ in range(count)
        )
        edited = bytearray(data + b"\0" * (-len(data) % 4))
        start = len(edited)
        for index in range(count):
            place = vector + 4 + 4 * index
            struct.pack_into("<I", edited, place, start + 40 * index + 36 - place)
        edited += tables
        taken = peak(bytes(edited))
        assert len(readers[-1]._vtables) > count
        assert spent(readers[-1]) / 4 < taken < spent(readers[-1]) + 2**18

    @pytest.mark.parametrize("name", tflite_file_test.MODELS)
    def test_of_the_vendors_files(self, readers, name):
        data = shared_data.vendor(name).read_bytes()
        taken = peak(data)
        assert taken < spent(readers[-1]) + 2**18


@pytest.mark.parametrize("kind", ["one tensor again and again", "operators"])
def test_what_would_take_too_much_is_refused(monkeypatch, kind):
    data = tflite_bytes.model_bytes(**KINDS[kind])
    monkeypatch.setattr(allowance, "FREE_BYTES", 2**14)
    with pytest.raises(tflite_file.TfliteError, match="bytes of memory.*reached in"):
        tflite_file.parse(data)
    # Of what refers to nothing four bytes are enough for one more.
    assert tflite_file.parse(data + bytes(400 * COUNT))


def _buffers(data: bytes) -> int:
    """Where the vector of buffers begins."""
    model = tflite.Model.GetRootAs(data, 0)
    return model._tab.Vector(model._tab.Offset(12)) - 4
