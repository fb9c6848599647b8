"""Which tests run through a line, and how long each takes.

Learnt once in the copy of the project that is mutated, by coverage's contexts; tests
that do not pass there take no part.
"""

from __future__ import annotations

import ast
import collections
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

import coverage

from ondevice import commands

# Written by the plugin below, read by `Covering`.
_DURATIONS = "TESTS_MUTANTS_DURATIONS"
_OF_PROCESSES = "TESTS_MUTANTS_OF_PROCESSES"
# It covers nothing, since it parses the modules: decorators, for one.
_READS = (
    "tests/imports_test.py::DataclassTest::test_what_is_passed_on_cannot_be_changed"
)
_SETTINGS = """[run]
branch = True
source = checkpoints,signatures,ondevice
relative_files = True
"""
# Processes that a test starts tell of it by the name that pytest gives them, and print
# nothing else than without it.
_SETTINGS_OF_PROCESSES = f"""{_SETTINGS}parallel = True
context = ${{PYTEST_CURRENT_TEST-}}
disable_warnings = no-data-collected,module-not-imported,module-not-measured
"""
# A context is "TEST|PHASE" in pytest's own process, "TEST (PHASE)" in those.
_CONTEXT = re.compile(r"(.*)(?:\|| \()(setup|run|call|teardown)\)?")


class Covering:
    """What was learnt of tests, kept in a directory.

    Attributes:
      seconds: Test, by pytest's name -> what it takes, set-up included.
    """

    def __init__(self, directory: pathlib.Path, tree: pathlib.Path) -> None:
        """Takes up what was learnt before.

        Args:
          directory: To keep it in.
          tree: The copy of the project that tests run in.
        """
        self._directory, self._tree = directory, tree
        self.seconds: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = {}
        self._read()

    def learn(self, files: Sequence[str]) -> None:
        """Runs test files that were not run yet as they are now, each by itself.

        Args:
          files: Relative to the tree.
        """
        for file in commands.progress(files, "Learning which tests cover what"):
            name = file.replace("/", ".")
            if not self._holds(file, name):
                self._run(file, name)
        self._read()

    def tests(self, path: str, line: int, seconds: float) -> list[str]:
        """Returns the tests that are to notice a change.

        Args:
          path: Of the module.
          line: Which is run as tests run, or as the module is imported.
          seconds: How long all of them may take, one apart.

        Returns:
          Their names: the module's own tests first, then the quick ones.
        """
        lines = self._lines.get(path, {})
        # What a module runs as it is imported any of its tests may notice, not only
        # the first one that imported it.
        runs = self._is_in_a_function(path, line) and lines.get(line)
        found = runs or set().union(*lines.values())
        own = f"tests/{pathlib.PurePath(path).stem}_test.py"
        order = sorted(
            found & self.seconds.keys(),
            key=lambda test: (not test.startswith(own), self.seconds[test]),
        )
        chosen: list[str] = []
        for test in order:
            if chosen and self.seconds[test] > seconds:
                break
            seconds -= self.seconds[test]
            chosen.append(test)
        # What no test runs again may be read by one.
        return chosen if runs else [*chosen, _READS]

    @functools.cache
    def _bodies(self, path: str) -> list[range]:
        """The lines of each function's body."""
        return [
            range(node.body[0].lineno, node.body[-1].end_lineno + 1)
            for node in ast.walk(ast.parse((self._tree / path).read_text()))
            if isinstance(node, ast.FunctionDef)
        ]

    def _is_in_a_function(self, path: str, line: int) -> bool:
        return any(line in body for body in self._bodies(path))

    def _holds(self, file: str, name: str) -> bool:
        """Whether what was learnt of a test is of what lies in the tree."""
        known = self._directory / f"{name}.json"
        if not known.exists():
            return False
        data = coverage.CoverageData(str(known.with_suffix(".coverage")))
        data.read()
        run = [path for path in data.measured_files() if data.lines(path)]
        paths = [self._tree / path for path in (file, *run)]
        time = known.stat().st_mtime
        return all(path.exists() and path.stat().st_mtime < time for path in paths)

    def _run(self, file: str, name: str) -> None:
        settings = self._directory / "coverage.cfg"
        settings.write_text(_SETTINGS)
        of_processes = self._directory / "processes.cfg"
        of_processes.write_text(_SETTINGS_OF_PROCESSES)
        environment = {
            **os.environ,
            "COVERAGE_FILE": str(self._directory / f"{name}.coverage"),
            _DURATIONS: str(self._directory / f"{name}.json"),
            _OF_PROCESSES: str(of_processes),
            # The compiled tests are kept, for every mutant to use.
            "PYTHONDONTWRITEBYTECODE": "",
            "PYTEST_ADDOPTS": "",
        }
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                "-p", "tests.mutants.covering", "--cov", "--cov-context=test",
                f"--cov-config={settings}", "--cov-report=", file,
            ],
            cwd=self._tree,
            env=environment,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def _read(self) -> None:
        self.seconds, self._lines = {}, {}
        for durations in sorted(self._directory.glob("*.json")):
            self.seconds |= json.loads(durations.read_text())
            data = coverage.CoverageData(str(durations.with_suffix(".coverage")))
            data.read()
            for path in data.measured_files():
                lines = self._lines.setdefault(path, collections.defaultdict(set))
                for line, contexts in data.contexts_by_lineno(path).items():
                    for context in filter(None, contexts):
                        lines[line] |= self._tests_of(context)

    @functools.cache
    def _tests_of(self, context: str) -> set[str]:
        """The tests that a context stands for: what sets one up may set up others."""
        found = _CONTEXT.fullmatch(context)
        assert found is not None, context
        test, phase = found.groups()
        if phase != "setup":
            return {test}
        place = test.rpartition("::")[0]
        return {each for each in self.seconds if each.rpartition("::")[0] == place}


# A plugin of pytest, in the process that learns.


def pytest_configure() -> None:
    # Not before: this process is measured by pytest-cov.
    os.environ["COVERAGE_PROCESS_START"] = os.environ[_OF_PROCESSES]


def pytest_runtest_logreport(report) -> None:
    seconds, passed = _MEASURED.get(report.nodeid, (0.0, True))
    # An expected failure's outcome is "skipped".
    _MEASURED[report.nodeid] = (
        seconds + report.duration, passed and report.outcome == "passed",
    )  # fmt: skip


def pytest_sessionfinish() -> None:
    found = {test: seconds for test, (seconds, passed) in _MEASURED.items() if passed}
    pathlib.Path(os.environ[_DURATIONS]).write_text(json.dumps(found))


_MEASURED: dict[str, tuple[float, bool]] = {}
