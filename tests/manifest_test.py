"""Tests of the manifest: its JSON, and that every fault is named at once."""

from __future__ import annotations

import dataclasses
import functools
import json

from absl.testing import absltest, parameterized

from checkpoints import allowance, manifest, tflite_file
from tests import tflite_bytes
from tests.soak import limits


def example(**changes) -> manifest.Manifest:
    """Returns a small manifest of a trainable file."""
    spec = manifest.TensorSpec
    values = {
        "kind": "trainable",
        "source": {"name": "x.tflite", "sha256": "00"},
        "spec": "keras",
        "classes": ("a", "b"),
        "input_size": 8,
        "input_range": (0.0, 1.0),
        "anchors": {"strides": [8, 16]},
        "keypoints": 7,
        "trainable": "all",
        "optimizer": {"name": "sgd", "clip_norm": None},
        "batch_size": 2,
        "ops": "builtin",
        "signatures": (
            manifest.SignatureSpec("infer", (spec("image", (1, 8, 8, 3)),), ()),
        ),
        "variables": (
            manifest.VariableSpec("stem/kernel", (2, 3), "float32", "weight", 0),
            manifest.VariableSpec("step", (), "int32", "step", 1),
        ),
        "constants": (manifest.ConstantSpec("stem/kernel", 1, (3, 2), (1, 0)),),
        "fingerprint": "ab",
        "census": {"CONV_2D": 1},
        "versions": {"tensorflow": "2.19.1"},
        "losses": {"score": 1.0, "box": 0.5},
    }
    return manifest.Manifest(**(values | changes))


def _signature(name, shape, dtype="float32") -> manifest.SignatureSpec:
    """Of one tensor, an input where it is called x."""
    spec = (manifest.TensorSpec(name, shape, dtype),)
    return manifest.SignatureSpec("infer", *((spec, ()) if name == "x" else ((), spec)))


class JsonTest(parameterized.TestCase):
    def test_round_trip(self):
        there = manifest.from_json(manifest.to_json(example()))
        self.assertEqual(there, example())
        self.assertIsInstance(there.variables[0].shape, tuple)

    def test_a_variable_lies_nowhere_before_there_is_a_file(self):
        spec = manifest.VariableSpec("step", (), "int32", "step")
        text = manifest.to_json(example(variables=(spec,)))
        self.assertIn('"buffer":-1', text)
        self.assertEqual(manifest.from_json(text).variables, (spec,))

    def test_the_form_of_the_heads_is_told_where_it_is_not_the_usual_one(self):
        self.assertNotIn('"heads"', manifest.to_json(example()))
        text = manifest.to_json(example(heads=manifest.PLAIN))
        self.assertIn('"heads":"plain"', text)
        self.assertEqual(manifest.from_json(text).heads, manifest.PLAIN)
        with self.assertRaisesRegex(manifest.ManifestError, "heads 'curly', none of"):
            manifest.from_json(text.replace("plain", "curly"))

    def test_the_target_is_told_where_it_is_not_any(self):
        self.assertNotIn('"target"', manifest.to_json(example()))
        text = manifest.to_json(example(target=manifest.TFLITE_RUNTIME))
        self.assertIn('"target":"tflite_runtime"', text)
        self.assertEqual(manifest.from_json(text).target, manifest.TFLITE_RUNTIME)

    def test_whole_numbers_serve_as_floats(self):
        text = manifest.to_json(example(input_range=(-1, 1)))
        low = manifest.from_json(text).input_range[0]
        self.assertIsInstance(low, float)

    def test_equal_manifests_give_equal_text(self):
        turned = example(census={"B": 1, "A": 2})
        straight = example(census={"A": 2, "B": 1})
        self.assertEqual(manifest.to_json(turned), manifest.to_json(straight))

    def test_every_fault_is_named_at_once(self):
        value = json.loads(manifest.to_json(example()))
        del value["spec"]
        value["colour"] = "blue"
        value["batch_size"] = True
        value["variables"][0]["shape"] = [2, "3"]
        with self.assertRaises(manifest.ManifestError) as caught:
            manifest.from_json(json.dumps(value))
        for words in (
            "lacks the key 'spec'",
            "unknown key 'colour'",
            "manifest.batch_size must be int, not True",
            "manifest.variables[0].shape[1] must be int, not '3'",
        ):
            self.assertIn(words, str(caught.exception))

    @parameterized.named_parameters(
        ("version", {"version": 2}, "version 2"),
        ("kind", {"kind": "other"}, "kind 'other'"),
        ("ops", {"ops": "flex"}, "ops 'flex'"),
        ("target", {"target": "phone"}, "target 'phone'"),
        ("classes_twice", {"classes": ("a", "a")}, "classes with one name twice"),
        (
            "role",
            {"variables": (manifest.VariableSpec("a", (), "float32", "hat"),)},
            "role 'hat'",
        ),
        (
            "dtype",
            {"variables": (manifest.VariableSpec("a", (), "float31", "slot"),)},
            "dtype 'float31'",
        ),
        (
            "shape",
            {"variables": (manifest.VariableSpec("a", (-1,), "float32", "slot"),)},
            "shape",
        ),
        (
            "elements",
            {"variables": (manifest.VariableSpec("a", (2**20,) * 3, "int32", "slot"),)},
            r"shape \(1048576, 1048576, 1048576\) of 'a'",
        ),
        (
            "permutation",
            {"constants": (manifest.ConstantSpec("a", 0, (1, 1), (0, 2)),)},
            r"permutation \(0, 2\)",
        ),
        (
            "shape_of_an_input",
            {"signatures": (_signature("x", (-1, 8)),)},
            r"shape \(-1, 8\) of 'infer.x'",
        ),
        (
            "dtype_of_an_output",
            {"signatures": (_signature("y", (8,), "float31"),)},
            "dtype 'float31' of 'infer.y'",
        ),
    )
    def test_contradictions(self, changes, message):
        with self.assertRaisesRegex(manifest.ManifestError, message):
            manifest.from_json(manifest.to_json(example(**changes)))

    @parameterized.named_parameters(
        ("empty", "", "no JSON"),
        ("list", "[]", "must be an object"),
        ("bytes", b"\xff\xfe", "no JSON"),
        ("deep", "[" * 50_000, "no JSON"),
        ("nan", '{"version": NaN}', "finite, not NaN"),
        ("twice", '{"version": 1, "version": 1}', "twice"),
        ("digits", '{"version": ' + "9" * 5_000 + "}", "no JSON"),
        ("lists", "[" + "[]," * 99_999 + "[]]", "bytes of memory"),
        ("large", " " * 16_000_001, "16000001 characters"),
    )
    def test_malformed(self, text, message):
        with self.assertRaisesRegex(manifest.ManifestError, message):
            manifest.from_json(text)


class LongTest(absltest.TestCase):
    """One name may be as long as the file, and be that of thousands of faults."""

    def _message(self, **changes) -> str:
        value = json.loads(manifest.to_json(example())) | changes
        data = json.dumps(value, ensure_ascii=False).encode()
        read = functools.partial(manifest.from_json, data)
        if limits.held(read, allowance.of(len(data))):
            return ""
        with self.assertRaises(manifest.ManifestError) as caught:
            read()
        return str(caught.exception)

    def test_a_signature_of_many_inputs(self):
        for dtype, end in (("int32", ""), ("int33", "; and 980 more.")):
            specs = [{"name": str(n), "shape": [], "dtype": dtype} for n in range(2000)]
            long = {"key": "k" * 200_000, "inputs": specs, "outputs": []}
            self.assertEndsWith(self._message(signatures=[long]), end)

    def test_a_variable_of_several_faults(self):
        long = {"name": "a" * 6_000_000, "shape": [-1], "dtype": "x" * 10**6}
        message = self._message(variables=[long | {"role": "y", "buffer": 0}])
        for words in ("role 'y' of 'aaa", "dtype 'xxx", "shape (-1,) of 'aaa"):
            self.assertIn(words, message)

    def test_values(self):
        wide = "\U0001f600" + "\x7f" * 1_600_000
        for changes in ({"input_size": wide}, {"version": [wide]}, {"kind": wide}):
            self.assertIn("\U0001f600", self._message(**changes))

    def test_a_signature_that_is_not_there(self):
        signatures = tuple(
            manifest.SignatureSpec(f"{number:1000}", (), ()) for number in range(100)
        )
        with self.assertRaisesRegex(manifest.ManifestError, "and 80 more") as caught:
            example(signatures=signatures).signature("a" * 1_000_000)
        self.assertLess(len(str(caught.exception)), limits.MESSAGE)


class OfFileTest(absltest.TestCase):
    def _file(self, text: bytes) -> tflite_file.TfliteFile:
        file = tflite_file.parse(tflite_bytes.model_bytes(buffers=(b"", text)))
        return dataclasses.replace(file, metadata={manifest.METADATA_NAME: 1})

    def test_embedded(self):
        file = self._file(manifest.to_json(example()).encode())
        self.assertEqual(manifest.of_file(file), example())

    def test_memory_is_bounded_by_the_whole_file(self):
        text = manifest.to_json(example(classes=tuple(map(str, range(140_000)))))
        file = self._file(text.encode())
        with self.assertRaisesRegex(manifest.ManifestError, "bytes of memory"):
            manifest.of_file(file)
        longer = dataclasses.replace(file, data=file.data + bytes(2 * 10**6))
        self.assertLen(manifest.of_file(longer).classes, 140_000)

    def test_none_without_metadata(self):
        file = tflite_file.parse(tflite_bytes.model_bytes())
        self.assertIsNone(manifest.of_file(file))

    def test_buffers_must_be_in_the_file(self):
        wrong = manifest.ConstantSpec("stem/kernel", 99, (3, 2), (1, 0))
        file = self._file(manifest.to_json(example(constants=(wrong,))).encode())
        with self.assertRaisesRegex(manifest.ManifestError, r"Received: \[99\]"):
            manifest.of_file(file)


class FingerprintTest(absltest.TestCase):
    def test_buffers_do_not_count_and_shapes_do(self):
        def of(shape, buffer):
            variable = manifest.VariableSpec("a", shape, "float32", "weight", buffer)
            return manifest.fingerprint("s", ("a",), (variable,), {"b": b"1"})

        self.assertEqual(of((2,), 1), of((2,), 7))
        self.assertNotEqual(of((2,), 1), of((3,), 1))


if __name__ == "__main__":
    absltest.main()
