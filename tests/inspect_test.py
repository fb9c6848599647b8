"""Tests of the inspection and of trying a file in a process of its own."""

from __future__ import annotations

import json
import os
import math
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized

from checkpoints import tflite_file
from ondevice import inspect
from ondevice.device import probe, runtimes
from tests import conftest, shared_data, tflite_bytes, tiny


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ondevice.inspect", *arguments],
        capture_output=True,
        text=True,
        cwd=conftest.ROOT,
    )


class InspectTest(parameterized.TestCase):
    def test_trainable_file(self):
        path = self.create_tempfile("x.tflite", tiny.trainable(), mode="wb").full_path
        done = run(path)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(
            list(found),
            ["signatures", "operators", "custom", "flex", "variables", "memory"]
            + ["manifest", "runtimes"],
        )
        self.assertEqual(
            found["signatures"]["infer"]["inputs"],
            {"image": {"dtype": "float32", "shape": [1, 4, 4, 3]}},
        )
        self.assertEqual(found["operators"]["CALL_ONCE"], 7)
        self.assertRegex(done.stderr, r"\noperators  .*CALL_ONCE 7")
        self.assertEqual((found["custom"], found["flex"]), ([], []))
        self.assertEqual(
            [v["name"] for v in found["variables"]], [v.name for v in tiny.VARIABLES]
        )
        self.assertEqual(found["variables"][2]["shape"], [2, 6])
        self.assertEqual(found["manifest"]["classes"], ["a", "b"])
        for name in runtimes.NAMES:
            expected = {"runs": True, "error": None}
            if name not in runtimes.installed():
                expected = {"runs": False, "error": "not installed"}
            self.assertEqual(found["runtimes"][name], expected)
        variables = sum(math.prod(v.shape) * 4 for v in tiny.VARIABLES)
        self.assertEqual(found["memory"]["variables"], variables)
        self.assertEqual(found["memory"]["file"], len(tiny.trainable()))
        self.assertRegex(done.stderr, r"memory     .*train 0\.0 MB.*, file 0\.0 MB")
        self.assertRegex(done.stderr, r"input  image +float32 \[1,4,4,3\]")
        self.assertRegex(done.stderr, "manifest   trainable of tiny, classes a, b")
        self.assertRegex(done.stderr, "target     any")

    def test_vendor_file(self):
        path = str(shared_data.shared("models", "face_detection_front.tflite"))
        with mock.patch.object(runtimes, "NAMES", runtimes.installed()[:1]):
            found = inspect.inspect(path)
        self.assertEqual(found["operators"]["CONV_2D"], 21)
        self.assertEqual((found["signatures"], found["variables"]), ({}, []))
        self.assertIsNone(found["manifest"])
        self.assertEqual(
            list(found["runtimes"].values()), [probe.Verdict(True, None)]
        )
        self.assertIn("manifest   none", inspect.table(found))

    def test_select_file_runs_where_flex_is(self):
        path = self.create_tempfile("x.tflite", tiny.select(), mode="wb").full_path
        found = inspect.inspect(path)
        self.assertContainsSubset(("FlexRestore", "FlexSave"), found["flex"])
        self.assertTrue(found["runtimes"]["tensorflow"].runs)
        for name in set(runtimes.installed()) - {"tensorflow"}:
            self.assertRegex(found["runtimes"][name].error, "signature 'save'.*Flex")

    @parameterized.named_parameters(
        ("none", [], 2, "must be one argument"),
        ("two", ["a", "b"], 2, "must be one argument"),
        ("absent", ["nowhere.tflite"], 2, "must exist"),
        ("text", ["setup.cfg"], 1, "setup.cfg: .*identifier"),
        ("flag", ["--timeout=0", "setup.cfg"], 2, "timeout"),
    )
    def test_mistakes(self, arguments, status, message):
        done = run(*arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""))
        self.assertRegex(done.stderr, rf"\Aerror: .*{message}.*\n\Z")

    def test_help_shows_an_example(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("python -m ondevice.inspect out/", done.stdout)
        self.assertIn("--timeout", done.stdout)


class ProbeTest(parameterized.TestCase):
    def _probe(self, code: str, timeout: float = 30.0) -> probe.Verdict:
        with mock.patch.object(probe, "_START", (sys.executable, "-c", code)):
            return probe.probe("x.tflite", runtimes.installed()[0], timeout)

    def test_crash(self):
        verdict = self._probe(
            "import os, sys; print('bad tensor', file=sys.stderr, flush=True);"
            "os.abort()"
        )
        self.assertFalse(verdict.runs)
        self.assertEqual(verdict.error, "died of signal SIGABRT: bad tensor")

    def test_hang(self):
        verdict = self._probe("import time; time.sleep(60)", timeout=0.2)
        self.assertEqual(verdict.error, "still running after 0.2 seconds")

    def test_silent_death(self):
        self.assertEqual(self._probe("exit(3)").error, "exit status 3")

    def test_not_installed(self):
        self.assertEqual(probe.probe("x", "onnx", 1.0).error, "not installed")

    @parameterized.parameters(*runtimes.installed()[:2])
    def test_malformed_file(self, name):
        path = self.create_tempfile("x.tflite", b"text" * 64, mode="wb").full_path
        verdict = probe.probe(path, name, 60.0)
        self.assertFalse(verdict.runs)
        self.assertTrue(verdict.error)

    def test_from_any_folder(self):
        path = self.create_tempfile("x.tflite", tiny.trainable(), mode="wb").full_path
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.create_tempdir().full_path)
        without = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
        with mock.patch.dict(os.environ, without, clear=True):
            verdict = probe.probe(path, runtimes.installed()[0], 60.0)
        self.assertEqual(verdict, probe.Verdict(True))

    def test_a_huge_request_for_memory_is_an_answer(self):
        # ABS of 2**31 float32: 8 GB in and 8 GB out.
        shape = (2**16, 2**15)
        data = tflite_bytes.model_bytes(
            ((shape, "FLOAT32", 0), (shape, "FLOAT32", 0)),
            (b"",),
            ((0, (0,), (1,)),),
            ((101, None),),
        )
        tflite_file.parse(data)
        path = self.create_tempfile("x.tflite", data, mode="wb").full_path
        verdict = probe.probe(path, runtimes.installed()[0], 60.0)
        self.assertFalse(verdict.runs)


if __name__ == "__main__":
    absltest.main()
