"""Tests of finding the vendor's file; pip is never run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import subprocess
import sys
import zipfile
from unittest import mock

from absl.testing import absltest

from ondevice import sources

CONTENT = {
    "palm_full": b"full",
    "palm_lite": b"lite",
    "face_short_range": b"face",
    "face_full_range_sparse": b"sparse",
}
FOLDER = "mediapipe/modules/palm_detection"
KNOWN = {
    name: dataclasses.replace(known, sha256=hashlib.sha256(CONTENT[name]).hexdigest())
    for name, known in sources.KNOWN.items()
}


class SourcesTestCase(absltest.TestCase):
    """An empty cache, no mediapipe, a pip that gives what the test says."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.create_tempdir().full_path)
        self.cache = self.directory / "cache"
        self.wheel = dict(CONTENT)
        self.pip = mock.Mock(side_effect=self.download)
        for patcher in (
            mock.patch.object(sources, "KNOWN", KNOWN),
            mock.patch.dict(os.environ, {"ONDEVICE_CACHE": str(self.cache)}),
            mock.patch.object(sources.subprocess, "run", self.pip),
        ):
            patcher.start()
            self.addCleanup(patcher.stop)
        # This machine may have the package.
        self.installed = mock.patch.object(sources, "_installed", return_value=None)
        self.installed.start()
        self.addCleanup(mock.patch.stopall)

    def download(self, command, **_):
        folder = pathlib.Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "mediapipe-0.10.21-x.whl", "w") as wheel:
            for name, content in self.wheel.items():
                wheel.writestr(KNOWN[name].path, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    def put(self, directory: pathlib.Path, content: bytes, name="palm_full"):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / KNOWN[name].file).write_bytes(content)

    def install(self, content: bytes):
        """An installed mediapipe that must not be imported."""
        self.installed.stop()
        packages = self.directory / "packages"
        self.put(packages / FOLDER, content)
        (packages / "mediapipe" / "__init__.py").write_text("raise SystemExit(9)")
        patcher = mock.patch.object(sys, "path", [str(packages), *sys.path])
        patcher.start()
        self.addCleanup(patcher.stop)


class LocateTest(SourcesTestCase):
    def test_path(self):
        self.put(self.directory, b"mine")
        path = self.directory / KNOWN["palm_full"].file
        found = sources.locate(str(path))
        self.assertEqual((found.name, found.data), (path.stem, b"mine"))
        self.assertEqual(found.sha256, hashlib.sha256(b"mine").hexdigest())
        self.pip.assert_not_called()

    def test_neither_name_nor_path(self):
        with self.assertRaisesRegex(
            sources.SourceError, "palm_full, palm_lite.*'palm_huge'"
        ):
            sources.locate("palm_huge")

    def test_cache(self):
        self.put(self.cache, CONTENT["palm_full"])
        found = sources.locate("palm_full")
        self.assertEqual((found.name, found.data), ("palm_full", b"full"))
        self.pip.assert_not_called()

    def test_installed_package_is_located_and_not_imported(self):
        self.install(CONTENT["palm_full"])
        self.assertEqual(sources.locate("palm_full").data, b"full")
        self.assertNotIn("mediapipe", sys.modules)
        self.pip.assert_not_called()

    def test_files_of_another_digest_are_passed_over(self):
        self.put(self.cache, b"damaged")
        self.install(b"another release's")
        with self.assertLogs("absl", "WARNING") as logged:
            self.assertEqual(sources.locate("palm_full").data, b"full")
        self.assertLen(logged.output, 2)
        self.assertRegex(logged.output[0], "cache.*passed over")
        self.pip.assert_called_once()

    def test_fetched_once_for_all(self):
        for name, content in CONTENT.items():
            self.assertEqual(sources.locate(name).data, content)
        self.pip.assert_called_once()
        command = self.pip.call_args.args[0]
        self.assertEqual(command[1:4], ["-m", "pip", "download"])
        self.assertIn("--no-deps", command)
        self.assertEqual(command[-1], "mediapipe==0.10.21")


class FetchFailsTest(SourcesTestCase):
    def assert_error(self, reason: str):
        with self.assertRaises(sources.SourceError) as caught:
            sources.locate("palm_full")
        self.assertRegex(str(caught.exception), reason)
        self.assertRegex(
            str(caught.exception), "palm_detection_full.tflite .*--source=FILE"
        )

    def test_no_network(self):
        self.pip.side_effect = lambda command, **_: subprocess.CompletedProcess(
            command, 1, "", "WARNING: Retrying\nERROR: No matching distribution\n"
        )
        self.assert_error("ERROR: No matching distribution")
        self.assertFalse(self.cache.exists())

    def test_no_pip(self):
        self.pip.side_effect = lambda command, **_: subprocess.CompletedProcess(
            command, 1, "", ""
        )
        self.assert_error("pip gave no file")

    def test_wheel_with_another_model(self):
        self.wheel["palm_full"] = b"changed"
        self.assert_error("no palm_detection_full.tflite of that digest")

    def test_wheel_without_the_model(self):
        del self.wheel["palm_full"]
        self.assert_error("wheel without it")

    def test_damaged_wheel(self):
        def download(command, **_):
            folder = pathlib.Path(command[command.index("--dest") + 1])
            (folder / "mediapipe.whl").write_bytes(b"half a wheel")
            return subprocess.CompletedProcess(command, 0, "", "")

        self.pip.side_effect = download
        self.assert_error("not a zip file")


if __name__ == "__main__":
    absltest.main()
