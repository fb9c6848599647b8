"""Tests of --ops=select: TensorFlow's gradients and checkpoints, through Flex."""

from __future__ import annotations

import importlib.metadata
import pathlib
import subprocess
import sys
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import patch, store, tensorflow_v1, tflite_file
from ondevice import build, commands, exporting, sources
from ondevice.device import probe, runtimes, session
from ondevice.verification import runners
from signatures import contract
from tests import tiny_builds

ROOT = pathlib.Path(__file__).resolve().parents[1]
RATE = 1e-2

# Another process: restore, train, save.
RESUME = """
import sys
import numpy as np
from ondevice.device import session
from tests import tiny_builds
model, before, after, steps = sys.argv[1:]
with session.Session(model, threads=1) as opened:
    opened.restore(before)
    for _ in range(int(steps)):
        opened.train(**tiny_builds.batch(opened.manifest), learning_rate=1e-2)
    opened.save(after)
"""


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """A checkpoint that the file saved, read by TensorFlow."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(path))
    names = reader.get_variable_to_shape_map()
    return {name: np.asarray(reader.get_tensor(name)) for name in names}


class SelectTestCase(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if "tensorflow" not in runtimes.installed():
            raise absltest.SkipTest("no tensorflow")
        cls.files = tiny_builds.select()
        cls.manifest = cls.files.manifest
        cls.batch = tiny_builds.batch(cls.manifest)

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.model = self.directory / "model.tflite"
        self.model.write_bytes(self.files.model)
        self.checkpoint = self.directory / "checkpoint"

    def open(self, data: bytes | None = None) -> session.Session:
        opened = session.Session(data or self.files.model, threads=1)
        self.addCleanup(opened.close)
        return opened

    def train(self, opened: session.Session, steps: int) -> None:
        for _ in range(steps):
            opened.train(**self.batch, learning_rate=RATE)

    def state(self, opened: session.Session) -> dict[str, np.ndarray]:
        """What a session saves, read by TensorFlow."""
        path = self.directory / "state"
        opened.save(path)
        return read(path)

    def assert_equal(self, one, two):
        self.assertEqual(set(one), set(two))
        for name, value in one.items():
            self.assertEqual(value.tobytes(), two[name].tobytes(), name)


class FileTest(SelectTestCase):
    def test_signatures_are_the_contracts(self):
        file = tflite_file.parse(self.files.model)
        self.assertContainsSubset(("FlexRestore", "FlexSave"), file.flex())
        self.assertEqual(tflite_file.parse(self.files.inference).flex(), ())
        there = {s.key: s for s in file.signatures}
        for signature in self.manifest.signatures:
            found = there[signature.key]
            self.assertEqual(set(found.inputs), {s.name for s in signature.inputs})
            self.assertEqual(set(found.outputs), {s.name for s in signature.outputs})
        for key, named in (
            (contract.SAVE, there[contract.SAVE].inputs),
            (contract.SAVE, there[contract.SAVE].outputs),
            (contract.RESTORE, there[contract.RESTORE].inputs),
        ):
            tensors = file.subgraphs[there[key].subgraph].tensors
            self.assertEqual(tensors[named["checkpoint_path"]].dtype, "STRING")

    def test_other_runtimes_fail_with_a_message(self):
        for name in set(runtimes.installed()) - {"tensorflow"}:
            verdict = probe.probe(self.model, name, 60.0)
            self.assertFalse(verdict.runs)
            self.assertRegex(verdict.error, "signature '.*'.*Flex")
        self.assertEqual(
            probe.probe(self.model, "tensorflow", 60.0), probe.Verdict(True)
        )

    def test_a_session_takes_the_runtime_that_has_flex(self):
        self.assertEqual(self.open().runtime, "tensorflow")
        with mock.patch.object(runtimes, "installed", return_value=("tflite_runtime",)):
            with self.assertRaisesRegex(
                runtimes.RuntimeChoiceError, "--ops=select must run on 'tensorflow'"
            ):
                self.open()


class CheckpointTest(SelectTestCase):
    def test_a_new_process_goes_on_where_the_first_stopped(self):
        first = self.open()
        self.train(first, 3)
        first.save(self.checkpoint)
        self.train(first, 3)
        after = self.directory / "after"
        done = subprocess.run(
            [sys.executable, "-c", RESUME, self.model, self.checkpoint, after, "3"],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        resumed = read(after)
        self.assert_equal(resumed, self.state(first))
        self.assertEqual(int(resumed["step"]), 6)

    def test_restore_brings_weights_slots_and_step(self):
        trained = self.open()
        before = self.state(trained)
        self.train(trained, 2)
        trained.save(self.checkpoint)
        state = self.state(trained)
        for name in before:  # Otherwise restoring could not be seen.
            self.assertTrue((before[name] != state[name]).any(), name)
        again = self.open()
        image = self.batch["image"][:1]
        self.assertTrue((again.infer(image)[1] != trained.infer(image)[1]).any())
        self.assertIsNone(again.restore(self.checkpoint))
        self.assert_equal(self.state(again), state)
        for one, two in zip(again.infer(image), trained.infer(image)):
            np.testing.assert_array_equal(one, two)

    def test_ours_reads_and_writes_what_the_file_does(self):
        trained = self.open()
        self.train(trained, 2)
        trained.save(self.checkpoint)
        state = self.state(trained)
        self.assert_equal(tensorflow_v1.load_file(self.checkpoint), state)
        written = self.directory / "written"
        tensorflow_v1.save_file(written, state)
        self.assertEqual(written.read_bytes(), self.checkpoint.read_bytes())
        again = self.open()
        again.restore(written)
        self.assert_equal(self.state(again), state)

    def test_a_checkpoint_that_does_not_fit_changes_nothing(self):
        import tensorflow as tf

        opened = self.open()
        self.train(opened, 1)
        state = self.state(opened)
        moved = {name: value + 1 for name, value in state.items()}
        last = [v.name for v in self.manifest.variables if v.shape][-1]
        missing = {n: v for n, v in moved.items() if n != "step"}
        misshapen = moved | {last: np.zeros((3,), np.float32)}
        for wrong in (missing, misshapen):
            tf.raw_ops.Save(
                filename=str(self.checkpoint),
                tensor_names=list(wrong),
                data=[tf.constant(value) for value in wrong.values()],
            )
            with self.assertRaises(runtimes.RuntimeFailure):
                opened.restore(self.checkpoint)
            self.assert_equal(self.state(opened), state)
        self.checkpoint.write_text("some text")
        with self.assertRaisesRegex(runtimes.RuntimeFailure, "sstable"):
            opened.restore(self.checkpoint)
        with self.assertRaises(FileNotFoundError):
            opened.restore(self.directory / "absent")
        self.assert_equal(self.state(opened), state)


class TrainingTest(SelectTestCase):
    def test_steps_are_those_of_the_builtin_file(self):
        # The builtin file is proven against tf.GradientTape by the build; here the two
        # sets of gradients meet, from one start.
        changed = tiny_builds.select("builtin")
        builtin = session.Session(changed.model, "tensorflow", threads=1)
        self.addCleanup(builtin.close)
        opened = self.open()
        start = builtin.state()
        self.assert_equal(self.state(opened), start)
        for _ in range(20):
            expected = builtin.train(**self.batch, learning_rate=1e-3)
            got = opened.train(**self.batch, learning_rate=1e-3)
            # Sums of some thousand terms in float32.
            self.assertAlmostEqual(got.loss / expected.loss, 1, delta=1e-5)
        state = self.state(opened)
        for name, value in builtin.state().items():
            change = np.abs(value.astype(np.float64) - start[name]).max()
            error = np.abs(state[name].astype(np.float64) - value).max()
            # A tenth of one of twenty steps: Adam makes whole steps of rounding noise.
            self.assertLessEqual(error, 5e-3 * change + 1e-7, name)

    def test_the_builds_own_runner_speaks_by_path(self):
        runner = runners.PathRunner(self.files.model, "tensorflow")
        version = {"format_version": np.int32(contract.FORMAT_VERSION)}
        state = runner.call(contract.SAVE, version)
        self.assertEqual(set(state), {v.name for v in self.manifest.variables})
        runner.call(contract.TRAIN, {**self.batch, "learning_rate": np.float32(RATE)})
        self.assertEqual(int(runner.call(contract.SAVE, version)["step"]), 1)
        taken = runner.call(contract.RESTORE, {**version, **state})["restored"]
        self.assertEqual(int(taken), len(self.manifest.variables))
        self.assert_equal(runner.call(contract.SAVE, version), state)


class ExportTest(SelectTestCase):
    def test_patched_files_hold_the_checkpoint(self):
        trained = self.open()
        self.train(trained, 2)
        trained.save(self.checkpoint)
        state = self.state(trained)
        (self.directory / "inference.tflite").write_bytes(self.files.inference)
        for kind, bound in (("trainable", 0.0), ("inference", 5e-6)):
            output = self.directory / f"exported_{kind}.tflite"
            result = exporting.export(
                exporting.ExportConfig(
                    str(self.model), str(output), str(self.checkpoint), kind
                )
            )
            self.assertLessEqual(result["max_difference"], bound)
        written = self.directory / "exported_trainable.tflite"
        exported = self.open(written.read_bytes())
        self.assert_equal(self.state(exported), state)

    def test_checkpoint_of_another_kind(self):
        self.checkpoint.write_text("some text")
        with self.assertRaisesRegex(store.CheckpointError, "sorted table"):
            exporting.export(
                exporting.ExportConfig(
                    str(self.model), str(self.directory / "x"), str(self.checkpoint)
                )
            )
        self.assertFalse((self.directory / "x").exists())


class BuildTest(parameterized.TestCase):
    @parameterized.parameters("2.20.0", "2.21.0-rc1", "3.0.0")
    def test_tensorflow_without_flex_is_refused_before_any_work(self, version):
        with (
            mock.patch.object(importlib.metadata, "version", return_value=version),
            mock.patch.object(sources, "locate") as locate,
            self.assertRaisesRegex(commands.UserError, f"before 2.20.*{version}"),
        ):
            build.build(build.BuildConfig(ops="select"))
        locate.assert_not_called()


class VariablesTest(SelectTestCase):
    def test_their_buffers_are_known(self):
        found = patch.variable_buffers(tflite_file.parse(self.files.model))
        self.assertEqual(found, {v.name: v.buffer for v in self.manifest.variables})
        self.assertEqual(
            manifests.of_file(tflite_file.parse(self.files.model)), self.manifest
        )


if __name__ == "__main__":
    absltest.main()
