"""Tests of conversion: what the converter leaves undone must be done."""

from __future__ import annotations

import dataclasses
import gc
import os
import pathlib
from unittest import mock

import numpy as np
import tensorflow as tf
import tflite
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests
from checkpoints import patch, tflite_file
from ondevice import convert, converter, fresh, rewrite
from ondevice import precision as precisions
from ondevice.device import probe, runtimes, session, trial
from tests import tiny_builds, tiny_detector

BUILDS = (("adam", tiny_builds.heads), ("momentum", tiny_builds.whole))
WEIGHTS = {
    "a/kernel": np.ones((3, 64), np.float32),
    "b/kernel": np.ones((64, 32), np.float32),
}


def product(weights, image):
    """Two products: [1, 3] -> [1, 64] -> [1, 32]."""
    return (tf.nn.relu(image @ weights["a/kernel"]) @ weights["b/kernel"],)


class TrainableTest(parameterized.TestCase):
    @parameterized.named_parameters(*BUILDS)
    def test_names_of_signatures_are_the_contracts(self, build):
        files = build()
        file = tflite_file.parse(files.model)
        there = {s.key: s for s in file.signatures}
        self.assertEqual(list(there), [s.key for s in files.manifest.signatures])
        for signature in files.manifest.signatures:
            for specs, named in (
                (signature.inputs, there[signature.key].inputs),
                (signature.outputs, there[signature.key].outputs),
            ):
                self.assertEqual({spec.name for spec in specs}, set(named))
                tensors = file.subgraphs[there[signature.key].subgraph].tensors
                for spec in specs:
                    tensor = tensors[named[spec.name]]
                    self.assertEqual(tensor.shape, spec.shape, spec.name)
                    self.assertEqual(tensor.dtype, spec.dtype.upper(), spec.name)

    @parameterized.named_parameters(*BUILDS)
    def test_every_variable_has_a_buffer_of_its_own(self, build):
        files = build()
        model = tflite.Model.GetRootAsModel(files.model, 0)
        users: dict[int, int] = {}
        for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
            for tensor in map(graph.Tensors, range(graph.TensorsLength())):
                users[tensor.Buffer()] = users.get(tensor.Buffer(), 0) + 1
        holders = [v.buffer for v in files.manifest.variables]
        self.assertLen(set(holders), len(holders))
        self.assertEqual({users[buffer] for buffer in holders}, {1})

    @parameterized.named_parameters(*BUILDS)
    def test_patching_one_slot_writes_no_other(self, build):
        files = build()
        slots = [v for v in files.manifest.variables if v.role == manifests.SLOT]
        value = np.full(slots[0].shape, 0.5, np.float32)
        patched = patch.patch(files.model, {slots[0].buffer: value})
        with session.Session(patched) as opened:
            state = opened.state()
        for slot in slots:
            expected = 0.5 if slot is slots[0] else 0.0
            self.assertEqual(set(state[slot.name].ravel()), {expected}, slot.name)

    @parameterized.named_parameters(*BUILDS)
    def test_buffers_are_aligned(self, build):
        for data in (build().model, build().inference):
            model = tflite.Model.GetRootAsModel(data, 0)
            starts = []
            for buffer in map(model.Buffers, range(model.BuffersLength())):
                if buffer.DataLength():
                    starts.append(buffer._tab.Vector(buffer._tab.Offset(4)))
            self.assertNotEmpty(starts)
            self.assertEqual({start % 16 for start in starts}, {0})

    @parameterized.named_parameters(*BUILDS)
    def test_one_buffer_is_empty_and_none_without_a_reader(self, build):
        file = tflite_file.parse(build().model)
        empty = [i for i, span in enumerate(file.buffers) if not span.size]
        self.assertEqual(empty, [0])
        read = {t.buffer for graph in file.subgraphs for t in graph.tensors}
        read |= set(file.metadata.values())
        self.assertEqual(read, set(range(len(file.buffers))))

    def test_operators_are_builtin_and_shapes_static(self):
        for data in (tiny_builds.whole().model, tiny_builds.whole().inference):
            file = tflite_file.parse(data)
            self.assertEqual((file.flex(), file.custom()), ((), ()))
            for graph in file.subgraphs:
                for tensor in graph.tensors:
                    self.assertNotIn(-1, tensor.shape_signature, tensor.name)

    def test_a_variable_that_the_file_leaves_out(self):
        files = tiny_builds.heads()
        file = tflite_file.parse(files.model)
        specs = [dataclasses.replace(v, buffer=-1) for v in files.manifest.variables]
        found = convert.with_buffers(file, specs)
        self.assertEqual(found, files.manifest.variables)
        other = manifests.VariableSpec("other", (1,), "float32", manifests.WEIGHT)
        with self.assertRaisesRegex(convert.ConversionError, r"left out \['other'\]"):
            convert.with_buffers(file, [*specs, other])
        with self.assertRaisesRegex(convert.ConversionError, r"unknown \['step'\]"):
            convert.with_buffers(file, specs[:-1])

    def test_an_operator_that_is_not_builtin(self):
        function = tf.function(
            lambda x: {"out_0": tf.math.digamma(x)},
            input_signature=[tf.TensorSpec((2,), tf.float32, "in_0")],
        ).get_concrete_function()
        spec = manifests.TensorSpec("x", (2,))
        signature = manifests.SignatureSpec("infer", (spec,), (spec,))
        module = tf.Module()
        with self.assertRaisesRegex(convert.ConversionError, "builtin one.*Digamma"):
            convert.trainable(module, {"infer": function}, [signature])


class UncollectedTest(absltest.TestCase):
    def test_what_was_on_is_on_again(self):
        self.assertTrue(gc.isenabled())
        with self.assertRaisesRegex(ValueError, "within"), converter.uncollected():
            with converter.uncollected():
                self.assertFalse(gc.isenabled())
            self.assertFalse(gc.isenabled())
            raise ValueError("within")
        self.assertTrue(gc.isenabled())

    def test_making_files_collects_nothing(self):
        recipe = tiny_builds.heads_recipe()
        weights = tiny_detector.weights(1, len(recipe.classes))
        collecting = []

        def packed(model):
            collecting.append(gc.isenabled())
            return real(model)

        real = rewrite.pack
        with mock.patch.object(rewrite, "pack", packed), tiny_detector.known():
            fresh.make(recipe, weights)
        self.assertGreater(len(collecting), 2)
        self.assertFalse(any(collecting))
        self.assertTrue(gc.isenabled())


class WrittenTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_what_is_proven_is_on_record(self, proven):
        files = tiny_builds.heads()
        folder = pathlib.Path(self.create_tempdir())
        cache = {"ONDEVICE_CACHE": str(folder / "cache")}
        tries = mock.patch.object(probe, "probe")
        with mock.patch.dict(os.environ, cache), tries as run:
            files.write(folder, proven)
            for data in (files.model, files.inference):
                run.reset_mock()
                trial.require(tflite_file.parse(data), runtimes.installed()[0], "x")
                self.assertEqual(run.called, not proven)


class NamesTest(absltest.TestCase):
    def test_a_tensor_that_the_converter_left_out_is_missed(self):
        infer = manifests.SignatureSpec(
            "infer", (), (manifests.TensorSpec("y", (1,)),)
        )
        definition = schema.SignatureDefT()
        definition.signatureKey, definition.inputs = b"infer", []
        model, tensor = schema.ModelT(), schema.TensorMapT()
        model.signatureDefs, tensor.name = [definition], b"out_0"
        for outputs in ([], [tensor, tensor]):
            definition.outputs = outputs
            with self.assertRaisesRegex(ValueError, f"1 tensors.*: {len(outputs)}"):
                rewrite.name_signatures(model, [infer])
        definition.outputs = [tensor]
        rewrite.name_signatures(model, [infer])
        self.assertEqual(tensor.name, b"y")


class InferenceTest(parameterized.TestCase):
    def inference(self, function=product, precision=precisions.FLOAT32):
        spec = tf.TensorSpec((1, 3), name="in")
        return convert.inference(function, [spec], WEIGHTS, ["out"], precision)

    def test_each_weight_is_found_and_turned(self):
        data, constants = self.inference()
        random = np.random.default_rng(0)
        values = {
            name: random.standard_normal(value.shape, np.float32)
            for name, value in WEIGHTS.items()
        }
        patched = patch.patch(
            data,
            {
                c.buffer: values[c.variable].transpose(c.permutation).reshape(c.shape)
                for c in constants
            },
        )
        interpreter = tf.lite.Interpreter(model_content=patched)
        interpreter.allocate_tensors()
        (entry,), (out,) = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        self.assertEqual((entry["name"], out["name"]), ("in", "out"))
        image = np.array([[1, -2, 3]], np.float32)
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        hidden = np.maximum(image @ values["a/kernel"], 0)
        # A sum of 64 products in float32.
        np.testing.assert_allclose(
            interpreter.get_tensor(out["index"]), hidden @ values["b/kernel"], atol=1e-4
        )

    def test_a_weight_that_is_folded_away(self):
        def folded(weights, image):
            return (image @ (2.0 * weights["a/kernel"]) @ weights["b/kernel"],)

        with self.assertRaisesRegex(
            convert.ConversionError, r"\['a/kernel'\] are not found"
        ):
            self.inference(folded)

    def test_a_weight_that_is_not_used(self):
        def short(weights, image):
            return (image @ weights["a/kernel"],)

        with self.assertRaisesRegex(
            convert.ConversionError, r"\['b/kernel'\] are not found"
        ):
            self.inference(short)

    @parameterized.parameters(
        (precisions.Precision("float16"), "FLOAT16"),
        (precisions.Precision("int8", "dynamic"), "INT8"),
    )
    def test_quantised(self, precision, stored):
        data, constants = self.inference(precision=precision)
        self.assertEqual(constants, ())
        file = tflite_file.parse(data)
        (graph,) = file.subgraphs
        constants = [t for t in graph.tensors if file.buffers[t.buffer].size]
        self.assertIn(stored, {t.dtype for t in constants})
        self.assertLess(len(data), 12000)  # In float32 the weights alone take 8,960.
        names = [graph.tensors[i].name for i in (*graph.inputs, *graph.outputs)]
        self.assertEqual(names, ["in", "out"])


if __name__ == "__main__":
    absltest.main()
