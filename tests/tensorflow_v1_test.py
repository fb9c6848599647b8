"""Tests of TensorFlow's first checkpoint format, against TensorFlow and its damage."""

from __future__ import annotations

import pathlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import sorted_table, store, tensorflow_v1, wire
from ondevice.device import runtimes

DTYPES = (
    "float32", "float64", "float16", "int32", "int64", "int16", "int8", "uint8",
    "uint16", "bool",
)  # fmt: skip
SMALL = {
    "head/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head/kernel/m": np.zeros((2, 0, 3), np.float32),
    "counts": np.array([-1, 300], np.int64),
    "halves": np.array([1.5, -2], np.float16),
    "step": np.array(3, np.int32),
}
# `tf.raw_ops.Save` of TensorFlow 2.19: {"a": [1, 2] float32, "a/b": 7 int32}.
GOLDEN = bytes.fromhex(
    "0000240a220a0f0a0161120412020802180122020a000a0b0a03612f62120018032200120208"
    "01000815006100010101807f12130a016112020a001a0a2a080000803f0000004002050e2f62"
    "000100120c0a03612f6212001a033a0107000000000100000000af73cfe80000000001000000"
    "00c0f2a1b0000102010065000000000100000000d43376f96a08770e00000000000000000000"
    "000000000000000000000000000000000000000000000000000057fb808b247547db"
)


def content(tensors=SMALL) -> bytes:
    """A checkpoint as `save_file` writes it."""
    with mock.patch.object(tensorflow_v1.atomic, "write") as write:
        tensorflow_v1.save_file("x", tensors)
    return b"".join(write.call_args.args[1])


def changed(records: dict[bytes, bytes]) -> bytes:
    """A table whose checksums are right, of other records."""
    return b"".join(sorted_table.write(sorted(records.items())))


def records(tensors=SMALL) -> dict[bytes, bytes]:
    return {key: bytes(value) for key, value in sorted_table.read(content(tensors))}


def every_dtype() -> dict[str, np.ndarray]:
    """Tensors of every dtype and many shapes, more than a block of them."""
    random_ = np.random.default_rng(5)
    found = {}
    for name in DTYPES:
        dtype = np.dtype(name)
        for shape in ((), (1,), (0,), (3, 0, 2), (7, 5), (2, 3, 4, 5)):
            if dtype.kind == "f":
                array = random_.normal(size=shape).astype(dtype)
            elif dtype.kind == "b":
                array = random_.integers(0, 2, shape).astype(dtype)
            else:
                info = np.iinfo(dtype)
                array = random_.integers(info.min, info.max, shape, dtype, True)
            found[f"{name}/{'x'.join(map(str, shape)) or 'scalar'}"] = np.asarray(array)
    found |= {
        "": np.float32(1) * np.ones(2, np.float32),
        "a": np.float32([1]),
        "a\0b": np.float32([2]),
        "a/b": np.float32([3]),
        "a/b/c": np.float32([4]),
        "schicht_ü/kärnel\N{SNOWMAN}": np.float32([[5]]),
        "kernel:0": np.float64(-0.0),
        "large": random_.normal(size=(700, 1000)).astype(np.float32),
        "large/counts": random_.integers(-(2**40), 2**40, (300, 1000)),
    }
    found |= {f"many/{i}": np.full(17, i, np.int32) for i in range(800)}
    return found


def assert_same(one, two) -> None:
    assert set(one) == set(two), set(one) ^ set(two)
    for name, array in one.items():
        other = two[name]
        assert array.dtype == other.dtype and array.shape == other.shape, name
        assert array.tobytes() == other.tobytes(), name


class TensorflowTest(parameterized.TestCase):
    """Both ways against TensorFlow itself."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if "tensorflow" not in runtimes.installed():
            raise absltest.SkipTest("no tensorflow")
        cls.tensors = every_dtype()

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.path = self.directory / "checkpoint"

    def save(self, tensors, path: pathlib.Path) -> None:
        import tensorflow as tf

        tf.raw_ops.Save(
            filename=str(path),
            tensor_names=list(tensors),
            data=[tf.constant(array) for array in tensors.values()],
        )

    def test_what_it_saved_is_read(self):
        self.save(self.tensors, self.path)
        found = tensorflow_v1.load_file(self.path)
        assert_same(found, self.tensors)
        found["large"][0, 0] = 1  # What was loaded may be written to.

    def test_what_is_written_is_what_it_saves_and_restores(self):
        import tensorflow as tf

        theirs = self.directory / "theirs"
        self.save(self.tensors, theirs)
        tensorflow_v1.save_file(self.path, self.tensors)
        self.assertEqual(self.path.read_bytes(), theirs.read_bytes())
        restored = {
            name: tf.raw_ops.Restore(
                file_pattern=str(self.path),
                tensor_name=name,
                dt=tf.as_dtype(array.dtype),
            ).numpy()
            for name, array in self.tensors.items()
            if not name.startswith("many")
        }
        assert_same(restored, {name: self.tensors[name] for name in restored})

    def test_its_readers_take_it(self):
        import tensorflow as tf

        # They know no float16, uint16 and bool, whoever wrote them.
        tensors = {
            name: array
            for name, array in self.tensors.items()
            if array.dtype.name not in ("float16", "uint16", "bool")
        }
        tensorflow_v1.save_file(self.path, tensors)
        for make in (tf.train.load_checkpoint, tf.compat.v1.train.NewCheckpointReader):
            reader = make(str(self.path))
            shapes = reader.get_variable_to_shape_map()
            self.assertEqual(
                {name: tuple(shape) for name, shape in shapes.items()},
                {name: array.shape for name, array in tensors.items()},
            )
            assert_same(
                {name: np.asarray(reader.get_tensor(name)) for name in shapes}, tensors
            )

    def test_names_saved_twice_are_refused_by_name(self):
        import tensorflow as tf

        # What the overview's `weight.name` gives with Keras 3.
        tf.raw_ops.Save(
            filename=str(self.path),
            tensor_names=["bias", "kernel", "kernel", "alpha", "alpha"],
            data=[tf.ones(2)] * 5,
        )
        with self.assertRaisesRegex(
            store.CheckpointError, "'alpha' saved 2 times.*'kernel' saved 2 times"
        ):
            tensorflow_v1.load_file(self.path)

    def test_slices_and_other_dtypes_are_refused_by_name(self):
        import tensorflow as tf

        tf.raw_ops.SaveSlices(
            filename=str(self.path),
            tensor_names=["part", "whole"],
            shapes_and_slices=["4 0,2", ""],
            data=[tf.ones(2), tf.ones(2)],
        )
        with self.assertRaisesRegex(
            store.CheckpointError, "Received: 'part' in 1 slices.$"
        ):
            tensorflow_v1.load_file(self.path)
        self.save({"c": np.complex64([1]), "s": np.array([b"x"])}, self.path)
        with self.assertRaisesRegex(
            store.CheckpointError, "'c' of dtype complex64; 's' of dtype string"
        ):
            tensorflow_v1.load_file(self.path)

    def test_dtypes_have_its_numbers(self):
        import tensorflow as tf

        named = {**tensorflow_v1._DTYPES, **tensorflow_v1._OTHERS}
        # All that it had before resources, but bfloat16, which Save refuses.
        self.assertEqual(named.keys(), {*range(1, 20)} - {14})
        for number, name in named.items():
            self.assertEqual(tf.as_dtype(number).name, name)

    def test_its_second_format_is_named(self):
        import tensorflow as tf

        tf.raw_ops.SaveV2(
            prefix=str(self.path),
            tensor_names=["a"],
            shape_and_slices=[""],
            tensors=[tf.ones(2)],
        )
        with self.assertRaisesRegex(store.CheckpointError, "second format"):
            tensorflow_v1.load_file(f"{self.path}.index")


class SaveTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("dtype", {"a": np.zeros(1, np.uint32)}, "'a' of dtype uint32"),
        ("text", {"a": np.array(["x"])}, "'a' of dtype <U1"),
        ("nan", {"a": np.array([np.nan])}, "'a' with 1 numbers that are not finite"),
        ("rank", {"a": np.zeros((1,) * 17, np.float32)}, "'a' of shape"),
        ("name", {"\ud800": np.zeros(1)}, "no text"),
        ("long", {"a" * 65_537: np.zeros(1)}, "'a{80}', .* longer than 65536 bytes"),
        ("nothing", {}, "Received: 0 tensors"),
    )
    def test_refuses_and_keeps_the_old_file(self, tensors, message):
        path = pathlib.Path(self.create_tempdir().full_path) / "x"
        path.write_bytes(b"old")
        with self.assertRaisesRegex(store.CheckpointError, message):
            tensorflow_v1.save_file(path, tensors)
        self.assertEqual(path.read_bytes(), b"old")
        self.assertLen(list(path.parent.iterdir()), 1)

    def test_tensors_too_long_for_a_message(self):
        with mock.patch.object(tensorflow_v1, "MAX_MESSAGE", 1000):
            content({"a": np.zeros(99, np.float32)})
            with self.assertRaisesRegex(store.CheckpointError, "'a' of shape"):
                content({"a": np.zeros(100, np.float32)})

    def test_integers_of_a_byte_that_become_eight(self):
        half = tensorflow_v1.MAX_INTEGERS // 2
        tensors = {"a": np.zeros(half, np.int64), "b": np.ones(half, np.int32)}
        data = content(tensors)
        self.assertLess(len(data), 1.1 * 2 * half)
        self.assertLen(tensorflow_v1.parse(data), 2)
        with mock.patch.object(tensorflow_v1, "MAX_INTEGERS", 2 * half - 1):
            with self.assertRaisesRegex(store.CheckpointError, f"{2 * half} integers"):
                tensorflow_v1.parse(data)
            with self.assertRaisesRegex(store.CheckpointError, f"{2 * half} integers"):
                content(tensors)
        # Others take no more than twice their bytes in the file.
        content({"a": np.zeros(4 * half, np.uint8), "b": np.zeros(4 * half)})

    def test_order_and_byte_order_do_not_matter(self):
        turned = {n: a.astype(a.dtype.newbyteorder(">")) for n, a in SMALL.items()}
        self.assertEqual(content(dict(reversed(turned.items()))), content())
        transposed = SMALL | {"head/kernel": np.asfortranarray(SMALL["head/kernel"])}
        self.assertEqual(content(transposed), content())


class ParseTest(parameterized.TestCase):
    def refuses(self, data: bytes, message: str) -> None:
        with self.assertRaisesRegex(store.CheckpointError, message) as caught:
            tensorflow_v1.parse(data)
        self.assertNotIn("\n", str(caught.exception))

    def test_bytes_that_tensorflow_wrote(self):
        expected = {"a": np.float32([1, 2]), "a/b": np.array(7, np.int32)}
        assert_same(tensorflow_v1.parse(GOLDEN), expected)
        self.assertEqual(content(expected), GOLDEN)

    def test_load_file_names_the_file(self):
        path = self.create_tempfile("x", b"some text".decode()).full_path
        with self.assertRaisesRegex(store.CheckpointError, f"^{path}: .*magic"):
            tensorflow_v1.load_file(path)
        with self.assertRaises(FileNotFoundError):
            tensorflow_v1.load_file(f"{path}y")

    def test_records_must_be_those_of_the_table_of_contents(self):
        there = records()
        last = max(there)
        self.refuses(changed({k: v for k, v in there.items() if k != last}), "'step'")
        self.refuses(changed({k: v for k, v in there.items() if k}), "no table of")
        self.refuses(changed({}), "no table of")
        self.refuses(changed(there | {last + b"\1": there[last]}), "does not list")
        key = next(key for key in there if b"halves" in key)
        self.refuses(changed(there | {key: there[last]}), "another name.*'halves'")
        renamed = there[key].replace(b"halves", b"halvez")
        self.refuses(changed(there | {key: renamed}), "another name.*'halves'")
        name, numbers = wire.encode(1, b"halves"), wire.encode(3, b"\x6a\2\1\1")
        for extents in (b"", b"\x0a\0\x0a\0", b"\x0a\2\x10\2"):
            data = wire.encode(2, name + wire.encode(2, extents) + numbers)
            self.refuses(changed(there | {key: data}), "or a slice.*'halves'")

    @parameterized.named_parameters(
        ("twice", [("a", b"", 1, [b""])] * 2, "'a' twice"),
        ("no_slice", [("a", b"", 1, [])], "without a slice"),
        ("part", [("a", b"\x12\2\x08\4", 1, [b"\x0a\2\x10\2"])], "'a' in 1 slices"),
        ("unknown", [("a", b"", 99, [b""])], "'a' of dtype 99"),
        ("negative", [("a", b"\x12\x0b\x08" + b"\xff" * 9 + b"\1", 1, [b""])], "shape"),
        ("huge", [("a", 2 * b"\x12\4\x08\xff\xff\3", 1, [b""])], "a shape that begins"),
        ("rank", [("a", 17 * b"\x12\2\x08\1", 1, [b""])], "a shape that begins"),
        ("slices", [("a", b"", 1, [b""] * 1001)], "'a' in more than 1000 slices"),
        ("extents", [("a", b"", 1, [b"\x0a\0" * 17])], "'a' in 1 slices"),
        ("name", [("a" * 65_537, b"", 1, [b""])], "a name of 65537 bytes, more than"),
        ("wide", [(f"{n}" + "a" * 30_000 + "\U0001f600", b"", 1, [b""])
         for n in range(30)], "too many characters beyond"),
        ("twenty", [(str(n), b"", 99, [b""]) for n in range(30)], "'19' of dtype 99.$"),
        ("dimension", [("a", b"\x12\2\x12\0", 1, [b""])], "field 2 of kind 2"),
    )
    def test_tables_of_contents(self, entries, message):
        listed = b"".join(
            wire.encode(
                1,
                wire.encode(1, name.encode())
                + wire.encode(2, shape)
                + wire.encode(3, dtype)
                + b"".join(wire.encode(4, one) for one in slices),
            )
            for name, shape, dtype, slices in entries
        )
        self.refuses(changed({b"": wire.encode(1, listed)}), message)

    def test_versions_and_names(self):
        newer = wire.encode(2, wire.encode(2, 2))
        self.refuses(changed({b"": wire.encode(1, newer)}), "versions {2: 2}")
        twice = wire.encode(2, b"") * 2
        self.refuses(changed({b"": wire.encode(1, twice)}), "versions")
        named = wire.encode(1, wire.encode(1, b"\xff"))
        self.refuses(changed({b"": wire.encode(1, named)}), "not UTF-8")
        again = wire.encode(1, wire.encode(3, 1) * 2)
        self.refuses(changed({b"": wire.encode(1, again)}), "field 3 of an entry twice")
        five = content({str(i): np.zeros(1, np.float32) for i in range(5)})
        with mock.patch.object(tensorflow_v1, "MAX_TENSORS", 4):
            self.refuses(five, "more than 4 tensors")

    @parameterized.named_parameters(
        ("short", "head/kernel", wire.encode(5, bytes(20)), "20 bytes for the shape"),
        ("other_field", "head/kernel", wire.encode(6, bytes(24)), "field 6"),
        ("number", "step", wire.encode(7, b"\1\1"), "must be 1 packed numbers"),
        ("range", "halves", wire.encode(13, b"\1\xff\xff\4"), "range of uint16"),
        ("missing", "counts", b"", "must be 2 packed numbers"),
        ("surplus", "head/kernel/m", wire.encode(5, bytes(4)), "4 bytes for the shape"),
    )
    def test_numbers(self, name, numbers, message):
        there = records()
        rank = SMALL[name].ndim
        whole = wire.encode(2, wire.encode(1, b"") * rank)
        data = wire.encode(1, name.encode()) + whole + wire.encode(3, numbers)
        (key,) = (k for k in there if k[1:].startswith(name.encode() + b"\0\1"))
        self.refuses(changed(there | {key: wire.encode(2, data)}), message)


if __name__ == "__main__":
    absltest.main()
