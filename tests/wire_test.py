"""Tests of the wire format of protocol buffers."""

from __future__ import annotations

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import store, wire

SCHEMA = {1: wire.VARINT, 2: wire.BYTES}


class VarintTest(parameterized.TestCase):
    @parameterized.parameters(
        (0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"),
        (2**64 - 1, "ffffffffffffffffff01"),
    )  # fmt: skip
    def test_both_ways(self, number, text):
        self.assertEqual(wire.encode_varint(number).hex(), text)
        data = b"x" + bytes.fromhex(text) + b"y"
        self.assertEqual(wire.varint(data, 1, "it"), (number, len(data) - 1))

    @parameterized.parameters("", "80", "ff" * 9, "ff" * 9 + "02", "80" * 10 + "00")
    def test_malformed(self, text):
        with self.assertRaisesRegex(store.CheckpointError, "varint.*in it"):
            wire.varint(memoryview(bytes.fromhex(text)), 0, "it")


class FieldsTest(parameterized.TestCase):
    def test_both_ways(self):
        # The examples of the encoding's specification: 150, and "testing".
        data = wire.encode(1, 150) + wire.encode(2, b"testing")
        self.assertEqual(data.hex(), "089601" + "120774657374696e67")
        found = wire.single(memoryview(data), SCHEMA, "it")
        self.assertEqual(found, {1: 150, 2: b"testing"})

    @parameterized.parameters(
        ("1a00", "field 3 of kind 2"),
        ("0d00000000", "field 1 of kind 5"),
        ("0a00", "field 1 of kind 2"),
        ("1201", "1 bytes at 2"),
        ("08", "varint"),
        ("08010801", "field 1 twice"),
    )
    def test_malformed(self, text, message):
        with self.assertRaisesRegex(store.CheckpointError, f"{message}.*in it"):
            wire.single(memoryview(bytes.fromhex(text)), SCHEMA, "it")

    def test_repeated_fields_come_one_by_one(self):
        data = memoryview(wire.encode(1, 1) + wire.encode(1, 2))
        self.assertEqual(list(wire.fields(data, SCHEMA, "it")), [(1, 1), (1, 2)])


class PackedTest(parameterized.TestCase):
    @parameterized.parameters("int8", "int16", "int32", "int64", "uint8", "uint16")
    def test_every_magnitude(self, name):
        info = np.iinfo(name)
        powers = [s * 2**p + d for p in range(64) for s in (1, -1) for d in (-1, 0, 1)]
        there = [n for n in powers if info.min <= n <= info.max] + [info.min, info.max]
        array = np.array(there, name)
        packed = wire.pack(array)
        modulo = [int(number) % 2**64 for number in there]
        self.assertEqual(packed, b"".join(map(wire.encode_varint, modulo)))
        found = wire.unpack(memoryview(packed), array.size, array.dtype, "it")
        np.testing.assert_array_equal(found, array)
        self.assertEqual(found.dtype, array.dtype)

    def test_longer_than_what_is_taken_at_a_time(self):
        array = np.random.default_rng(0).integers(-(2**62), 2**62, 70_000)
        array[::3] %= 128
        packed = memoryview(wire.pack(array))
        found = wire.unpack(packed, array.size, array.dtype, "it")
        np.testing.assert_array_equal(found, array)

    def test_none(self):
        self.assertEqual(wire.pack(np.zeros(0, np.int32)), b"")
        self.assertEqual(wire.unpack(memoryview(b""), 0, np.dtype("i4"), "").size, 0)

    @parameterized.parameters(
        ("0101", 1, "int32", "Received: 2"),
        ("01", 2, "int32", "Received: 1"),
        ("0181", 1, "int32", "a part of one"),
        ("8180808080808080808001", 1, "int64", "at most 10 bytes"),
        ("ffffffffffffffffff02", 1, "int64", "below 2..64"),
        ("02", 1, "bool", "range of bool"),
        ("ffffffffffffffffff01", 1, "bool", "-1 to -1"),
        ("8002", 1, "uint8", "256 to 256"),
        ("ffffffffffffffffff01", 1, "uint16", "-1 to -1"),
        ("8080808008", 1, "int32", "2147483648"),
    )
    def test_malformed(self, text, count, name, message):
        data = memoryview(bytes.fromhex(text))
        with self.assertRaisesRegex(store.CheckpointError, f"{message}.*in it"):
            wire.unpack(data, count, np.dtype(name), "it")


if __name__ == "__main__":
    absltest.main()
