"""Tests of the export command, in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys

from absl.testing import absltest

from tests import conftest, export_test


class CommandTest(export_test.ExportTestCase):
    def run_command(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "ondevice.export", *arguments],
            capture_output=True,
            text=True,
            cwd=conftest.ROOT,
        )

    def test_last_line_is_the_result_and_tensorflow_is_not_imported(self):
        code = (
            "import runpy, sys\n"
            "sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
            "runpy.run_module('ondevice.export', run_name='__main__')\n"
        )
        done = subprocess.run(
            [
                *(sys.executable, "-c", code, f"--model={self.model}"),
                *(f"--output={self.output}", f"--checkpoint={self.checkpoint}"),
                "--kind=inference",
            ],
            capture_output=True,
            text=True,
            cwd=conftest.ROOT,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual(result["output"], str(self.output))
        self.assertEqual(result["bytes"], len(self.files.inference))

    def test_mistakes_and_help(self):
        for arguments, status, message in (
            ((), 2, "--model"),
            ((f"--model={self.model}", f"--output={self.model}"), 2, "another file"),
            (("--model=setup.cfg", f"--output={self.output}"), 1, "identifier"),
        ):
            done = self.run_command(*arguments)
            self.assertEqual((done.returncode, done.stdout), (status, ""))
            self.assertRegex(done.stderr, rf"\Aerror: .*{message}.*\n\Z")
        done = self.run_command("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("--kind=inference --method=reconvert", done.stdout)
        self.assert_nothing_written()


if __name__ == "__main__":
    absltest.main()
