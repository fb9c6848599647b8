"""Tests of mutation testing: which mutants there are, and who is said to notice one."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap
from unittest import mock

from absl.testing import absltest, parameterized

from tests import conftest
from tests.mutants import covering, explained, groups, mutations

ROOT = pathlib.Path(__file__).resolve().parents[1]


def changes(source: str) -> set[tuple[str, str]]:
    """(what stands there, what one mutant has for it), of one mutant of each site."""
    return {mutant.change(source) for mutant in mutants(source)}


def mutants(source: str, seed: int = 0) -> list[mutations.Mutant]:
    sites = mutations.sites("x.py", source)
    chosen = [mutations.choose(site, source, seed) for site in sites]
    return [mutant for mutant in chosen if mutant is not None]


def packages(tree: pathlib.Path, *names: str) -> pathlib.Path:
    """Makes empty packages in a tree; returns it."""
    for name in names:
        (tree / name).mkdir(parents=True)
        (tree / name / "__init__.py").touch()
    return tree


class MutationsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("if a:\n    b()\n", ("if a:", "if not a:")),
        ("x = True\n", ("x = True", "x = False")),
        ("x = a and b\n", ("x = a and b", "x = a or b")),
        ("for i in a:\n    b = i\n", ("for i in a:", "for i in []:")),
        ("def f():\n    return a\n", ("return a", "return None")),
        ("def f():\n    check(a)\n", ("check(a)", "pass")),
        ("def f():\n    raise E(a)\n", ("raise E(a)", "pass")),
        ("def f():\n    a.b = c\n", ("a.b = c", "pass")),
        ("def f():\n    a += c\n", ("a += c", "pass")),
    )
    def test_what_is_changed(self, source, change):
        self.assertIn(change, changes(source))

    @parameterized.parameters(
        "def f(x: int | None = y) -> int | None:\n    x = y\n",
        "x: int | None = y\n",
        "'''Text.'''\n",
        "def f():\n    logging.info(x)\n    return\n",
        "import a\nx = y\n",
    )
    def test_what_is_not(self, source):
        self.assertEmpty(changes(source))

    def test_equal_is_not_made_the_same(self):
        for seed in range(40):
            for mutant in mutants("x = a == b\n", seed):
                self.assertNotIn("Is", mutant.operator)

    def test_one_of_each_site_by_the_seed(self):
        source = "x = a + b\ny = c - 7\n"
        made = mutants(source)
        self.assertEqual(made, mutants(source))
        self.assertEqual([m.line for m in made], [1, 2, 2])
        others = {tuple(mutants(source, seed)) for seed in range(9)}
        self.assertGreater(len(others), 3)
        for mutant in made:
            compile(mutant.apply(source), "x.py", "exec")


class ExplainedTest(absltest.TestCase):
    def test_what_is_explained_stands_there_still(self):
        for (path, before, after), why in explained.read().items():
            lines = (ROOT / path).read_text().splitlines()
            joined = " ".join(line.strip() for line in lines)
            self.assertIn(before, joined, path)
            self.assertNotEqual(before, after)
            self.assertNotEmpty(why)

    def test_groups_hold_every_module_once(self):
        made = groups.modules()
        every = sorted(path for paths in made.values() for path in paths)
        self.assertLen(set(every), len(every))
        self.assertIn("checkpoints/store.py", made["checkpoints"])
        self.assertIn("ondevice/rebuild/naming.py", made["plain"])
        self.assertIn("ondevice/rebuild/network.py", made["elsewhere"])


class TryingTest(absltest.TestCase):
    """In processes of their own, as the command is run."""

    def test_killed_survived_and_timed_out(self):
        directory = pathlib.Path(self.create_tempdir().full_path)
        tree = packages(directory / "tree", "checkpoints", "tests")
        (tree / "checkpoints" / "x.py").write_text(
            "def f(n):\n    while n > 0:\n        n -= 1\n    return n, 5\n"
        )
        (tree / "tests" / "x_test.py").write_text(
            "from checkpoints import x\n\ndef test_x():\n    assert x.f(2)[0] == 0\n"
        )
        script = directory / "script.py"
        script.write_text(
            textwrap.dedent(
                f"""
                import json, pathlib, sys
                sys.path.insert(0, {os.fspath(ROOT)!r})
                from tests.mutants import mutations, trying
                trying._GRACE = 1.0
                tree = pathlib.Path({os.fspath(tree)!r})
                source = (tree / "checkpoints" / "x.py").read_text()
                found = {{}}
                for site in mutations.sites("checkpoints/x.py", source):
                    mutant = mutations.choose(site, source, 3)
                    outcome = trying.attempt(
                        mutant, tree, ["tests/x_test.py::test_x"], 0.1)
                    found[" -> ".join(mutant.change(source))] = outcome
                assert (tree / "checkpoints" / "x.py").read_text() == source
                print(json.dumps(found))
                """
            )
        )
        done = subprocess.run(
            [sys.executable, os.fspath(script)], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        by = {outcome for outcome, _ in found.values()}
        self.assertContainsSubset({"killed", "survived"}, by, found)
        changed = "while n > 0: -> while not n > 0:"
        self.assertEqual(found[changed], ["killed", "tests/x_test.py::test_x"])
        self.assertEqual(found["n -= 1 -> pass"][0], "timed out")


class LearningTest(absltest.TestCase):
    def test_what_a_test_runs_itself_and_in_processes_that_it_starts(self):
        directory = pathlib.Path(self.create_tempdir().full_path)
        tree = packages(directory / "tree", "signatures", "tests")
        for name in ("checkpoints", "ondevice", "tests/mutants"):
            (tree / name).symlink_to(ROOT / name)
        (tree / "signatures" / "x.py").write_text(
            "def f():\n    return 1\n\ndef g():\n    return 2\n\nh = 3\n"
            "\ndef k():\n    return 4\n"
        )
        (tree / "tests" / "x_test.py").write_text(
            textwrap.dedent(
                """
                import pytest, subprocess, sys
                from signatures import x

                def test_here():
                    assert x.f() == 1

                def test_there():
                    code = "from signatures import x; print(x.g())"
                    command = [sys.executable, "-c", code]
                    done = subprocess.run(command, capture_output=True, text=True)
                    assert (done.stdout, done.stderr) == ("2\\n", "")

                def test_broken():
                    assert x.f() == 2

                class TestSetUp:
                    @pytest.fixture(autouse=True, scope="class")
                    def made(self):
                        return x.k()

                    def test_one(self, made):
                        assert made == 4

                    def test_other(self, made):
                        assert made
                """
            )
        )
        tests = covering.Covering(directory, tree)
        tests.learn(["tests/x_test.py"])
        here, there = "tests/x_test.py::test_here", "tests/x_test.py::test_there"
        one, other = (f"tests/x_test.py::TestSetUp::test_{n}" for n in ("one", "other"))
        every = {here, there, one, other}
        for line, noticed in (
            (2, {here}), (5, {there}), (7, every), (10, {one, other}),
        ):  # fmt: skip
            found = tests.tests("signatures/x.py", line, seconds=9.0)
            self.assertEqual(set(found) - {covering._READS}, noticed)
            self.assertEqual(covering._READS in found, line == 7)


class MeasuredTest(parameterized.TestCase):
    @parameterized.parameters(
        ("keras_test.py", None, True), ("keras_test.py", "test", False),
        ("store_test.py", None, False),
    )  # fmt: skip
    def test_tests_with_tensorflow_are_left_out_unless_they_are_learnt(
        self, name, context, left_out
    ):
        config, item = mock.Mock(), mock.Mock(path=ROOT / "tests" / name)
        config.getoption.side_effect = {"cov_context": context}.get
        conftest.pytest_collection_modifyitems(config, [item])
        self.assertEqual(item.add_marker.called, left_out)


class CommandTest(absltest.TestCase):
    def test_another_counts_file_is_refused_before_anything_is_learnt(self):
        directory = pathlib.Path(self.create_tempdir())
        counts = directory / "counts.json"
        counts.write_text('{"killed": {"runs": 1}}')
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.mutants", "detection"),
                *(f"--scratch={directory / 'scratch'}", f"--counts={counts}"),
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, "--counts must name a file of counts.*Received")
        self.assertFalse((directory / "scratch").exists())
        self.assertEqual(counts.read_text(), '{"killed": {"runs": 1}}')


if __name__ == "__main__":
    absltest.main()
