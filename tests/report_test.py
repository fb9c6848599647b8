"""Tests of the report."""

from __future__ import annotations

import importlib.util
import json
import sys
import unittest
from unittest import mock

from absl.testing import absltest

from ondevice import report

REPORT = {
    "source": "<palm>",
    "verified": True,
    "sha256": "ab" * 32,
    "spec": "palm_full",
    "classes": ["a&b", "c"],
    "trainable": "all",
    "parameters": 1234567,
    "variables": 5,
    "optimizer": "adam",
    "target": "tflite_runtime",
    "versions": {"numpy": "1.26"},
    "seconds": 61.4,
    "seconds_to_convert": 30.0,
    "memory": {"file": 3_000_000, "variables": 500, "signatures": {"train": 21e6}},
    "checks": [
        {
            "arrow": "train",
            "name": "1 step",
            "runtime": "ai_edge_litert",
            "figure": 0.25,
            "bound": 1.0,
            "note": "worst: <x>",
            "holds": True,
        },
        {
            "arrow": "export",
            "name": "bits",
            "runtime": "",
            "figure": None,
            "bound": 0.0,
            "note": "",
            "holds": False,
        },
    ],
}
LOSSES = {"tf.GradientTape": [3.0, 2.0], "ai_edge_litert": [3.0, 2.0]}
ERRORS = {"ai_edge_litert": {"a/kernel": 0.25, "b/kernel": 0.0}}


class HtmlTest(absltest.TestCase):
    def test_without_matplotlib_it_says_so(self):
        missing = {"matplotlib": None, "matplotlib.figure": None}
        with mock.patch.dict(sys.modules, missing):
            with self.assertLogs("absl", "WARNING") as logged:
                page = report.as_html(REPORT, LOSSES, ERRORS)
        self.assertRegex(logged.output[0], "install the extra `report`")
        self.assertIn("No plots: install the extra `report` (matplotlib)", page)
        self.assertNotIn("<img", page)
        self.assertIn("0.25", page)  # The numbers are there all the same.

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "no matplotlib")
    def test_with_matplotlib_it_has_two_plots(self):
        page = report.as_html(REPORT, LOSSES, ERRORS)
        self.assertEqual(page.count("data:image/png;base64,"), 2)
        self.assertNotIn("No plots", page)

    def test_figures_and_verdicts(self):
        page = report.as_html(REPORT, LOSSES, ERRORS)
        self.assertIn("every figure keeps its bound", page)
        self.assertIn("<td class=holds>holds", page)
        self.assertIn("<td class=number>none", page)
        self.assertIn("<td class=fails>fails", page)
        self.assertIn("train 21.0 MB, variables 0.0 MB, file 3.0 MB;", page)
        failed = report.as_html({**REPORT, "verified": False}, LOSSES, ERRORS)
        self.assertIn("NOT verified", failed)

    def test_names_are_escaped(self):
        page = report.as_html(REPORT, LOSSES, ERRORS)
        for raw, escaped in (("<palm>", "&lt;palm&gt;"), ("a&b", "a&amp;b")):
            self.assertNotIn(raw, page)
            self.assertIn(escaped, page)
        self.assertNotIn("<x>", page)

    def test_one_page_that_needs_no_other(self):
        page = report.as_html(REPORT, LOSSES, ERRORS)
        for foreign in ("src='http", "href=", "<script"):
            self.assertNotIn(foreign, page)


class JsonTest(absltest.TestCase):
    def test_round_trip(self):
        self.assertEqual(json.loads(report.as_json(REPORT)), REPORT)


if __name__ == "__main__":
    absltest.main()
