"""What the tests share: flags that have a value, and the data beside the repository."""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
from collections.abc import Callable

import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

# These need an extra that `test` does not bring, see setup.cfg; the report says so.
collect_ignore = (
    []
    if importlib.util.find_spec("torch")
    else ["pytorch_test.py", "routes_training_test.py", "torch_network_test.py"]
)

# Under pytest nobody parses a command line; this gives every flag its default.
flags.FLAGS.mark_as_parsed()


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
    """Optimizer -> a trainable file of the tiny detector, classes a and b; made once.

    Everything trains with adam; with the others, for speed, the last block and the
    heads. `inference.tflite` lies beside it.
    """

    @functools.cache
    def make(optimizer: str) -> pathlib.Path:
        # Here: most tests need no tensorflow.
        from ondevice.rebuild import porting
        from signatures import optimizers
        from tests import tiny_builds, tiny_detector

        clip_norm = 0.0 if optimizer == "sgd" else 1.0
        recipe = tiny_detector.recipe(
            classes=("a", "b"),
            settings=optimizers.Settings(optimizer, clip_norm),
            trainable="all" if optimizer == "adam" else "blocks:1",
        )
        weights = porting.with_classes(tiny_detector.weights(), recipe.layers)
        with tiny_detector.known():
            files = tiny_builds.made(recipe, weights)
        directory = tmp_path_factory.mktemp(optimizer)
        (directory / "model.tflite").write_bytes(files.model)
        (directory / "inference.tflite").write_bytes(files.inference)
        return directory / "model.tflite"

    return make
