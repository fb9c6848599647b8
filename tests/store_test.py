"""Tests of the checkpoint file: its bytes, its strictness, and that it is atomic."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import random
import struct
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from checkpoints import allowance, manifest, store
from tests.soak import limits

HEADER = store.Header(
    fingerprint="ab" * 32,
    optimizer={"name": "adam", "clip_norm": 1.0},
    step=3,
    epoch=1,
    seed=7,
    random_state={"key": [1, 2]},
    classes=("a", "b"),
    extra={"best": 0.5},
)
TENSORS = {
    "stem/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "stem/kernel/m": np.full((2, 3), 0.25, np.float32),
    "step": np.array(3, np.int32),
}
VARIABLES = (
    manifest.VariableSpec("stem/kernel", (2, 3), "float32", "weight"),
    manifest.VariableSpec("stem/kernel/m", (2, 3), "float32", "slot"),
    manifest.VariableSpec("step", (), "int32", "step"),
)


class StoreTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.path = self.directory / "x.safetensors"

    def written(self, tensors=None, header=HEADER) -> bytes:
        store.save_file(self.path, TENSORS if tensors is None else tensors, header)
        return self.path.read_bytes()

    def require(self, tensors=None, header=HEADER, **changes):
        model = {
            "variables": VARIABLES,
            "fingerprint": HEADER.fingerprint,
            "optimizer": HEADER.optimizer,
        }
        store.require(tensors or TENSORS, header, **(model | changes))


class FormatTest(StoreTestCase):
    def test_bytes(self):
        data = self.written(
            {"b": np.array([1, 2], "<i4"), "a": np.array(0.5, "<f8")},
            store.Header("f", {"name": "sgd"}),
        )
        table = (
            '{"__metadata__":{"checksum":"24d8be3e",'
            '"crc32":"{\\"a\\":\\"8d3a01b8\\",\\"b\\":\\"0381177c\\"}",'
            '"format":"ondevice.checkpoint",'
            '"header":"{\\"classes\\":[],\\"epoch\\":0,\\"extra\\":{},'
            '\\"fingerprint\\":\\"f\\",\\"format_version\\":1,'
            '\\"optimizer\\":{\\"name\\":\\"sgd\\"},\\"random_state\\":null,'
            '\\"seed\\":0,\\"step\\":0}"},'
            '"a":{"data_offsets":[0,8],"dtype":"F64","shape":[]},'
            '"b":{"data_offsets":[8,16],"dtype":"I32","shape":[2]}}'
        ).encode()
        table += b" " * (-len(table) % 8)
        values = struct.pack("<dii", 0.5, 1, 2)
        self.assertEqual(data, struct.pack("<Q", len(table)) + table + values)

    def test_insertion_order_does_not_matter(self):
        turned = dict(reversed(TENSORS.items()))
        self.assertEqual(self.written(), self.written(turned))

    def test_safetensors_reads_it(self):
        self.written()
        there = safetensors.numpy.load_file(self.path)
        self.assertEqual(set(there), set(TENSORS))
        for name, value in TENSORS.items():
            np.testing.assert_array_equal(there[name], value)

    def test_round_trip(self):
        tensors = TENSORS | {
            "empty": np.zeros((0, 3), np.float16),
            "flags": np.array([True, False]),
            "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
            "big_endian": np.array([1, 2], ">i2"),
        }
        self.written(tensors)
        there, header = store.load_file(self.path)
        self.assertEqual(header, HEADER)
        self.assertEqual(set(there), set(tensors))
        for name, value in tensors.items():
            np.testing.assert_array_equal(there[name], value)
            self.assertEqual(there[name].shape, value.shape)
            self.assertEqual(there[name].dtype, value.dtype.newbyteorder("<"))
        there["stem/kernel"][0, 0] = 9  # What was loaded may be written to.


class SaveTest(StoreTestCase):
    @parameterized.named_parameters(
        ("nan", {"a": np.array([np.nan, 1])}, "'a' with 1 numbers that are not"),
        ("text", {"a": np.array(["x"])}, "'a' of dtype <U1"),
        ("name", {"__metadata__": np.zeros(1)}, "'__metadata__'"),
    )
    def test_refuses_and_keeps_the_old_file(self, tensors, message):
        before = self.written()
        with self.assertRaisesRegex(store.CheckpointError, message):
            store.save_file(self.path, tensors, HEADER)
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(os.listdir(self.directory), ["x.safetensors"])

    def test_what_could_not_be_read_is_not_written(self):
        # Each takes a hundred characters of the table, for four bytes.
        before = self.written()
        tensors = {f"block_{n}/conv/bias/adam/m": np.zeros(1) for n in range(9_000)}
        with self.assertRaisesRegex(store.CheckpointError, "many and tiny.*9000"):
            store.save_file(self.path, tensors, HEADER)
        self.assertEqual(self.path.read_bytes(), before)
        few = dict(list(tensors.items())[:4_000])
        self.written(few)
        self.assertLen(store.load_file(self.path)[0], 4_000)

    def test_refuses_a_header_that_json_cannot_hold(self):
        header = dataclasses.replace(HEADER, extra={"best": float("nan")})
        with self.assertRaisesRegex(store.CheckpointError, "JSON alone"):
            store.save_file(self.path, TENSORS, header)
        self.assertEqual(os.listdir(self.directory), [])

    @parameterized.parameters("writev", "fsync", "replace")
    def test_failure_keeps_the_old_file(self, call):
        before = self.written()
        with mock.patch.object(os, call, side_effect=OSError("disk full")):
            with self.assertRaisesRegex(OSError, "disk full"):
                self.written({"a": np.zeros(3)})
        self.assertEqual(self.path.read_bytes(), before)
        self.assertEqual(os.listdir(self.directory), ["x.safetensors"])

    def test_killed_at_any_moment_leaves_a_whole_file(self):
        loop = (
            "import sys, numpy as np\n"
            "from checkpoints import store\n"
            "h = store.Header('f', {'name': 'sgd'})\n"
            "for i in range(10 ** 9):\n"
            "    store.save_file(sys.argv[1], {'a': np.full(10 ** 6, i)}, h)\n"
        )
        generator = random.Random(3)
        values = set()
        for _ in range(4):
            command = [sys.executable, "-c", loop, str(self.path)]
            with subprocess.Popen(command) as process:
                self.path.unlink(missing_ok=True)
                while not self.path.exists():
                    self.assertIsNone(process.poll())
                    time.sleep(0.001)
                time.sleep(generator.uniform(0.01, 0.2))
                process.kill()
            value = store.load_file(self.path)[0]["a"]
            values.add(int(value[0]))
            self.assertEqual(value.min(), value.max())
        self.assertGreater(max(values), 0)


class LoadTest(StoreTestCase):
    def refuses(self, data: bytes, message: str = ""):
        self.path.write_bytes(data)
        with self.assertRaisesRegex(store.CheckpointError, message):
            store.load_file(self.path)

    @pytest.mark.no_cover  # Measured, it takes twice as long.
    def test_every_flipped_byte_is_found(self):
        data = self.written()
        for at in range(len(data)):
            for flip in (1, 0x20, 0x80):
                with self.subTest(at=at, flip=flip):
                    self.refuses(
                        data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
                    )

    def test_every_truncation_is_found(self):
        data = self.written()
        for length in range(len(data)):
            self.refuses(data[:length])
        self.refuses(data + b"\0", "must end with its last tensor")

    def test_damaged_tensors_are_named(self):
        data = bytearray(self.written())
        data[-1] ^= 1  # step
        data[-20] ^= 1  # stem/kernel/m
        self.refuses(
            bytes(data), r"x.safetensors: .*\['stem/kernel/m', 'step'\]"
        )

    def test_a_long_name_takes_little_in_errors(self):
        name = "a" * 400_000
        data = self.written({name: np.zeros(2, np.float32)})
        others = {name: np.zeros(3, np.int32), name + "b": np.zeros(1, np.int32)}
        for broken in (data[:-1] + b"\1", data.replace(b'"format"', b'"farmat"')):
            self.path.write_bytes(broken)
            read = functools.partial(store.load_file, self.path)
            self.assertFalse(limits.held(read, allowance.of(len(broken))))
        fits = functools.partial(store.require, others, None, VARIABLES, "", None)
        self.assertFalse(limits.held(fits, 2**20))
        specs = tuple(
            manifest.VariableSpec(f"{name}{end}", (1,), "float32", "weight")
            for end in ("", *range(100))
        )
        fits = functools.partial(store.require, others, None, specs, "", None)
        self.assertFalse(limits.held(fits, 2**20))
        header = dataclasses.replace(HEADER, optimizer={"name": name})
        found = store.misfits({}, header, (), HEADER.fingerprint, {"name": "adam"})
        self.assertLess(len("".join(found)), 1_000)

    @parameterized.named_parameters(
        ("text", b"Hello, this is text. " * 40, "length of its table"),
        ("length", struct.pack("<Q", 2**63) + b"{}", "length of its table"),
        ("no_json", struct.pack("<Q", 8) + b"{{{{{{{{", "no JSON"),
        ("no_object", struct.pack("<Q", 8) + b"[]      ", "no object"),
        ("deep", struct.pack("<Q", 60_000) + b"[" * 60_000, "no JSON"),
        ("no_metadata", struct.pack("<Q", 8) + b"{}      ", "__metadata__"),
    )
    def test_malformed(self, data, message):
        self.refuses(data, message)

    def test_other_safetensors_are_no_checkpoint(self):
        safetensors.numpy.save_file(TENSORS, self.path)
        self.refuses(self.path.read_bytes(), "__metadata__ None")

    def _with_table(self, change) -> bytes:
        """Returns a checkpoint whose table was changed and the checksum made good."""
        real = store._texts

        def texts(table):
            changed = dict(table)
            change(changed)
            return real(tuple(changed.items()))

        with mock.patch.object(store, "_texts", texts):
            return self.written()

    def _with_header(self, change) -> bytes:
        """The same of the header."""
        real = store._head

        def head(header, *others):
            return real(change(header), *others)

        with mock.patch.object(store, "_head", head):
            return self.written()

    @parameterized.named_parameters(
        ("overlap", "step", {"data_offsets": (44, 48)}, "'step' at 44:48, not 48"),
        ("gap", "step", {"data_offsets": (52, 56)}, "'step' at 52:56"),
        ("size", "step", {"shape": (2,)}, "'step' at 48:52"),
        ("dtype", "step", {"dtype": "X64"}, "'step' of 'X64'"),
        ("negative", "step", {"shape": (-1, -1)}, "'step' of 'I32'"),
        ("rank", "step", {"shape": (1,) * 17}, "'step' of 'I32'"),
    )
    def test_layout(self, name, fields, message):
        def change(table):
            table[name] = dataclasses.replace(table[name], **fields)

        self.refuses(self._with_table(change), message)

    def test_header_of_another_version(self):
        def change(header):
            return header.replace('"format_version":1', '"format_version":2')

        self.refuses(self._with_header(change), "format version 2")

    def test_header_faults_are_gathered(self):
        def change(header):
            return header.replace('"step":3', '"step":"3"').replace("seed", "sead")

        self.refuses(
            self._with_header(change),
            "unknown key 'sead'.*step must be int, not '3'.*lacks the key 'seed'",
        )


class RequireTest(StoreTestCase):
    def test_fits(self):
        self.require()
        self.require(optimizer=None, header=dataclasses.replace(HEADER, optimizer={}))

    def test_every_fault_is_named_at_once(self):
        tensors = {
            "stem/kernel": np.zeros((3, 2), np.float64),
            "stem/bias": np.array([np.inf], np.float32),
            "step": np.array(3, np.int32),
        }
        header = dataclasses.replace(HEADER, optimizer={"name": "sgd"})
        with self.assertRaises(store.CheckpointError) as caught:
            self.require(tensors, header, fingerprint="cd" * 32)
        for words in (
            "another model, 'abababababababab', not 'cdcdcdcdcdcdcdcd'",
            """another optimizer, {"name":"sgd"}, not {"clip_norm":1.0""",
            "missing tensors ['stem/kernel/m']",
            "surplus tensors ['stem/bias']",
            "'stem/kernel' of shape (3, 2), not (2, 3)",
            "'stem/kernel' of dtype float64, not float32",
            "'stem/bias' with 1 numbers that are not finite",
        ):
            self.assertIn(words, str(caught.exception))


if __name__ == "__main__":
    absltest.main()
