"""Tests of what all commands share: exit status, streams, the JSON line, help."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags
from absl.testing import absltest, parameterized

from checkpoints import manifest, patch, store, tflite_file
from ondevice import commands
from ondevice.device import runtimes, samples, session

DOCSTRING = """Does a thing.

    python -m thing --rate=3
"""


def raising(error):
    def main(_):
        raise error

    return main


class CommandsTestCase(parameterized.TestCase):
    def execute(self, main, *arguments, docstring=DOCSTRING):
        """Returns (status, stdout, stderr) of a command with a flag --rate."""
        values = commands.flag_values()
        flags.DEFINE_float("rate", 0.5, "Step size.", lower_bound=0, flag_values=values)
        flags.DEFINE_enum("kind", "a", ["a", "b"], "Sort.", flag_values=values)
        self.values = values
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = commands.execute(main, docstring, ["x", *arguments], values)
        return status, out.getvalue(), err.getvalue()


class OutcomeTest(CommandsTestCase):
    def test_last_line_is_one_json_object(self):
        def main(arguments):
            print("chatter of a library")
            return {
                "rate": self.values["rate"].value,
                "arguments": arguments,
                "array": np.arange(2, dtype=np.float32),
                "scalar": np.int64(3),
                "nan": float("nan"),
                "path": pathlib.Path("a"),
                "spec": manifest.TensorSpec("a", (1, 2)),
            }

        status, out, _ = self.execute(main, "--rate=2", "one", "--kind=b", "two")
        self.assertEqual(status, 0)
        self.assertEqual(
            json.loads(out.splitlines()[-1]),
            {
                "rate": 2.0,
                "arguments": ["one", "two"],
                "array": [0.0, 1.0],
                "scalar": 3,
                "nan": None,
                "path": "a",
                "spec": {"name": "a", "shape": [1, 2], "dtype": "float32"},
            },
        )

    def test_what_did_not_hold_is_status_1_and_still_json(self):
        status, out, _ = self.execute(lambda _: commands.Outcome({"a": 1}, False))
        self.assertEqual((status, out), (1, '{"a": 1}\n'))

    def test_flags_have_their_defaults_before_they_are_parsed(self):
        self.execute(lambda _: {})
        values = commands.flag_values()
        rate = flags.DEFINE_float("rate", 0.5, "", flag_values=values)
        self.assertEqual(rate.value, 0.5)


class ErrorTest(CommandsTestCase):
    @parameterized.named_parameters(
        ("tflite", tflite_file.TfliteError("bad\n  file"), 1, "bad file"),
        ("manifest", manifest.ManifestError("bad"), 1, "bad"),
        ("checkpoint", store.CheckpointError("bad"), 1, "bad"),
        ("patch", patch.PatchError("bad"), 1, "bad"),
        ("session", session.SessionError("bad"), 1, "bad"),
        ("failure", runtimes.RuntimeFailure("bad"), 1, "bad"),
        ("runtime", runtimes.RuntimeChoiceError("bad"), 2, "bad"),
        ("user", commands.UserError("bad"), 1, "bad"),
        ("usage", commands.UsageError("bad"), 2, "bad"),
        ("absl_usage", app.UsageError("bad"), 2, r"bad \(--help lists the flags\)"),
        ("absent", FileNotFoundError(2, "No such file", "x"), 2, "No such file: x"),
        ("directory", IsADirectoryError(21, "Is a directory", "x"), 2, "Is a.*: x"),
        ("denied", PermissionError(13, "Permission denied", "x"), 1, "Perm.*: x"),
        ("bare", OSError("disk full"), 1, "disk full"),
        ("interrupt", KeyboardInterrupt(), 130, "interrupted"),
    )
    def test_one_readable_line(self, error, expected, message):
        status, out, err = self.execute(raising(error))
        self.assertEqual((status, out), (expected, ""))
        self.assertRegex(err, rf"\Aerror: {message}\n\Z")

    @parameterized.parameters("--rate=x", "--rate=-1", "--speed=1", "--kind=c")
    def test_wrong_flags_are_status_2(self, argument):
        status, out, err = self.execute(lambda _: {}, argument)
        self.assertEqual((status, out), (2, ""))
        self.assertRegex(err, r"\Aerror: .*(rate|speed|kind).*\n\Z")

    def test_several_faults_take_a_line_each(self):
        error = samples.DataError("DIR", ["a.jpg: is\nbroken", "b.jpg: is, too"])
        status, out, err = self.execute(raising(error))
        self.assertEqual((status, out), (1, ""))
        listed = "  a.jpg: is broken\n  b.jpg: is, too\n"
        self.assertEqual(err, f"error: DIR cannot be used as data:\n{listed}")

    @parameterized.parameters(ValueError("bug"), RuntimeError("bug"), KeyError("bug"))
    def test_our_own_mistakes_keep_their_traceback(self, error):
        with self.assertRaises(type(error)):
            self.execute(raising(error))

    def test_result_that_json_cannot_hold_is_our_mistake(self):
        with self.assertRaises(TypeError):
            self.execute(lambda _: {"a": object()})

    def test_existing(self):
        path = self.create_tempfile("x").full_path
        self.assertEqual(commands.existing(path, "It"), path)
        for wrong in (None, "", f"{path}y"):
            with self.assertRaisesRegex(commands.UsageError, "It must exist"):
                commands.existing(wrong, "It")

    def test_new_file(self):
        folder = self.create_tempdir().full_path
        read = os.path.join(folder, "read")
        pathlib.Path(read).touch()
        link = os.path.join(folder, "link")
        os.symlink(read, link)
        new = os.path.join(folder, "new")
        self.assertEqual(commands.new_file(new, {"--model": read}), new)
        self.assertEqual(commands.new_file(read, {}), read)  # It is replaced.
        for output, inputs, message in (
            (None, {}, "name a file"),
            ("", {}, "name a file"),
            (folder, {}, "name a file"),
            (os.path.join(folder, "nowhere", "x"), {}, "directory that exists"),
            (read, {"--model": read}, "another file than --model"),
            (link, {"--data": folder, "--model": read}, "another file than --model"),
            (read, {"--model": link}, "another file than --model"),
            (new, {"--model": f"{read}y"}, "--model must exist"),
            (new, {"--model": None}, "--model must exist"),
        ):
            with self.assertRaisesRegex(commands.UsageError, message):
                commands.new_file(output, inputs)

    def test_no_arguments(self):
        commands.no_arguments([])
        with self.assertRaisesRegex(commands.UsageError, r"\['a'\]"):
            commands.no_arguments(["a"])


class HelpTest(CommandsTestCase):
    @parameterized.parameters("--help", "-help", "--helpshort", "-h", "--helpfull")
    def test_docstring_and_own_flags(self, argument):
        status, out, err = self.execute(raising(AssertionError), "--rate=x", argument)
        self.assertEqual((status, err), (0, ""))
        self.assertStartsWith(out, "Does a thing.\n\n    python -m thing --rate=3\n")
        self.assertIn("  --rate: Step size.\n      default: 0.5\n", out)
        self.assertIn("  --kind: <a|b>: Sort.\n      default: a\n", out)
        self.assertEqual(out.count("--"), 3)  # No flag but its own.

    def test_whoever_reads_may_leave(self):
        source = "from ondevice import commands; commands.run(print, 'word ' * 10**6)"
        with subprocess.Popen(
            [sys.executable, "-c", source, "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            process.stdout.read(9)
            process.stdout.close()
            self.assertEqual((process.stderr.read(), process.wait()), (b"", 1))

    def test_nobody_reads_from_the_start(self):
        reads, writes = os.pipe()
        os.close(reads)
        source = "from ondevice import commands; commands.run(print, 'word')"
        command = [sys.executable, "-c", source, "--help"]
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE)
        os.close(writes)
        self.assertEqual((done.stderr, done.returncode), (b"", 1))

    def test_help_after_two_dashes_is_an_argument(self):
        status, out, _ = self.execute(lambda a: {"a": a}, "--", "--help")
        self.assertEqual((status, out), (0, '{"a": ["--help"]}\n'))

    def test_global_flags_serve_too(self):
        text = commands.help_text("Doc.", sys.argv[0])
        self.assertStartsWith(text, "Doc.\n\nFlags:")


class RunTest(CommandsTestCase):
    def test_leaves_with_the_status_and_stays_light(self):
        code = (
            "import sys\n"
            "from ondevice import commands\n"
            "heavy = {'numpy', 'tqdm', 'tflite', 'tensorflow'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "commands.run(lambda a: commands.Outcome({'a': a}, False), 'Doc.')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "x"], capture_output=True, text=True
        )
        self.assertEqual((done.returncode, done.stdout), (1, '{"a": ["x"]}\n'))
        self.assertEqual(done.stderr, "")

    def test_no_progress_bar_where_there_is_no_terminal(self):
        with contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(list(commands.progress([1, 2], "work")), [1, 2])
        self.assertEqual(err.getvalue(), "")

    def test_progress_bar_on_a_terminal(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        with contextlib.redirect_stderr(Terminal()) as err:
            list(commands.progress(iter([1, 2]), "work", total=2))
        self.assertRegex(err.getvalue(), "work: 100%")

    def test_log_lines_go_to_stderr(self):
        code = (
            "from absl import logging\n"
            "from ondevice import commands\n"
            "commands.run(lambda a: logging.info('noted') or {}, 'Doc.')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True
        )
        self.assertEqual(done.stdout, "{}\n")
        self.assertIn("noted", done.stderr)

    def test_names_of_classes(self):
        self.assertEqual(commands.class_names(None), ())
        self.assertEqual(commands.class_names("b, a"), ("b", "a"))
        for text, told in (("a,b,a", "where a stands twice"), ("a,,b", "none empty")):
            with self.assertRaisesRegex(commands.UsageError, told):
                commands.class_names(text)

    def test_outcome_is_frozen(self):
        with self.assertRaises(dataclasses.FrozenInstanceError):
            commands.Outcome({}).holds = False  # type: ignore[misc]


if __name__ == "__main__":
    absltest.main()
