"""Tests of the checkpoint command, in processes of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import interchange, store, tensorflow_v1
from ondevice import checkpoint
from ondevice.device import runtimes, session
from tests import checkpoint_data, conftest, tiny

# Any import of tensorflow fails.
COMMAND = (
    "import runpy, sys\n"
    "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
    "runpy.run_module('ondevice.checkpoint', run_name='__main__', alter_sys=True)\n"
)
SLOTS = ["head/bias/m", "head/kernel/m", "head/kernel/v", "step"]


class CommandTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)

    def path(self, name: str) -> pathlib.Path:
        return self.directory / name

    def run_command(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=conftest.ROOT,
        )

    def result(self, *arguments, status: int = 0) -> dict:
        """The JSON object that a command prints; what it logs is in `self.log`."""
        done = self.run_command(*arguments)
        self.assertEqual(done.returncode, status, done.stderr)
        self.log = done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def refuses(self, message: str, *arguments, status: int = 1) -> None:
        before = {p: p.read_bytes() for p in self.directory.iterdir()}
        done = self.run_command(*arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertRegex(done.stderr, rf"\Aerror: .*{message}.*\n\Z")
        after = {p: p.read_bytes() for p in self.directory.iterdir()}
        self.assertEqual(before, after)

    def save(self, name: str, tensors=None, header=checkpoint_data.HEADER):
        tensors = checkpoint_data.tensors() if tensors is None else tensors
        store.save_file(self.path(name), tensors, header)
        return self.path(name)

    def assert_same(self, one, two):
        self.assertEqual(set(one), set(two))
        for name, array in one.items():
            self.assertEqual(np.asarray(array).tobytes(), two[name].tobytes(), name)


class ModelTest(CommandTestCase):
    """With trainable files: one of builtin operators, one that saves as TensorFlow."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if "tensorflow" not in runtimes.installed():
            raise absltest.SkipTest("no tensorflow")
        random = np.random.default_rng(2)
        with session.Session(tiny.trainable(), threads=1) as opened:
            signature = opened.manifest.signature("train")
        cls.batch = {
            spec.name: random.random(spec.shape, np.float32)
            for spec in signature.inputs
        } | {"learning_rate": np.float32(0.1)}

    def setUp(self):
        super().setUp()
        self.model = self.path("model.tflite")
        self.model.write_bytes(tiny.trainable())

    def open(self, data: bytes) -> session.Session:
        opened = session.Session(data, threads=1)
        self.addCleanup(opened.close)
        return opened

    def trained(self, steps: int = 3) -> tuple[dict[str, np.ndarray], pathlib.Path]:
        """The variables after some steps, and a checkpoint of them."""
        opened = self.open(tiny.trainable())
        for _ in range(steps):
            opened.train(**self.batch)
        opened.save(self.path("run.safetensors"), epoch=2, seed=5)
        return opened.state(), self.path("run.safetensors")

    def test_from_a_file_that_saves_as_tensorflow_to_ours(self):
        phone, ours = self.path("phone"), self.path("x")
        saving = self.open(tiny.select())
        for _ in range(3):
            saving.train(**self.batch)
        saving.save(phone)
        result = self.result(
            "convert", phone, f"--model={self.model}", "--to=ondevice",
            f"--output={ours}",
        )  # fmt: skip
        self.assertEqual(
            {k: v for k, v in result.items() if k != "seconds"},
            {
                "output": str(ours), "from": "tensorflow", "to": "ondevice",
                "tensors": 6, "renamed": {}, "zeroed": [], "step": 3,
                "bytes": ours.stat().st_size,
            },
        )  # fmt: skip
        opened = self.open(tiny.trainable())
        header = opened.restore(ours)
        self.assertEqual((header.step, header.classes), (3, ("a", "b")))
        self.assert_same(opened.state(), tensorflow_v1.load_file(phone))
        image = self.batch["image"][:1]
        np.testing.assert_allclose(
            opened.infer(image)[1], saving.infer(image)[1], rtol=1e-6
        )
        fresh = self.open(tiny.trainable()).infer(image)[1]
        self.assertTrue((opened.infer(image)[1] != fresh).any())

    def test_from_ours_to_a_file_that_restores_as_tensorflow(self):
        state, ours = self.trained()
        theirs = self.path("x")
        self.result(
            "convert", ours, f"--model={self.model}", "--to=tensorflow",
            f"--output={theirs}",
        )  # fmt: skip
        self.assertIn("epoch, seed, random state and classes are left out", self.log)
        restoring = self.open(tiny.select())
        restoring.restore(theirs)
        again = self.path("again")
        restoring.save(again)
        # The file writes what it read: TensorFlow's bytes are ours.
        self.assertEqual(again.read_bytes(), theirs.read_bytes())
        self.assert_same(tensorflow_v1.load_file(again), state)
        back = self.path("back")
        self.result(
            "convert", again, f"--model={self.model}", "--to=ondevice",
            f"--output={back}",
        )  # fmt: skip
        self.assertTrue(self.result("diff", ours, back)["equal"])

    def test_weights_alone_under_other_names(self):
        state, _ = self.trained()
        weights = {n: a for n, a in state.items() if n in ("head/bias", "head/kernel")}
        named = {name.replace("head", "dense") + ":0": a for name, a in weights.items()}
        phone, output = self.path("phone"), self.path("x")
        tensorflow_v1.save_file(phone, named)
        convert = (
            "convert", phone, f"--model={self.model}", "--to=ondevice",
            f"--output={output}",
        )  # fmt: skip
        self.refuses("missing .*'head/kernel/v'.*surplus .*'dense/kernel:0'", *convert)
        renames = [f"--rename=dense/{n}:0=head/{n}" for n in ("kernel", "bias")]
        self.refuses("--missing_slots=zero", *convert, *renames)
        zero = "--missing_slots=zero"
        self.refuses("missing .*'head/bias'", *convert, zero, renames[0])
        self.refuses(
            "two tensors that are 'head/kernel'", *convert, zero, renames[0],
            "--rename=dense/bias:0=head/kernel",
        )  # fmt: skip
        result = self.result(*convert, zero, *renames)
        self.assertEqual(result["zeroed"], SLOTS)
        self.assertIn(f"Set to zero, since {phone} has none: head/bias/m", self.log)
        opened = self.open(tiny.trainable())
        opened.restore(output)
        zeros = {name: np.zeros_like(array) for name, array in state.items()}
        self.assert_same(opened.state(), zeros | weights)

    def test_another_model(self):
        state, ours = self.trained()
        header = dataclasses.replace(checkpoint_data.HEADER, fingerprint="cd" * 32)
        self.save("other", state, header)
        self.refuses(
            "another model.*another optimizer", "convert", self.path("other"),
            f"--model={self.model}", "--to=ondevice", f"--output={self.path('x')}",
        )  # fmt: skip

    def test_inspect(self):
        state, ours = self.trained()
        found = self.result("inspect", ours, f"--model={self.model}")
        self.assertEqual((found["format"], found["header"]["epoch"]), ("ondevice", 2))
        self.assertTrue(found["model"]["fits"])
        self.assertIn("fits the model", self.log)
        told = {tensor["name"]: tensor for tensor in found["tensors"]}
        self.assertEqual(set(told), set(state))
        moved = state["head/kernel"].astype(np.float64) - tiny.KERNEL
        norm = np.linalg.norm(moved)
        self.assertGreater(norm, 0)
        learnt = told["head/kernel"]["learnt"]
        self.assertAlmostEqual(learnt["l2"] / norm, 1)
        self.assertAlmostEqual(
            learnt["relative"] / (norm / np.linalg.norm(tiny.KERNEL)), 1, delta=1e-6
        )
        self.assertRegex(self.log, r"head/kernel +weight +float32 +\[2,6\].*\(.*%\)")
        self.assertNotIn("nan", self.log)  # Slots that were zero have no share.
        wrong = {n: a for n, a in state.items() if n != "step"}
        tensorflow_v1.save_file(self.path("x"), wrong)
        found = self.result("inspect", self.path("x"), f"--model={self.model}")
        self.assertEqual((found["format"], found["header"]), ("tensorflow", None))
        self.assertEqual(found["model"]["missing"], ["step"])
        self.assertIn("missing tensors ['step']", self.log)

    def test_what_is_no_model(self):
        _, ours = self.trained(0)
        self.refuses("identifier", "inspect", ours, f"--model={ours}")
        output = f"--output={self.model}"
        self.refuses(
            "another file than --model", "convert", ours, f"--model={self.model}",
            "--to=tensorflow", output, status=2,
        )  # fmt: skip


class DiffTest(CommandTestCase):
    def test_equal_is_0_and_different_is_1(self):
        one = self.save("one")
        tensors = checkpoint_data.tensors()
        tensorflow_v1.save_file(self.path("two"), tensors)
        found = self.result("diff", one, self.path("two"))
        self.assertTrue(found["equal"])
        self.assertIn("10 tensors are equal, bit for bit", self.log)
        tensors["stem/bias"] = tensors["stem/bias"] + np.float32(0.5)
        del tensors["head/kernel/m"]
        later = dataclasses.replace(checkpoint_data.HEADER, epoch=4)
        other = self.save("other", tensors, later)
        found = self.result("diff", one, other, status=1)
        self.assertFalse(found["equal"])
        self.assertEqual(found["only_first"], ["head/kernel/m"])
        self.assertEqual(found["header"], {"epoch": [0, 4]})
        told = {tensor["name"]: tensor for tensor in found["common"]}
        self.assertAlmostEqual(told["stem/bias"]["max_difference"], 0.5, delta=1e-6)
        self.assertRegex(self.log, r"only in the first: head/kernel/m\n.*0\.5 at most")

    def test_a_difference_that_is_no_number(self):
        with_nan = checkpoint_data.tensors() | {"step": np.array([7], np.int32)}
        found = self.result("diff", self.save("a"), self.save("b", with_nan), status=1)
        self.assertEqual(found["differing"][0]["second"]["shape"], [1])
        self.assertIn("step: int32 [] and int32 [1]", self.log)


class AverageTest(CommandTestCase):
    def test_mean(self):
        one = checkpoint_data.tensors()
        two = {name: array + array.dtype.type(1) for name, array in one.items()}
        paths = self.save("a", one), self.save("b", two)
        output = self.path("mean.safetensors")
        for flag, share in (((), 0.5), (("--weights=1,3",), 0.75)):
            result = self.result("average", *paths, f"--output={output}", *flag)
            self.assertEqual(result["shares"], [1 - share, share])
            self.assertLen(result["zeroed"], 7)
            self.assertIn("6 slots of the optimizer are zero", self.log)
            found = interchange.load_file(output)
            for name in checkpoint_data.weights():
                np.testing.assert_allclose(found.tensors[name], one[name] + share, 1e-5)
            self.assertEqual(found.tensors["step"], 0)
            self.assertEqual(found.header.step, 0)

    def test_mistakes(self):
        a, output = self.save("a"), f"--output={self.path('x')}"
        tensorflow_v1.save_file(self.path("t"), checkpoint_data.tensors())
        self.refuses("no header", "average", a, self.path("t"), output)
        for arguments, message in (
            (("average", a, output), "2 or more checkpoints"),
            (("average", a, a), "--output must name a file"),
            (("average", a, a, f"--output={a}"), "another file than checkpoint 1"),
            (("average", a, a, output, "--weights=1"), "--weights must be 2 numbers"),
            (("average", a, a, output, "--weights=0,0"), "--weights must be 2 numbers"),
            (("average", a, a, output, "--weights=2,-1"), "--weights must be 2"),
            (("average", a, a, output, "--weights=nan,1"), "--weights must be 2"),
            (("average", a, a, output, "--weights=1e308,1e308"), "--weights must be 2"),
            (("average", a, a, output, "--weights=x,1"), "--weights must be 2"),
        ):
            self.refuses(message, *arguments, status=2)


class UsageTest(CommandTestCase):
    def test_mistakes(self):
        a = self.save("a")
        self.path("text").write_text("some text")
        convert = ("convert", a, "--model=setup.cfg", f"--output={self.path('x')}")
        for arguments, message in (
            ((), "one of .'inspect', 'convert', 'diff', 'average'. first"),
            ((a,), "one of .'inspect'"),
            (("inspect",), "must have 1 checkpoints"),
            (("diff", a), "must have 2 checkpoints"),
            (("inspect", self.path("none")), "must exist"),
            (("inspect", self.directory), "directory"),
            (("inspect", a, "--to=ondevice"), "--to must not go with inspect"),
            (("diff", a, a, "--model=setup.cfg"), "--model must not go with diff"),
            (("convert", a), "--model must exist"),
            (convert, "--to must say"),
            ((*convert, "--to=keras"), "--to"),
            ((*convert, "--to=ondevice", "--rename=a"), "OLD=NEW"),
            ((*convert, "--to=ondevice", "--rename=a=b=c"), "OLD=NEW"),
            ((*convert, "--to=ondevice", "--rename==b"), "OLD=NEW"),
            (("convert", a, "--model=setup.cfg", f"--output={a}"), "another file than"),
        ):
            self.refuses(message, *arguments, status=2)
        self.refuses("one of ours, or of Tensor", "inspect", self.path("text"))

    def test_help_shows_every_flag(self):
        done = self.run_command("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for name in checkpoint.FLAGS:
            self.assertIn(f"--{name}", done.stdout)
        for name in ("inspect", "convert", "diff", "average"):
            self.assertIn(f"python -m ondevice.checkpoint {name}", done.stdout)

    def test_outputs_that_exist_are_replaced_and_nothing_is_left_beside(self):
        a = self.save("a")
        self.path("x").write_text("old")
        self.result("average", a, a, f"--output={self.path('x')}")
        self.assertEqual(sorted(os.listdir(self.directory)), ["a", "x"])
        self.assertEqual(interchange.load_file(self.path("x")).format, "ondevice")


if __name__ == "__main__":
    absltest.main()
