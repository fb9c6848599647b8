"""Tests of recognising, fitting, writing and averaging checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import interchange, manifest, store, tensorflow_v1
from tests import checkpoint_data
from tests.soak import limits


class InterchangeTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.tensors = checkpoint_data.tensors()

    def path(self, name: str) -> pathlib.Path:
        return self.directory / name

    def saved(self, name: str, tensors=None, header=checkpoint_data.HEADER):
        tensors = self.tensors if tensors is None else tensors
        store.save_file(self.path(name), tensors, header)
        return self.path(name)

    def assert_same(self, one, two):
        self.assertEqual(set(one), set(two))
        for name, array in one.items():
            self.assertEqual(array.dtype, two[name].dtype)
            self.assertEqual(array.tobytes(), two[name].tobytes(), name)


class LoadTest(InterchangeTestCase):
    def test_formats_are_told_by_their_content(self):
        found = interchange.load_file(self.saved("x.ckpt"))
        self.assertEqual(found.format, interchange.ONDEVICE)
        self.assertEqual(found.header, checkpoint_data.HEADER)
        self.assert_same(found.tensors, self.tensors)
        path = self.path("y.safetensors")
        tensorflow_v1.save_file(path, self.tensors)
        found = interchange.load_file(path)
        self.assertEqual((found.format, found.header), (interchange.TENSORFLOW, None))
        self.assert_same(found.tensors, self.tensors)

    def test_a_table_whose_length_begins_with_zeros_is_ours(self):
        # Its first two bytes are those of the other format.
        def length(blanks: int) -> int:
            extra = {"note": " " * blanks}
            header = dataclasses.replace(checkpoint_data.HEADER, extra=extra)
            data = self.saved("x", header=header).read_bytes()
            return int.from_bytes(data[:8], "little")

        blanks = 2**16 - length(0) % 2**16
        self.assertEqual(length(blanks), 2**16)
        self.assertEqual(self.path("x").read_bytes()[:2], b"\0\0")
        self.assertEqual(interchange.load_file(self.path("x")).format, "ondevice")

    @parameterized.parameters(
        (b"", "nothing"),
        (b"some text", b"some text".hex()),
        (b"\0", "00"),
        (b"\xff" * 100, "ff" * 9),
    )
    def test_neither(self, data, told):
        self.path("x").write_bytes(data)
        message = rf"one of ours, or of Tensor.*begins with {told}\."
        with self.assertRaisesRegex(store.CheckpointError, message):
            interchange.load_file(self.path("x"))

    def test_damage_is_told_by_the_format(self):
        data = self.saved("x").read_bytes()
        self.path("x").write_bytes(data[:-1])
        with self.assertRaisesRegex(store.CheckpointError, "its last tensor"):
            interchange.load_file(self.path("x"))
        tensorflow_v1.save_file(self.path("y"), self.tensors)
        data = self.path("y").read_bytes()
        self.path("y").write_bytes(data[:-1])
        with self.assertRaisesRegex(store.CheckpointError, "sorted table"):
            interchange.load_file(self.path("y"))


class SaveTest(InterchangeTestCase):
    @parameterized.parameters(*interchange.FORMATS)
    def test_what_is_written_is_read_back(self, kind):
        size = interchange.save_file(
            self.path("x"), kind, self.tensors, checkpoint_data.HEADER
        )
        self.assertEqual(size, self.path("x").stat().st_size)
        found = interchange.load_file(self.path("x"))
        self.assertEqual(found.format, kind)
        self.assert_same(found.tensors, self.tensors)

    @parameterized.parameters(*interchange.FORMATS)
    def test_another_number_read_back_is_an_error(self, kind):
        moved = self.tensors | {"stem/kernel": self.tensors["stem/kernel"] + 1}
        read = interchange.Checkpoint(kind, moved, checkpoint_data.HEADER)
        with (
            mock.patch.object(interchange, "load_file", return_value=read),
            self.assertRaisesRegex(store.CheckpointError, "differs in .'stem/kernel'"),
        ):
            interchange.save_file(
                self.path("x"), kind, self.tensors, checkpoint_data.HEADER
            )


class FitTest(InterchangeTestCase):
    def fit(self, tensors, *args, header=None) -> interchange.Fitted:
        kind = interchange.TENSORFLOW if header is None else interchange.ONDEVICE
        read = interchange.Checkpoint(kind, tensors, header)
        return interchange.fit(read, checkpoint_data.MANIFEST, *args)

    def refuses(self, message, *args, **kwargs):
        with self.assertRaisesRegex(store.CheckpointError, message):
            self.fit(*args, **kwargs)

    def test_a_header_comes_from_the_model_where_there_is_none(self):
        found = self.fit(self.tensors)
        self.assert_same(found.tensors, self.tensors)
        self.assertEqual(found.zeroed, ())
        self.assertEqual(
            found.header,
            store.Header(
                fingerprint=checkpoint_data.MANIFEST.fingerprint,
                optimizer=checkpoint_data.MANIFEST.optimizer,
                step=3,
                classes=("a", "b"),
            ),
        )

    def test_a_header_that_there_is_stays(self):
        header = dataclasses.replace(checkpoint_data.HEADER, epoch=7, seed=4)
        self.assertEqual(self.fit(self.tensors, header=header).header, header)
        other = dataclasses.replace(header, fingerprint="cd" * 32)
        self.refuses("another model", self.tensors, header=other)
        other = dataclasses.replace(header, optimizer={"name": "sgd"})
        self.refuses("another optimizer", self.tensors, header=other)

    def test_every_fault_is_in_one_error(self):
        wrong = self.tensors | {
            "stem/kernel": np.zeros((3, 2), np.float32),
            "stem/bias": np.zeros(2, np.float64),
            "head/kernel": np.full((3, 1), np.nan, np.float32),
            "other": np.zeros(1),
        }
        del wrong["step"]
        self.refuses(
            "missing tensors .'step'.*surplus tensors .'other'.*'stem/bias' of dtype "
            "float64.*'stem/kernel' of shape .3, 2., not .2, 3..*'head/kernel' with 3 "
            "numbers",
            wrong,
        )

    def test_missing_slots_are_refused_unless_they_may_be_zero(self):
        weights = checkpoint_data.weights()
        self.refuses("missing .*7 of the missing ones are slots.*=zero", weights)
        found = self.fit(weights, (), True)
        zeros = {name: np.zeros_like(array) for name, array in self.tensors.items()}
        expected = zeros | weights
        self.assert_same(found.tensors, expected)
        self.assertEqual(found.zeroed, tuple(sorted(set(self.tensors) - set(weights))))
        self.assertEqual(found.header.step, 0)
        del weights["stem/bias"]  # A weight is never made up.
        self.refuses("missing tensors .'stem/bias'.\\.$", weights, (), True)

    def test_zeros_are_bounded_by_the_checkpoint(self):
        own = checkpoint_data.MANIFEST
        weights = {"w": np.zeros(2**20, np.float32)}
        given = interchange.Checkpoint(interchange.TENSORFLOW, weights, None)
        for size, fits in ((3 * 2**20 + 2**21, True), (2**31, False)):
            variables = (
                manifest.VariableSpec("w", (2**20,), "float32", manifest.WEIGHT),
                manifest.VariableSpec("m", (size,), "float32", manifest.SLOT),
                manifest.VariableSpec("n", (2**31,), "float64", manifest.SLOT),
            )[: 2 if fits else 3]
            model = dataclasses.replace(own, variables=variables)
            read = functools.partial(interchange.fit, given, model, (), True)
            self.assertEqual(limits.held(read, 2**25), fits)
        with self.assertRaisesRegex(
            store.CheckpointError, "25769803776 bytes of missing slots, more than 2097"
        ):
            read()

    def test_missing_statistics_are_never_made_up(self):
        state = manifest.VariableSpec("norm/mean", (3,), "float32", manifest.STATE)
        own = checkpoint_data.MANIFEST
        own = dataclasses.replace(own, variables=(*own.variables, state))
        given = interchange.Checkpoint(
            interchange.TENSORFLOW, checkpoint_data.weights(), None
        )
        with self.assertRaisesRegex(store.CheckpointError, "missing .*'norm/mean'"):
            interchange.fit(given, own, (), True)

    def test_renames(self):
        overview = {f"{name}:0": array for name, array in self.tensors.items()}
        renames = [(f"{name}:0", name) for name in self.tensors]
        self.assert_same(self.fit(overview, renames).tensors, self.tensors)
        self.assert_same(self.fit(overview, [("*:0", "*")]).tensors, self.tensors)
        m, v = "stem/kernel/m", "stem/kernel/v"
        found = self.fit(self.tensors, [(m, v), (v, m)]).tensors
        self.assertIs(found["stem/kernel/m"], self.tensors["stem/kernel/v"])

    @parameterized.parameters(
        ([("absent", "stem/kernel")], "no tensor 'absent' to rename"),
        ([("stem/kernel/m", "stem/kernel/v")], "two tensors that are 'stem/kernel/v'"),
        (
            [("stem/kernel/m", "x"), ("stem/kernel/v", "x")],
            "two tensors that are 'x'.*surplus tensors .'x'",
        ),
        ([("step", "x"), ("step", "y")], "'step' renamed twice"),
        ([("absent*", "*")], "no tensor 'absent[*]' to rename"),
        ([("step*step", "*")], "no tensor 'step[*]step' to rename"),
        ([("*", "x")], "each must have one [*]"),
        ([("*e*", "*")], "each must have one [*]"),
        ([("step", "x"), ("*", "*")], "surplus .*'x'"),
    )
    def test_renames_that_find_nothing_or_collide(self, renames, message):
        self.refuses(message, self.tensors, renames)


class AverageTest(InterchangeTestCase):
    def other(self) -> dict[str, np.ndarray]:
        return {
            name: array if array.dtype.kind != "f" else array * 3 + 1
            for name, array in self.tensors.items()
        }

    def average(self, *tensors, shares=(1, 1)) -> interchange.Fitted:
        paths = [self.saved(str(i), each) for i, each in enumerate(tensors)]
        return interchange.average(paths, shares)

    @parameterized.parameters((1, 1), (0.2, 0.8), (2, 8), (1, 0))
    def test_weights_are_averaged_and_the_rest_is_zero(self, *shares):
        other = self.other()
        found = self.average(self.tensors, other, shares=shares)
        one, two = (share / sum(shares) for share in shares)
        self.assertEqual(set(found.tensors), set(self.tensors))
        for name, array in found.tensors.items():
            self.assertEqual(array.dtype, self.tensors[name].dtype)
            if name in checkpoint_data.weights():
                parts = [one * self.tensors[name].astype(np.float64)]
                parts.append(two * other[name].astype(np.float64))
                expected = sum(parts).astype(np.float32)
                np.testing.assert_array_equal(array, expected, name)
                self.assertNotIn(name, found.zeroed)
            else:
                self.assertFalse(array.any(), name)
                self.assertIn(name, found.zeroed)
        header = checkpoint_data.HEADER
        self.assertEqual(
            found.header,
            store.Header(header.fingerprint, header.optimizer, classes=header.classes),
        )

    def test_is_exact_in_float64(self):
        # In float32 the sum of these loses the small ones.
        few = {"a": np.float32([2**25])}, {"a": np.float32([1])}, {"a": np.float32([1])}
        found = self.average(*few, few[1], shares=(1, 1, 1, 1))
        self.assertEqual(found.tensors["a"][0], np.float32((2**25 + 3) / 4))
        fourth = self.average({"a": np.float32([3e38])}, {"a": np.float32([3e38])})
        self.assertEqual(fourth.tensors["a"][0], np.float32(3e38))

    def test_all_in_which_they_differ_is_told(self):
        wrong = self.other() | {"stem/bias": np.zeros(4, np.float32)}
        del wrong["head/kernel"]
        header = dataclasses.replace(
            checkpoint_data.HEADER,
            fingerprint="cd" * 32,
            optimizer={"name": "sgd"},
            classes=("b",),
        )
        paths = [self.saved("a"), self.saved("b", wrong, header)]
        with self.assertRaisesRegex(
            store.CheckpointError,
            "/b with another model.*another optimizer.*missing tensors .'head/kernel'.*"
            "'stem/bias' of shape .4,.*the classes .'b'",
        ):
            interchange.average(paths, (1, 1))

    def test_integers_have_no_mean(self):
        one = {"count": np.array([1, 2]), "w": np.float32([1])}
        two = {"count": np.array([1, 3]), "w": np.float32([3])}
        found = self.average(one, two | {"count": one["count"]})
        np.testing.assert_array_equal(found.tensors["count"], [1, 2])
        np.testing.assert_array_equal(found.tensors["w"], [2])
        with self.assertRaisesRegex(store.CheckpointError, "'count' of int64.*no mean"):
            self.average(one, two)

    def test_the_other_format_has_no_header(self):
        tensorflow_v1.save_file(self.path("x"), self.tensors)
        pair = self.path("x"), self.saved("a")
        for paths in (pair, pair[::-1]):
            with self.assertRaisesRegex(store.CheckpointError, "no header.*--to=ondev"):
                interchange.average(paths, (1, 1))

    def test_names_that_may_be_a_slots_or_a_weights(self):
        nested = self.tensors | {"stem/kernel/scale": np.ones(2, np.float32)}
        with self.assertRaisesRegex(store.CheckpointError, "the same slots.*'scale'"):
            self.average(nested, nested)
        plain = {"a": np.float32([1]), "a/b": np.float32([2]), "c": np.float32([3])}
        with self.assertRaisesRegex(store.CheckpointError, "the same slots"):
            self.average(plain, plain)

    def test_many_slots_and_classes_are_told_in_short(self):
        slots = {f"a/{i}{'b' * 99}": np.float32([2]) for i in range(200)}
        plain = {"a": np.float32([1]), "c": np.float32([3])}
        header = dataclasses.replace(
            checkpoint_data.HEADER, classes=("d" * 9_000,) * 20
        )
        paths = [self.saved("a"), self.saved("b", header=header)]
        with self.assertRaisesRegex(store.CheckpointError, "the classes") as classes:
            interchange.average(paths, (1, 1))
        with self.assertRaisesRegex(store.CheckpointError, "the same slots") as same:
            self.average(plain | slots, plain | slots)
        for caught in (classes, same):
            self.assertLess(len(str(caught.exception)), 1_000)

    def test_a_model_tells_slots_from_weights(self):
        roles = {"a": "weight", "a/b": "slot", "c": "state", "step": "step"}
        made = checkpoint_data.MANIFEST
        variables = tuple(
            manifest.VariableSpec(n, (1,) if n != "step" else (), "float32", role)
            for n, role in roles.items()
        )
        described = dataclasses.replace(made, variables=variables)
        paths = [
            self.saved(str(i), {v.name: np.full(v.shape, i, "f4") for v in variables})
            for i in (1, 3)
        ]
        found = interchange.average(paths, (1, 1), described)
        self.assertEqual(found.zeroed, ("a/b", "step"))
        self.assertEqual([found.tensors[n].sum() for n in roles], [2, 0, 2, 0])
        with self.assertRaisesRegex(store.CheckpointError, "missing"):
            interchange.average(paths, (1, 1), made)


class DataTest(absltest.TestCase):
    def test_the_manifest_is_one(self):
        text = manifest.to_json(checkpoint_data.MANIFEST)
        self.assertEqual(manifest.from_json(text), checkpoint_data.MANIFEST)


if __name__ == "__main__":
    absltest.main()
