"""What the tests share: flags that have a value, and the data beside the repository."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable

import hypothesis
import pytest
from absl import flags

from tests.mutants import groups

ROOT = pathlib.Path(__file__).resolve().parents[1]

# These need an extra that `test` does not bring, see setup.cfg; the report says so.
collect_ignore = (
    []
    if importlib.util.find_spec("torch")
    else ["pytorch_test.py", "routes_training_test.py", "torch_network_test.py"]
)

# Elsewhere each run of tests looks at other cases, and at what failed before.
_FEW = {"max_examples": 50, "deadline": None}
hypothesis.settings.register_profile("own", **_FEW)
hypothesis.settings.register_profile("ci", derandomize=True, database=None, **_FEW)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "own")

# Under pytest nobody parses a command line; this gives every flag its default.
flags.FLAGS.mark_as_parsed()


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Measures coverage (--cov) only in tests that run without TensorFlow.

    Elsewhere it would trace TensorFlow's own Python, too, which costs too much time.
    Where it is asked which tests cover what (--cov-context) all are measured.
    """
    measured = config.pluginmanager.hasplugin("_cov")
    if measured and not config.getoption("cov_context"):
        for item in items:
            if groups.needs_tensorflow(item.path.relative_to(ROOT).as_posix()):
                item.add_marker(pytest.mark.no_cover)


def pytest_report_header() -> str | None:
    """Says which tests are left out."""
    if not collect_ignore:
        return None
    return f"torch is not installed: left out are {', '.join(collect_ignore)}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With CI=true a test that was skipped fails the run: it shows nothing."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") == "true" and skipped:
        reporter.write_line(f"CI=true, and skipped: {len(skipped)} tests", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def tiny_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], pathlib.Path]:
    """Optimizer -> a trainable file of the tiny detector, classes a and b.

    Made once, whatever number of processes run the tests.

    Everything trains with adam; with the others, for speed, the last block and the
    heads. `inference.tflite` lies beside it.
    """

    @functools.cache
    def make(optimizer: str) -> pathlib.Path:
        from tests.soak import models

        base = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            base = base.parent  # All workers'.
        directory = base / f"tiny-{optimizer}"
        with open(base / f"tiny-{optimizer}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not directory.exists():
                made = tmp_path_factory.mktemp(optimizer)
                models.write(made, optimizer)
                made.rename(directory)
        return directory / "model.tflite"

    return make
