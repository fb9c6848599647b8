"""Tests of the session on a tiny trainable file, on every runtime installed."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest, patch, store, tflite_file
from ondevice.device import exports, finite, runtimes, session
from tests import tflite_bytes, tiny

IMAGE = np.linspace(0, 1, 48, dtype=np.float32).reshape(1, 4, 4, 3)


def batch(**changes) -> dict:
    """Returns what `evaluate` takes; with learning_rate what `train` does."""
    arrays = {
        "image": np.concatenate([IMAGE, 1 - IMAGE]),
        "class_targets": np.ones((2, 3, 2), np.float32),
        "box_targets": np.zeros((2, 3, 4), np.float32),
        "anchor_weights": np.ones((2, 3), np.float32),
        "sample_weights": np.ones(2, np.float32),
    }
    return arrays | changes


class SessionTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.path = self.directory / "x.safetensors"

    def open(self, data=None, runtime="auto") -> session.Session:
        opened = session.Session(data or tiny.trainable(), runtime, threads=1)
        self.addCleanup(opened.close)
        return opened

    def assert_states_equal(self, first, second):
        self.assertEqual(set(first), set(second))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


class RunTest(SessionTestCase):
    @parameterized.parameters(*runtimes.installed())
    def test_train_infer_save_restore(self, runtime):
        opened = self.open(runtime=runtime)
        self.assertEqual(opened.runtime, runtime)
        fresh = opened.state()
        first = opened.evaluate(**batch())
        self.assertIsNone(first.gradient_norm)
        self.assert_states_equal(opened.state(), fresh)
        step = opened.train(**batch(), learning_rate=0.01)
        self.assertEqual((step.loss, step.class_loss), (first.loss, first.class_loss))
        self.assertLess(opened.evaluate(**batch()).loss, first.loss)
        regressors, classificators = opened.infer(IMAGE)
        self.assertEqual(regressors.shape, (1, 3, 4))
        self.assertEqual(classificators.shape, (1, 3, 2))
        trained = opened.state()
        self.assertEqual(int(trained["step"]), 1)
        opened.save(self.path, epoch=2, seed=5, extra={"best": 0.5})

        again = self.open(runtime=runtime)
        self.assertTrue((again.infer(IMAGE)[1] != classificators).any())
        header = again.restore(self.path)
        self.assertEqual((header.step, header.epoch, header.seed), (1, 2, 5))
        self.assertEqual(header.classes, ("a", "b"))
        self.assert_states_equal(again.state(), trained)
        np.testing.assert_array_equal(again.infer(IMAGE)[1], classificators)
        # Resumed or not: bit-identical.
        self.assertEqual(
            again.train(**batch(), learning_rate=0.01),
            opened.train(**batch(), learning_rate=0.01),
        )
        self.assert_states_equal(again.state(), opened.state())

    @parameterized.parameters(
        "evaluate", "features", "infer", "restore", "save", "train", "train_features"
    )
    def test_any_signature_may_come_first(self, key):
        opened = self.open()
        signature = opened.manifest.signature(key)
        found = opened.call(
            key, {s.name: np.ones(s.shape, s.dtype) for s in signature.inputs}
        )
        self.assertEqual(set(found), {spec.name for spec in signature.outputs})

    def test_known_numbers(self):
        opened = self.open()
        features = opened.features(IMAGE)
        mean = IMAGE.mean((1, 2))[:, :2]
        np.testing.assert_allclose(features["feature_0"], mean, rtol=1e-6)
        logits = mean @ tiny.KERNEL + np.arange(1, 7)
        # A sum of three float32: a few units in the last place.
        np.testing.assert_allclose(
            opened.infer(IMAGE)[1].ravel(), logits.ravel(), rtol=1e-6
        )

    def test_training_on_features_equals_training_on_images(self):
        whole, heads = self.open(), self.open()
        whole.train(**batch(), learning_rate=0.01)
        arrays = batch()
        images = arrays.pop("image")
        rows = [heads.features(images[i : i + 1])["feature_0"] for i in (0, 1)]
        heads.train_features(
            feature_0=np.concatenate(rows), **arrays, learning_rate=0.01
        )
        for name, value in whole.state().items():
            # The mean of one image and of two may be rounded otherwise.
            np.testing.assert_allclose(heads.state()[name], value, rtol=1e-5)

    @parameterized.parameters(*runtimes.installed())
    def test_forgotten_steps_leave_the_weights(self, runtime):
        opened = self.open(runtime=runtime)
        for _ in range(3):
            opened.train(**batch(), learning_rate=0.01)
        before = opened.state()
        opened.forget_steps()
        after = opened.state()
        kept = {v.name for v in opened.manifest.variables if v.role == "weight"}
        for name, value in before.items():
            self.assertTrue(value.any(), name)  # Else zeros would prove nothing.
            expected = value if name in kept else np.zeros_like(value)
            np.testing.assert_array_equal(after[name], expected, err_msg=name)

    @parameterized.parameters(*runtimes.installed())
    def test_results_belong_to_the_caller(self, runtime):
        opened = self.open(runtime=runtime)
        state, (boxes, logits) = opened.state(), opened.infer(IMAGE)
        kept = {n: v.copy() for n, v in state.items()} | {"boxes": boxes.copy()}
        opened.train(**batch(), learning_rate=0.01)
        opened.infer(IMAGE * 0)
        self.assert_states_equal(state | {"boxes": boxes}, kept)
        boxes[...] = logits[...] = 0

    def test_views_of_the_interpreter_are_copied(self):
        opened = self.open()
        block = np.zeros(14, np.float32)
        views = {"regressors": block[:12], "classificators": block[12:]}
        with mock.patch.dict(opened._runners, {"infer": lambda image: views}):
            found = opened.infer(IMAGE)
        block[...] = 1
        self.assertEqual(found[0].max(), 0)

    def test_inference_file(self):
        data, described = tiny.inference()
        text = manifest.to_json(described).encode()
        opened = self.open(tiny.embed(data, text))
        # The tiny file has one output; a detector's has two.
        with self.assertRaisesRegex(session.SessionError, r"regressors.*\[\(1, 6\)\]"):
            opened.infer(np.zeros((1, 2), np.float32))
        with self.assertRaisesRegex(session.SessionError, r"float32 \(1, 3\), not"):
            opened.infer(np.zeros((1, 3), np.float32))

    def test_calls_from_threads_wait_for_each_other(self):
        opened = self.open()
        opened.infer(IMAGE)
        runner, active, seen = opened._runners["infer"], [], []

        def slow(**arrays):
            active.append(1)
            seen.append(len(active))
            time.sleep(0.01)
            active.pop()
            return runner(**arrays)

        with mock.patch.dict(opened._runners, {"infer": slow}):
            threads = [
                threading.Thread(target=opened.infer, args=(IMAGE,)) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(seen, [1, 1, 1, 1])


class SelectTest(SessionTestCase):
    def test_same_calls(self):
        opened = self.open(tiny.select(), "tensorflow")
        opened.train(**batch(), learning_rate=0.01)
        logits = opened.infer(IMAGE)[1]
        opened.save(self.path)
        again = self.open(tiny.select(), "tensorflow")
        self.assertTrue((again.infer(IMAGE)[1] != logits).any())
        self.assertIsNone(again.restore(self.path))
        np.testing.assert_array_equal(again.infer(IMAGE)[1], logits)
        with self.assertRaisesRegex(session.SessionError, "--ops=select"):
            again.state()
        with self.assertRaises(FileNotFoundError):
            again.restore(self.directory / "nowhere")
        with self.assertRaisesRegex(finite.NotFiniteError, "restoring a checkpoint"):
            for _ in range(3):
                again.train(**batch(), learning_rate=1e30)

    @parameterized.parameters(
        *(name for name in runtimes.installed() if name != "tensorflow")
    )
    def test_other_runtimes_fail_in_one_line(self, runtime):
        # In a process of its own: where tensorflow is imported, others find its Flex.
        code = (
            "import sys; from ondevice.device import session\n"
            "session.Session(sys.argv[1], sys.argv[2]).save(sys.argv[3])\n"
        )
        model = self.create_tempfile("x.tflite", tiny.select(), mode="wb").full_path
        done = subprocess.run(
            [sys.executable, "-c", code, model, runtime, self.path],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, f"RuntimeFailure: .*'save'.* on '{runtime}'")
        self.assertIn("FlexSave", done.stderr.splitlines()[-1])


class RefusalTest(SessionTestCase):
    def test_every_wrong_input_is_named_at_once(self):
        opened = self.open()
        before = opened.state()
        arrays = batch(image=IMAGE, sample_weights=np.ones(2), label=1)
        del arrays["box_targets"]
        with self.assertRaises(session.SessionError) as caught:
            opened.train(**arrays, learning_rate=0.01)
        for words in (
            "'image' is float32 (1, 4, 4, 3), not float32 (2, 4, 4, 3)",
            "'sample_weights' is float64 (2,), not float32 (2,)",
            "'label' is not among them",
            "'box_targets' is missing",
        ):
            self.assertIn(words, str(caught.exception))
        self.assert_states_equal(opened.state(), before)

    def test_unknown_signature_lists_those_there(self):
        with self.assertRaisesRegex(manifest.ManifestError, "'export'.*'infer'"):
            self.open().call("export", {})

    def test_closed(self):
        with self.open() as opened:
            opened.infer(IMAGE)
        opened.close()
        with self.assertRaisesRegex(RuntimeError, "after close"):
            opened.infer(IMAGE)

    def test_file_without_a_manifest(self):
        with self.assertRaisesRegex(session.SessionError, "embedded manifest"):
            self.open(tiny.shared())
        path = self.create_tempfile("x.tflite", tiny.shared(), mode="wb").full_path
        with self.assertRaisesRegex(session.SessionError, "x.tflite"):
            self.open(path)

    def test_malformed_file(self):
        with self.assertRaises(tflite_file.TfliteError):
            self.open(b"text")
        with self.assertRaises(FileNotFoundError):
            self.open(str(self.directory / "nowhere.tflite"))

    def test_file_that_is_not_what_its_manifest_says(self):
        described = manifest.of_file(tflite_file.parse(tiny.trainable()))
        table = {s.key: s for s in described.signatures}
        spec = manifest.TensorSpec
        table["infer"] = manifest.SignatureSpec(
            "infer", (spec("image", (1, 9, 9, 3)),), (spec("boxes", ()),)
        )
        table["prune"] = manifest.SignatureSpec("prune", (), ())
        described = dataclasses.replace(
            described,
            # The unknown one first: those behind it are looked at all the same.
            signatures=tuple(reversed(table.values())),
            variables=described.variables[1:],
        )
        text = manifest.to_json(described).encode()
        with self.assertRaises(session.SessionError) as caught:
            self.open(tiny.embed(tiny.shared(), text, unshare=True))
        for words in (
            "no signature 'prune'",
            "input 'image' of 'infer': FLOAT32 (1, 4, 4, 3) in the file",
            "output 'boxes' of 'infer' in one of the two",
            "variable 'head/bias' in one of manifest and 'save'",
        ):
            self.assertIn(words, str(caught.exception))

    def test_manifest_alone_does_not_make_a_session(self):
        text = manifest.to_json(
            manifest.of_file(tflite_file.parse(tiny.trainable()))
        ).encode()
        file = tflite_bytes.model_bytes(buffers=(b"", bytes(24)))
        with self.assertRaises(ValueError):
            self.open(tiny.embed(file, text))

    @parameterized.named_parameters(
        ("fingerprint", {"fingerprint": "cd" * 32}, {}, "another model"),
        ("optimizer", {"optimizer": {"name": "sgd"}}, {}, "another optimizer"),
        ("surplus", {}, {"other": np.zeros(1)}, "surplus"),
        ("shape", {}, {"step": np.zeros(2, np.int32)}, "'step' of shape"),
    )
    def test_restore_takes_all_or_nothing(self, header, tensors, message):
        opened = self.open()
        opened.train(**batch(), learning_rate=0.01)
        opened.save(self.path)
        there, was = store.load_file(self.path)
        store.save_file(self.path, there | tensors, dataclasses.replace(was, **header))
        fresh = self.open()
        before = fresh.state()
        with self.assertRaisesRegex(store.CheckpointError, message):
            fresh.restore(self.path)
        self.assert_states_equal(fresh.state(), before)

    def test_restore_of_a_damaged_file_changes_nothing(self):
        opened = self.open()
        before = opened.state()
        opened.save(self.path)
        data = bytearray(self.path.read_bytes())
        data[-1] ^= 1
        self.path.write_bytes(data)
        with self.assertRaisesRegex(store.CheckpointError, "others for"):
            opened.restore(self.path)
        self.assert_states_equal(opened.state(), before)

    def test_file_that_does_not_take_every_tensor(self):
        opened = self.open()
        state = opened.state()
        taken = {"restored": np.array(5, np.int32)}
        with mock.patch.dict(opened._runners, {"restore": lambda **_: taken}):
            with self.assertRaisesRegex(session.SessionError, "all 6.*5 taken"):
                opened.load_state(state)

    def test_diverged_weights_do_not_replace_a_checkpoint(self):
        opened = self.open()
        opened.save(self.path)
        before = self.path.read_bytes()
        opened.call("train", batch(learning_rate=float("nan")))
        with self.assertRaisesRegex(store.CheckpointError, "not finite"):
            opened.save(self.path)
        self.assertEqual(self.path.read_bytes(), before)


class ExportTest(SessionTestCase):
    def test_exported_file_equals_the_session_that_trained_it(self):
        opened = self.open()
        opened.train(**batch(), learning_rate=0.01)
        target = self.directory / "new.tflite"
        opened.export(target)
        exported = self.open(target)
        self.assert_states_equal(exported.state(), opened.state())
        for mine, theirs in zip(exported.infer(IMAGE), opened.infer(IMAGE)):
            np.testing.assert_array_equal(mine, theirs)

    def test_nothing_is_exported_that_is_not_finite(self):
        opened = self.open()
        target = self.directory / "new.tflite"
        opened.export(target)
        before = target.read_bytes()
        opened.call("train", batch(learning_rate=np.float32("nan")))
        with self.assertRaisesRegex(patch.PatchError, "not finite"):
            opened.export(target)
        self.assertEqual(target.read_bytes(), before)

    @parameterized.parameters(
        ("inference", exports.TemplateMissing, "beside"),
        ("trained", exports.ExportError, "trainable"),
    )
    def test_what_cannot_be_exported(self, kind, error, message):
        opened = self.open()
        with self.assertRaisesRegex(error, message):
            opened.export(self.directory / "new.tflite", kind)
        self.assertEqual(list(self.directory.iterdir()), [])


if __name__ == "__main__":
    absltest.main()
