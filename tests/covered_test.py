"""Tests of the table of what the tests run."""

from __future__ import annotations

from absl.testing import absltest

from ondevice import commands
from tests import covered


def file(lines, run, branches, taken):
    return {
        "summary": {
            "num_statements": lines, "covered_lines": run, "num_branches": branches,
            "covered_branches": taken, "percent_covered": 12.0,
        }
    }  # fmt: skip


class TableTest(absltest.TestCase):
    def test_packages_and_total(self):
        made = covered.table(
            {
                "files": {
                    "b/c/two.py": file(30, 15, 0, 0),
                    "a/one.py": file(10, 9, 4, 1),
                    "a/two.py": file(10, 6, 4, 2),
                }
            }
        )
        rows = [line.split() for line in made.splitlines()]
        self.assertEqual(
            rows,
            [
                ["package", "files", "lines", "run", "branches", "taken"],
                ["a", "2", "20", "75.0", "%", "8", "37.5", "%"],
                ["b/c", "1", "30", "50.0", "%", "0", "-"],
                ["total", "3", "50", "60.0", "%", "8", "37.5", "%"],
            ],
        )


class MainTest(absltest.TestCase):
    def test_what_is_no_report_is_told(self):
        path = self.create_tempfile(content='{"files": {}}').full_path
        for arguments, said in (
            ([], "one report"),
            ([path + "x"], "must exist"),
            ([path], "KeyError"),
        ):
            with self.assertRaisesRegex(commands.UserError, said):
                covered.main(arguments)


if __name__ == "__main__":
    absltest.main()
