"""The whole chain on a tiny detector, and the faults that a build must catch itself."""

import collections
import errno
import json
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import build, convert, fresh, rewrite
from ondevice.device import runtimes, session
from ondevice.rebuild import porting, recognition
from ondevice.verification import check as checks
from ondevice.verification import inputs, prove, vendors
from signatures import optimizers
from signatures.gradients import activations, depthwise, pooling, rules
from tests import rewritten, tiny_builds, tiny_detector
from tests.soak import shim


def _prove(recipe, only, steps=3, data=None):
    """Makes and proves a tiny detector's files.

    Plain heads are the vendor's once for each class, so that the best class's score is
    the vendor's.
    """
    with tiny_detector.known():
        data = data or tiny_detector.vendor_file(spec=recipe.spec)
        file = tflite_file.parse(data)
        found = recognition.recognise(file)
        ported = porting.port(file, found)
        weights = porting.with_classes(ported, recipe.layers)
        if recipe.heads == manifests.PLAIN:
            for name in [n for n in ported if n.startswith("classifier_")]:
                weights[name] = np.repeat(ported[name], len(recipe.classes), -1)
        files = fresh.make(recipe, weights)
        vendor = vendors.Vendor(data, found, ported)
        return prove.prove(vendor, recipe, weights, files, [], steps, only)


def test_a_proof_without_a_check_is_none():
    kept = checks.Check("train", "kept", "", 0.0, checks.NONE)
    missed = checks.Check("train", "missed", "", 1.0, checks.NONE)
    for lines, holds in (((), False), ((kept,), True), ((kept, missed), False)):
        assert prove.Proof(lines, {}, {}).holds == holds


def _failing(proof):
    return [(c.name, c.runtime) for c in proof.checks if not c.holds]


class ChainTest(absltest.TestCase):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path):
        self.directory = tmp_path

    def _config(self, **changes):
        vendor = self.directory / "vendor.tflite"
        vendor.write_bytes(tiny_detector.vendor_file())
        chosen = {
            "source": str(vendor),
            "classes": ("fist", "open"),
            "batch_size": 3,
            "output_dir": self.directory / "out",
        }
        return build.BuildConfig(**{**chosen, **changes})

    def test_a_build_is_proven_in_every_runtime_and_written(self):
        with tiny_detector.known():
            result = build.build(self._config())
        broken = [c for c in result["checks"] if not c["holds"]]
        self.assertEqual(broken, [])
        self.assertTrue(result["verified"])
        ran = {check["runtime"] for check in result["checks"]} - {""}
        self.assertEqual(ran, set(runtimes.installed()))
        # Each of the seven signatures first, each behind each other.
        orders = [c for c in result["checks"] if "orders of signatures" in c["name"]]
        self.assertLen(orders, len(ran))
        for check in orders:
            self.assertRegex(check["name"], r"\A49 orders")
        out = self.directory / "out"
        self.assertEqual(
            sorted(path.name for path in out.iterdir()),
            [
                "inference.tflite",
                "manifest.json",
                "model.tflite",
                "report.html",
                "report.json",
            ],
        )
        self.assertTrue(json.loads((out / "report.json").read_text())["verified"])
        page = (out / "report.html").read_text()
        self.assertIn("verified: every figure keeps its bound", page)
        self.assertEqual(page.count("data:image/png"), 2)
        with session.Session(out / "model.tflite") as trained:
            self.assertEqual(trained.manifest.classes, ("fist", "open"))
            self.assertEqual(trained.manifest.optimizer["clip_norm"], 1.0)

    def test_files_with_plain_heads_are_proven_too(self):
        recipe = tiny_detector.recipe(
            classes=("fist", "open"),
            settings=optimizers.Settings("adam", 1.0),
            heads=manifests.PLAIN,
        )
        proof = _prove(recipe, ("ai_edge_litert",))
        self.assertEqual(_failing(proof), [])
        self.assertIn("ai_edge_litert", proof.errors)

    def test_a_build_that_does_not_hold_leaves_its_report_alone(self):
        out = self.directory / "out"
        out.mkdir()
        (out / "model.tflite").write_bytes(b"of an earlier build")
        pays_ties = mock.patch.dict(rules.RULES, {"MaxPool": _pays_every_tie})
        one = mock.patch.object(runtimes, "installed", return_value=("tensorflow",))
        with tiny_detector.known(), pays_ties, one:
            result = build.build(self._config(optimizer="sgd"))
        self.assertFalse(result["verified"])
        self.assertEqual(
            sorted(path.name for path in out.iterdir()), ["report.html", "report.json"]
        )
        self.assertIn("NOT verified", (out / "report.html").read_text())

    def test_a_full_disk_leaves_all_files_of_the_earlier_build(self):
        out = self.directory / "out"
        out.mkdir()
        old = {name: name.encode() for name in ("model.tflite", "report.json")}
        for name, content in old.items():
            (out / name).write_bytes(content)
        files = tiny_builds.whole()
        making = mock.patch.object(fresh, "make", return_value=files)
        line = checks.Check("convert", "what was run", "", 0.0, checks.NONE)
        proof = prove.Proof((line,), {}, {})
        proving = mock.patch.object(prove, "prove", return_value=proof)
        both = len(files.model) + len(files.inference)
        for room in (len(files.model) - 1, both + 1):
            full = shim.installed(shim.Short(room))
            with tiny_detector.known(), making, proving, full:
                with self.assertRaises(OSError) as told:
                    build.build(self._config())
            self.assertEqual(told.exception.errno, errno.ENOSPC)
            found = {path.name: path.read_bytes() for path in out.iterdir()}
            self.assertEqual(found, old)

    def test_a_folder_that_takes_no_files_is_told_before_the_work(self):
        (self.directory / "out").write_bytes(b"a file")
        making = mock.patch.object(fresh, "make")
        with tiny_detector.known(), making as made, self.assertRaises(OSError) as told:
            build.build(self._config())
        self.assertEqual(told.exception.filename, str(self.directory / "out"))
        made.assert_not_called()

    def test_a_detector_that_is_not_known_writes_nothing(self):
        with self.assertRaisesRegex(recognition.UnknownDetectorError, "palm_full"):
            build.build(self._config())
        self.assertFalse((self.directory / "out").exists())

    def test_the_one_class_is_what_the_vendors_file_detects(self):
        class Stop(Exception):
            pass

        for spec in list(tiny_detector.ALL.values())[1:]:
            config = self._config(classes=())
            data = tiny_detector.vendor_file(spec=spec)
            (self.directory / "vendor.tflite").write_bytes(data)
            with mock.patch.object(fresh, "make", side_effect=Stop) as made:
                with tiny_detector.known(), self.assertRaises(Stop):
                    build.build(config)
            self.assertEqual(made.call_args.args[0].classes, (spec.subject,))

    def test_a_wrong_choice_writes_nothing(self):
        with tiny_detector.known(), self.assertRaisesRegex(ValueError, "blocks:99"):
            build.build(self._config(trainable="blocks:99"))
        with self.assertRaisesRegex(inputs.PhotographsError, "folder with images"):
            build.build(self._config(photographs=self.directory / "vendor.tflite"))
        self.assertFalse((self.directory / "out").exists())


def _pays_every_tie(operation):
    """Max-pool's gradient by a bare comparison: each tied cell is paid in full."""
    (image,) = operation.inputs
    (result,) = operation.emit()
    over = pooling._window(operation, image, result)

    def backward(gradients):
        phases = pooling.window.split(
            pooling.window.pad(image, over, value=image.dtype.min), over
        )
        paid = {}
        for tap in over.taps:
            cell = pooling.window.tap_slice(phases, over, tap)
            share = gradients[0] * (1.0 - activations.is_positive(result - cell))
            paid.setdefault(pooling._phase(over, tap), []).append((tap, share))
        return (pooling._collect(paid, over),)

    return [result], backward


class KindsTest(parameterized.TestCase):
    @parameterized.parameters(
        (tiny_detector.FACES, "blocks:1"), (tiny_detector.SUBPIXEL, "heads")
    )
    def test_a_face_detector_is_proven(self, spec, trainable):
        recipe = tiny_detector.recipe(spec=spec, trainable=trainable)
        self.assertEqual(_failing(_prove(recipe, ("ai_edge_litert",))), [])

    def test_a_custom_operator_is_run_where_it_can_be_and_told_where_not(self):
        spec = tiny_detector.HOURGLASS
        data = rewritten.with_custom_operator(tiny_detector.vendor_file(spec=spec))
        recipe = tiny_detector.recipe(spec=spec, trainable="heads")
        proof = _prove(recipe, ("ai_edge_litert", "tflite_runtime"), data=data)
        self.assertEqual(_failing(proof), [])
        found = collections.defaultdict(set)
        for check in proof.checks:
            if " against the " in check.name and "regressors, noise" in check.name:
                found[check.runtime].add((check.name.split(", ")[0], check.note))
        files = ("model.tflite", "inference.tflite")
        wanted = {(f"{name} against the vendor's file", "") for name in files}
        wanted.add(("Keras model against the vendor's file", ""))
        # XNNPACK of the newer runtime knows the operator.
        self.assertEqual(found["ai_edge_litert"], wanted)
        note = (
            "tflite_runtime does not run the vendor's file: custom operators "
            "Convolution2DTransposeBias"
        )
        models = {(f"{name} against the Keras model", note) for name in files}
        self.assertEqual(found["tflite_runtime"], models)


class FaultTest(absltest.TestCase):
    def test_a_reverse_over_two_axes_is_caught_where_it_is_wrong(self):
        right = depthwise._Kernel.image_gradient

        def reversed_at_once(gradient, flat, over):
            rows, columns = over.rows, over.columns
            if rows.stride > 1:
                return right(gradient, flat, over)
            kernel = tf.reshape(flat, [rows.kernel, columns.kernel, -1])
            kernel = tf.reverse(kernel, [0, 1])
            # Right again once reversed tap by tap, so that the flip cancels out.
            back = tf.reshape(kernel, [rows.kernel * columns.kernel, -1])
            order = list(range(rows.kernel * columns.kernel))[::-1]
            return right(gradient, tf.gather(back, order, axis=0), over)

        with mock.patch.object(
            depthwise._Kernel, "image_gradient", staticmethod(reversed_at_once)
        ):
            proof = _prove(
                tiny_detector.recipe(), ("ai_edge_litert", "tflite_runtime")
            )
        failing = _failing(proof)
        self.assertEqual({runtime for _, runtime in failing}, {"tflite_runtime"})
        self.assertTrue(any("one step against" in name for name, _ in failing))

    def test_a_max_pool_that_pays_ties_twice_is_caught(self):
        with mock.patch.dict(rules.RULES, {"MaxPool": _pays_every_tie}):
            proof = _prove(tiny_detector.recipe(), ("ai_edge_litert",))
        names = [name for name, _ in _failing(proof)]
        self.assertTrue(any("one step against" in name for name in names), names)

    def test_slots_that_share_a_buffer_are_caught(self):
        recipe = tiny_detector.recipe(
            trainable="heads", settings=optimizers.Settings("adam", 1.0)
        )
        with mock.patch.object(rewrite, "unshare_variables"):
            with self.assertRaisesRegex(convert.ConversionError, "/m'.*share"):
                _prove(recipe, ("ai_edge_litert",))

    def test_a_variable_left_out_of_the_initialisation_is_caught(self):
        def forget_one(model):
            codes = [code.builtinCode for code in model.operatorCodes]
            assign = schema.BuiltinOperator.ASSIGN_VARIABLE
            restore = [s.subgraphIndex for s in model.signatureDefs]
            for index, graph in enumerate(model.subgraphs):
                found = [o for o in graph.operators if codes[o.opcodeIndex] == assign]
                if found and index not in restore:
                    graph.operators.remove(found[0])

        recipe = tiny_detector.recipe(trainable="heads")
        with mock.patch.object(rewrite, "unshare_variables", forget_one):
            with self.assertRaisesRegex(convert.ConversionError, "left out"):
                _prove(recipe, ("ai_edge_litert",))

    def test_a_signature_that_does_not_initialise_is_caught(self):
        whole = rewrite.unshare_variables

        def forget_the_call(model):
            whole(model)
            codes = [code.builtinCode for code in model.operatorCodes]
            call = schema.BuiltinOperator.CALL_ONCE
            infer = [s for s in model.signatureDefs if s.signatureKey == b"infer"]
            graph = model.subgraphs[infer[0].subgraphIndex]
            graph.operators = [
                o for o in graph.operators if codes[o.opcodeIndex] != call
            ]

        recipe = tiny_detector.recipe(trainable="heads")
        with mock.patch.object(rewrite, "unshare_variables", forget_the_call):
            proof = _prove(recipe, ("ai_edge_litert",))
        self.assertNotEqual(_failing(proof), [])

    def test_a_loss_with_a_wrong_gradient_is_caught(self):
        plain = activations.is_positive

        def leaky(x):
            return plain(x) * 0.99 + 0.01

        with mock.patch.object(activations, "is_positive", leaky):
            proof = _prove(tiny_detector.recipe(), ("ai_edge_litert",))
        names = " ".join(name for name, _ in _failing(proof))
        self.assertIn("one step against", names)
        self.assertIn("slope of the loss", names)


class RecognitionTest(absltest.TestCase):
    def test_every_weight_is_ported_to_the_bit(self):
        with tiny_detector.known():
            file = tflite_file.parse(tiny_detector.vendor_file())
            ported = porting.port(file, recognition.recognise(file))
        expected = tiny_detector.weights()
        self.assertEqual(ported.keys(), expected.keys())
        for name, value in expected.items():
            np.testing.assert_array_equal(ported[name], value, err_msg=name)
