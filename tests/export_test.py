"""Tests of exporting, on builds of the tiny detector.

All in one file: the build that they share is made once a file.
"""

from __future__ import annotations

import importlib.util
import math
import os
import pathlib
from unittest import mock

import numpy as np
import tflite
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import patch, store, tflite_file, weights
from ondevice import commands, exporting, fresh
from ondevice.device import exports, fidelity, runtimes, samples, session
from ondevice.rebuild import topology
from tests import small_data, tiny_builds, tiny_detector

RATE = 1e-2
SMALL = {"kind": "inference", "method": "reconvert", "dtype": "int8"}


def constant_ranges(data: bytes) -> dict[str, slice]:
    """Name of a variable -> where its initial value lies, by the generated accessors.

    Independent of `checkpoints`: this walks the flatbuffer as any other reader would.
    """
    model = tflite.Model.GetRootAsModel(data, 0)
    found = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        handles = {}
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
            if code == tflite.BuiltinOperator.VAR_HANDLE:
                options = tflite.VarHandleOptions()
                table = operator.BuiltinOptions()
                options.Init(table.Bytes, table.Pos)
                handles[operator.Outputs(0)] = options.SharedName().decode()
            if code == tflite.BuiltinOperator.ASSIGN_VARIABLE:
                tensor = graph.Tensors(operator.Inputs(1))
                buffer = model.Buffers(tensor.Buffer())
                if buffer.DataLength():
                    name = handles[operator.Inputs(0)]
                    found[name] = buffer_range(model, tensor.Buffer())
    return found


def buffer_range(model: tflite.Model, index: int) -> slice:
    """Where a buffer's bytes lie in the file."""
    table = model.Buffers(index)._tab
    start = table.Vector(table.Offset(4))
    return slice(start, start + model.Buffers(index).DataLength())


def assert_differ_in(old: bytes, new: bytes, allowed: dict[str, slice]) -> None:
    """Asserts that two files differ in each of the ranges, and nowhere else."""
    assert len(old) == len(new)
    differ = np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8)
    for name, place in allowed.items():
        assert differ[place].any(), f"{name} is as it was"
        differ[place] = False
    assert not differ.any(), f"bytes {np.flatnonzero(differ)[:8]} differ"


class ExportTestCase(parameterized.TestCase):
    """A directory with the build of the heads, and a checkpoint of three steps."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.files = tiny_builds.heads()
        with session.Session(cls.files.model, threads=1) as trained:
            batch = tiny_builds.batch(cls.files.manifest)
            for _ in range(3):
                trained.train(**batch, learning_rate=RATE)
            cls.state = trained.state()

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.model = self.write("model.tflite", self.files.model)
        self.template = self.write("inference.tflite", self.files.inference)
        self.output = self.directory / "exported.tflite"
        self.checkpoint = self.save(self.files.manifest, self.state)
        self.before = sorted(os.listdir(self.directory))

    def write(self, name: str, data: bytes) -> pathlib.Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def save(self, manifest, state) -> pathlib.Path:
        path = self.directory / "latest.safetensors"
        store.save_file(
            path, state, store.Header(manifest.fingerprint, manifest.optimizer)
        )
        return path

    def config(self, **changes) -> exporting.ExportConfig:
        chosen = {
            "model": str(self.model),
            "output": str(self.output),
            "checkpoint": str(self.checkpoint),
        }
        return exporting.ExportConfig(**{**chosen, **changes})

    def export(self, **changes) -> dict:
        with tiny_detector.known():
            return exporting.export(self.config(**changes))

    def assert_nothing_written(self):
        self.assertEqual(sorted(os.listdir(self.directory)), self.before)


class ConfigTest(parameterized.TestCase):
    @parameterized.product(
        kind=("trainable", "inference"), method=("patch", "reconvert")
    )
    def test_a_target_is_another_conversion_of_what_trains(self, kind, method):
        def made():
            return exporting.ExportConfig(
                __file__, "o", kind=kind, method=method, target="tflite_runtime"
            )

        if (kind, method) == ("trainable", "reconvert"):
            self.assertEqual(made().target, "tflite_runtime")
        else:
            with self.assertRaisesRegex(commands.UsageError, "--target.*must go with"):
                made()


class TrainableTest(ExportTestCase):
    def assert_state(self, opened):
        found = opened.state()
        self.assertEqual(set(found), set(self.state))
        for name, value in self.state.items():
            self.assertEqual(found[name].tobytes(), value.tobytes(), name)

    def test_patched_file_starts_where_the_checkpoint_was_made(self):
        result = self.export()
        self.assertEqual(
            list(result),
            [
                "output", "kind", "method", "dtype", "bytes", "seconds",
                "max_difference", "accuracy",
            ],
        )  # fmt: skip
        self.assertIsNone(result["accuracy"])
        self.assertEqual(result["max_difference"], 0.0)
        self.assertEqual(result["bytes"], self.output.stat().st_size)
        with session.Session(self.model) as opened:
            fresh_state = opened.state()
        with session.Session(self.output) as opened:
            self.assert_state(opened)
            self.assertEqual(
                opened.manifest.fingerprint, self.files.manifest.fingerprint
            )
        # The round trip could have failed.
        for name, value in self.state.items():
            self.assertTrue((value != fresh_state[name]).any(), name)

    def test_nothing_but_weight_buffers_differs(self):
        self.export()
        ranges = constant_ranges(self.files.model)
        self.assertEqual(set(ranges), set(self.state))
        assert_differ_in(self.files.model, self.output.read_bytes(), ranges)

    def test_exported_file_trains_on(self):
        self.export()
        batch = tiny_builds.batch(self.files.manifest, seed=1)
        with (
            session.Session(self.model, threads=1) as restored,
            session.Session(self.output, threads=1) as exported,
        ):
            restored.restore(self.checkpoint)
            for _ in range(2):
                expected = restored.train(**batch, learning_rate=RATE)
                self.assertEqual(exported.train(**batch, learning_rate=RATE), expected)
            self.assertEqual(int(exported.state()["step"]), 5)
            for name, value in restored.state().items():
                self.assertEqual(exported.state()[name].tobytes(), value.tobytes())
            # A checkpoint fits the exported file as well as the model.
            exported.restore(self.checkpoint)
            self.assert_state(exported)

    def test_reconverted_and_patched_agree(self):
        self.export()
        other = self.directory / "reconverted.tflite"
        result = self.export(method="reconvert", output=str(other))
        self.assertLessEqual(result["max_difference"], 5e-6)
        image = tiny_builds.batch(self.files.manifest)["image"][:1]
        with (
            session.Session(self.output, threads=1) as patched,
            session.Session(other, threads=1) as reconverted,
        ):
            self.assert_state(reconverted)
            self.assertEqual(
                reconverted.manifest.fingerprint, patched.manifest.fingerprint
            )
            for one, two in zip(patched.infer(image), reconverted.infer(image)):
                # The bound of every arrow of the chain.
                np.testing.assert_allclose(one, two, atol=5e-6 * np.abs(one).max())
            batch = tiny_builds.batch(self.files.manifest, seed=1)
            self.assertAlmostEqual(
                patched.train(**batch, learning_rate=RATE).loss,
                reconverted.train(**batch, learning_rate=RATE).loss,
                delta=1e-4,
            )

    def test_without_a_checkpoint_the_weights_are_the_models_own(self):
        self.export(checkpoint=None)
        self.assertEqual(self.output.read_bytes(), self.files.model)


class InferenceTest(ExportTestCase):
    def test_only_trained_weights_differ_from_the_template(self):
        result = self.export(kind="inference")
        self.assertLessEqual(result["max_difference"], 5e-6)
        model = tflite.Model.GetRootAsModel(self.files.inference, 0)
        trained = tiny_builds.heads_recipe().trained
        ranges = {
            constant.variable: buffer_range(model, constant.buffer)
            for constant in self.files.constants
            if constant.variable in trained
        }
        self.assertLen(ranges, len(trained))
        data = self.output.read_bytes()
        assert_differ_in(self.files.inference, data, ranges)
        for name, place in ranges.items():
            stored = np.sort(np.frombuffer(data[place], "<f4"))
            np.testing.assert_array_equal(stored, np.sort(self.state[name], axis=None))

    def test_frozen_weights_stay(self):
        self.export(kind="inference")
        file = tflite_file.read(self.output)
        recipe = tiny_builds.heads_recipe()
        shapes = topology.variables(recipe.layers)
        found = weights.of_inference(file, manifests.of_file(file), shapes)
        initial = tiny_detector.weights(1, len(tiny_builds.CLASSES))
        for name in shapes:
            expected = self.state if name in recipe.trained else initial
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)

    def test_inputs_and_outputs_are_the_vendors(self):
        self.export(kind="inference")
        ends = []
        for data in (tiny_detector.vendor_file(), self.output.read_bytes()):
            interpreter = runtimes.create(data)
            ends.append(
                [
                    [(end["name"], list(end["shape"])[:2]) for end in details]
                    for details in (
                        interpreter.get_input_details(),
                        interpreter.get_output_details(),
                    )
                ]
            )
        self.assertEqual(*ends)
        self.assertEqual(ends[1][0], [("input_1", [1, 32])])
        self.assertEqual([n for n, _ in ends[1][1]], ["Identity", "Identity_1"])

    def test_reconverted_and_patched_agree(self):
        self.export(kind="inference")
        other = self.directory / "reconverted.tflite"
        self.export(kind="inference", method="reconvert", output=str(other))
        image = tiny_builds.batch(self.files.manifest)["image"][:1]
        with session.Session(self.output) as one, session.Session(other) as two:
            for got, expected in zip(one.infer(image), two.infer(image)):
                # The bound of every arrow of the chain.
                np.testing.assert_allclose(
                    got, expected, rtol=0, atol=5e-6 * np.abs(expected).max()
                )

    def test_a_lone_file_suffices_where_everything_trains(self):
        files = tiny_builds.whole()
        lone = self.write("lone.tflite", files.model)
        self.template.unlink()
        result = self.export(
            model=str(lone), checkpoint=None, kind="inference", method="reconvert"
        )
        self.assertLessEqual(result["max_difference"], 5e-6)
        self.assertEqual(self.output.read_bytes(), files.inference)

    def test_float16(self):
        result = self.export(kind="inference", method="reconvert", dtype="float16")
        # Ten bits of mantissa: about 5e-4 a weight.
        self.assertBetween(result["max_difference"], 1e-6, 2e-2)
        file = tflite_file.read(self.output)
        dtypes = {t.dtype for t in file.subgraphs[0].tensors}
        self.assertIn("FLOAT16", dtypes)
        found = manifests.of_file(file)
        self.assertEqual(
            (found.kind, found.constants, found.fingerprint),
            ("inference", (), self.files.manifest.fingerprint),
        )
        ends = [file.subgraphs[0].tensors[i] for i in file.subgraphs[0].outputs]
        self.assertEqual([t.name for t in ends], list(tiny_detector.SPEC.outputs))
        self.assertEqual({t.dtype for t in ends}, {"FLOAT32"})
        with self.assertRaisesRegex(exports.ExportError, "are quantised"):
            self.export(
                kind="inference",
                template=str(self.output),
                output=str(self.directory / "x"),
            )


class LossTest(ExportTestCase):
    def setUp(self):
        super().setUp()
        root = pathlib.Path(self.create_tempdir().full_path)
        self.data = small_data.annotated(root / "hands", 4)
        for path in (self.data / "annotation").iterdir():
            text = path.read_text()
            text = text.replace('"a"', '"fist"').replace('"b"', '"open"')
            path.write_text(text)

    def test_accuracy_of_both_files(self):
        # Who sees no palm gets nothing right, so that nothing is known.
        chosen = {"kind": "inference", "data": str(self.data)}
        blind = {
            name: np.full_like(value, -100.0)
            for name, value in self.state.items()
            if name.startswith("classifier_") and name.endswith("/bias")
        }
        self.assertNotEmpty(blind)
        self.save(self.files.manifest, {**self.state, **blind})
        with self.assertRaisesRegex(exports.ExportError, "class_accuracy and recall"):
            self.export(**chosen)
        self.save(self.files.manifest, self.state)
        found = self.export(**chosen, force=True)["accuracy"]
        self.assertEqual(found["images"], 4)
        names = {"class_accuracy", "recall", "mean_iou"}
        self.assertEqual(found["float32"].keys(), names)
        # Patched, so the same but for rounding; and not nothing.
        self.assertEqual(found["exported"].keys(), names)
        for name, value in found["float32"].items():
            self.assertAlmostEqual(found["exported"][name], value, places=4)
        self.assertGreater(found["float32"]["mean_iou"], 0)

    def test_the_model_that_is_measured_holds_the_checkpoint(self):
        seen = []

        def measured(first, second, *rest):
            del rest
            image = np.full((1, 32, 32, 3), 0.5, np.float32)
            seen.append((first.infer(image), second.infer(image)))
            return fidelity.Fidelity({}, {})

        with mock.patch.object(fidelity, "measured", measured):
            self.export(kind="inference", data=str(self.data))
        ((first, second),) = seen
        for one, two in zip(first, second):
            np.testing.assert_allclose(one, two, atol=1e-5 * np.abs(one).max())

    @parameterized.parameters((0.0099, True), (0.01, True), (0.0101, False))
    def test_refused_above_the_bound_unless_forced(self, loss, passes):
        figures = {"images": 4, "float32": {"recall": 1.0}, "exported": {"recall": 0.9}}
        found = fidelity.Fidelity(figures, {"recall": loss, "class_accuracy": -0.5})
        with mock.patch.object(fidelity, "measured", return_value=found):
            if passes:
                self.assertEqual(
                    self.export(data=str(self.data))["accuracy"], figures
                )
                return
            with self.assertRaisesRegex(
                exports.ExportError,
                r"max_loss=0.01 of recall. .*float32: recall 1.0000; "
                r"exported: recall 0.9000; nothing was written. --force",
            ):
                self.export(data=str(self.data))
            self.assert_nothing_written()
            self.export(data=str(self.data), max_loss=0.02)
            os.unlink(self.output)
            with self.assertLogs(level="WARNING") as logs:
                result = self.export(data=str(self.data), force=True)
        self.assertIn("--force", "".join(logs.output))
        self.assertEqual(result["accuracy"], figures)
        self.assertTrue(self.output.exists())

    def test_calibration_without_labels(self):
        calibration = str(self.data / "image")
        result = self.export(**SMALL, calibration=calibration, force=True)
        found = result["accuracy"]
        self.assertEqual(list(found), ["images", "detections", "agreement"])
        self.assertEqual(found["images"], 4)
        self.assertBetween(found["agreement"], 0, 1)
        dtypes = {t.dtype for t in tflite_file.read(self.output).subgraphs[0].tensors}
        self.assertContainsSubset({"INT8", "INT32", "FLOAT32"}, dtypes)
        os.unlink(self.output)
        lost = fidelity.Fidelity({"agreement": 0.5}, {"agreement": 0.5})
        with mock.patch.object(fidelity, "agreement", return_value=lost):
            with self.assertRaisesRegex(exports.ExportError, "agreement: 0.5000"):
                self.export(**SMALL, calibration=calibration)
        self.assert_nothing_written()

    def test_without_pictures_it_is_told_that_nothing_was_measured(self):
        with self.assertLogs(level="WARNING") as logs:
            result = self.export(**SMALL)
        self.assertIn("--data=DIR", "".join(logs.output))
        self.assertIsNone(result["accuracy"])
        self.assertLess(result["bytes"], len(self.files.inference))

    def test_pictures_that_do_not_do_change_nothing(self):
        for changes in (
            {"data": str(self.directory)},
            {**SMALL, "calibration": str(self.directory)},
        ):
            with self.assertRaisesRegex(samples.DataError, "cannot be used as data"):
                self.export(**changes)
        self.assert_nothing_written()


class MistakesTest(ExportTestCase):
    @parameterized.named_parameters(
        ("patch", {"kind": "inference", "method": "patch"}),
        ("trainable", {"kind": "trainable", "method": "reconvert"}),
    )
    def test_quantised_weights_need_reconversion(self, chosen):
        with self.assertRaisesRegex(commands.UsageError, "--method=reconvert. Rec"):
            self.export(dtype="int8", **chosen)

    @parameterized.parameters("model", "checkpoint", "template")
    def test_output_that_would_overwrite_an_input(self, name):
        path = getattr(self, name)
        link = self.directory / "link"
        link.symlink_to(path)
        for output in (path, f"{path.parent}/../{path.parent.name}/{path.name}", link):
            with self.assertRaisesRegex(commands.UsageError, f"file than --{name}"):
                self.config(output=str(output), template=str(self.template))

    def test_output_that_would_overwrite_what_exports_are_made_from(self):
        beside = self.model.parent / "inference.tflite"
        self.assertTrue(beside.exists())
        with self.assertRaisesRegex(commands.UsageError, "inference.tflite beside"):
            self.config(output=str(beside), template=None)

    @parameterized.named_parameters(
        ("nowhere", {"output": "/nowhere/at/all.tflite"}, "--output must"),
        ("directory", {"output": "/"}, "--output must"),
        ("no_output", {"output": None}, "--output must"),
        ("model", {"model": "absent.tflite"}, "--model must exist"),
        ("checkpoint", {"checkpoint": "absent"}, "--checkpoint must exist"),
        ("template", {"template": "absent"}, "--template must exist"),
        ("data", {"data": "absent"}, "--data must exist"),
        ("calibration", {"calibration": "absent", **SMALL}, "--calibration must exist"),
        ("calibration_alone", {"calibration": "tests"}, "with --dtype=int8"),
        ("calibration_file", {"calibration": __file__, **SMALL}, "must be a folder"),
        (
            "dynamic",
            {"calibration": "tests", "activations": "dynamic", **SMALL},
            "with --activations=int8",
        ),
        ("integers", {"activations": "int8", **SMALL}, "--calibration=FOLDER"),
    )
    def test_paths(self, changes, message):
        with self.assertRaisesRegex(commands.UsageError, message):
            self.config(**changes)

    def test_checkpoint_of_another_build(self):
        other = tiny_builds.whole()
        state = weights.of_trainable(tflite_file.parse(other.model), other.manifest)
        self.save(other.manifest, state)
        with self.assertRaisesRegex(store.CheckpointError, "another model"):
            self.export()
        self.assert_nothing_written()

    def test_missing_template(self):
        self.template.unlink()
        self.before.remove("inference.tflite")
        for method in ("patch", "reconvert"):
            with self.assertRaisesRegex(exports.TemplateMissing, "--template=FILE"):
                self.export(kind="inference", method=method)
        self.assertEqual(exports.TemplateMissing.exit_status, commands.USAGE)
        self.assert_nothing_written()

    def test_template_of_another_build(self):
        other = self.write("other.tflite", tiny_builds.whole().inference)
        self.before.append("other.tflite")
        with self.assertRaisesRegex(exports.ExportError, "another build's"):
            self.export(kind="inference", template=str(other))
        self.before.sort()
        self.assert_nothing_written()

    @parameterized.named_parameters(
        ("text", b"just some text", "identifier"),
        ("truncated", None, "must lie inside|must add up"),
        ("empty", b"", "identifier"),
    )
    def test_damaged_files(self, data, message):
        for path, changes in (
            (self.template, {"kind": "inference"}),
            (self.model, {}),
        ):
            path.write_bytes(path.read_bytes()[:-5000] if data is None else data)
            with self.assertRaisesRegex(tflite_file.TfliteError, message):
                self.export(**changes)
        self.assert_nothing_written()

    def test_kinds_that_are_swapped(self):
        with self.assertRaisesRegex(exports.ExportError, "of the kind trainable"):
            self.export(model=str(self.template))
        with self.assertRaisesRegex(exports.ExportError, "of the kind inference"):
            self.export(kind="inference", template=str(self.model))
        vendor = self.write("vendor.tflite", tiny_detector.vendor_file())
        with self.assertRaisesRegex(exports.ExportError, "without a manifest"):
            self.export(model=str(vendor))

    def test_manifest_that_swaps_two_variables(self):
        # Patching obeys it; that weights are not where they belong shows in the run.
        one, two = "classifier_8/bias/m", "classifier_8/bias/v"
        file = tflite_file.parse(self.files.model)
        described = manifests.of_file(file)
        places = {v.name: v.buffer for v in described.variables}
        values = {places[one]: self.state[two], places[two]: self.state[one]}
        honest = patch.patch_trainable(file, described, self.state)
        swapped = patch.patch(honest, values)
        with mock.patch.object(patch, "trainable_pieces", return_value=[swapped]):
            with self.assertRaisesRegex(exports.ExportError, f"{one}.*nothing was wri"):
                self.export()
        self.assert_nothing_written()

    def test_outputs_that_are_not_the_models(self):
        state = dict(self.state)
        state["regressor_8/bias"] = state["regressor_8/bias"] + np.float32(1e-2)
        trained = tiny_builds.heads_recipe().trained
        weight = {name: state[name] for name in trained}
        file = tflite_file.parse(self.files.inference)
        wrong = patch.patch_inference(file, manifests.of_file(file), weight)
        with mock.patch.object(patch, "inference_pieces", return_value=[wrong]):
            with self.assertRaisesRegex(exports.ExportError, "nothing was written"):
                self.export(kind="inference")
        with mock.patch.object(fidelity, "difference", return_value=math.nan):
            with self.assertRaisesRegex(exports.ExportError, "nan"):
                self.export()
        self.assert_nothing_written()

    def test_reconversion_without_tensorflow(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            with self.assertRaisesRegex(commands.UserError, r"pip install '.\[bu"):
                self.export(method="reconvert")

    def test_manifest_of_an_unknown_spec(self):
        # Without `known()` the tiny detector is one.
        with self.assertRaisesRegex(fresh.RecipeError, "one of palm_full.*'palm_tiny'"):
            exporting.export(self.config(method="reconvert"))
        self.assert_nothing_written()


if __name__ == "__main__":
    absltest.main()
