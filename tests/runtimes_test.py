"""Tests of the choice of runtime."""

from __future__ import annotations

import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized

from ondevice.device import runtimes
from tests import tiny


class ChooseTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("all", ("ai_edge_litert", "tflite_runtime", "tensorflow"), "ai_edge_litert"),
        ("two", ("tflite_runtime", "tensorflow"), "tflite_runtime"),
        ("one", ("tensorflow",), "tensorflow"),
    )
    def test_auto_takes_the_first_installed(self, there, chosen):
        with mock.patch.object(runtimes, "installed", lambda: there):
            self.assertEqual(runtimes.choose(), chosen)

    @parameterized.parameters("tensorflow", "onnxruntime", "")
    def test_others_list_those_installed(self, name):
        with mock.patch.object(runtimes, "installed", lambda: ("tflite_runtime",)):
            with self.assertRaisesRegex(
                runtimes.RuntimeChoiceError,
                f"'{name}'; installed: \\['tflite_runtime'\\]",
            ):
                runtimes.choose(name)

    def test_none_installed(self):
        with mock.patch.object(runtimes, "installed", lambda: ()):
            with self.assertRaisesRegex(
                runtimes.RuntimeChoiceError, r"'auto'; installed: \[\]"
            ):
                runtimes.create(b"")

    def test_installed_keeps_the_order_and_imports_nothing(self):
        code = (
            "import sys; from ondevice.device import runtimes\n"
            "there = runtimes.installed()\n"
            "assert list(there) == [n for n in runtimes.NAMES if n in there], there\n"
            "assert not set(there) & set(sys.modules), sorted(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_broken_import_is_one_error(self):
        broken = {name: "nowhere" for name in runtimes.NAMES}
        with mock.patch.object(runtimes, "_MODULES", broken):
            with self.assertRaisesRegex(runtimes.RuntimeChoiceError, "nowhere"):
                runtimes.interpreter_class()


class CreateTest(parameterized.TestCase):
    @parameterized.parameters(*runtimes.installed())
    def test_every_runtime_takes_content_and_path(self, name):
        data = tiny.inference()[0]
        path = self.create_tempfile("x.tflite", data, mode="wb").full_path
        for model in (data, path):
            interpreter = runtimes.create(model, name, threads=1)
            self.assertIsInstance(interpreter, runtimes.interpreter_class(name))
            self.assertLen(interpreter.get_input_details(), 1)

    def test_tensors_are_allocated_before_any_signature(self):
        made = mock.Mock()
        with mock.patch.object(runtimes, "interpreter_class", lambda _: made):
            runtimes.create(b"x", threads=2)
        made.assert_called_once_with(model_content=b"x", num_threads=2)
        made.return_value.allocate_tensors.assert_called_once_with()

    def test_a_refused_model_is_one_line(self):
        with self.assertRaisesRegex(runtimes.RuntimeFailure, "must be able to run"):
            runtimes.create(b"no model at all, but 32 bytes.  ")

    def test_threads(self):
        with self.assertRaisesRegex(runtimes.RuntimeChoiceError, "Received: 0"):
            runtimes.create(tiny.inference()[0], threads=0)


if __name__ == "__main__":
    absltest.main()
