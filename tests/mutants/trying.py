"""Runs the tests of one mutant, in a process forked from one that has imported.

The fork costs milliseconds, where importing numpy, pytest and tensorflow takes five
seconds. The project's own modules are imported anew in each, from a copy of it in
which the mutant is a file like any other, so that processes that a test starts run
the mutant, too.
"""

from __future__ import annotations

import filecmp
import importlib
import itertools
import os
import pathlib
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Sequence

from tests.mutants import groups, mutations

KILLED, SURVIVED, TIMED_OUT, NO_TEST = "killed", "survived", "timed out", "no test"
OUTCOMES = (KILLED, TIMED_OUT, SURVIVED, NO_TEST)
# Beyond the time that its tests take without a change, in seconds of the processor.
_GRACE = 10.0
_MEMORY = 12 << 30
_TICK = 0.01
_COPIED = ("checkpoints", "signatures", "ondevice", "tests", "docs", ".ci")
_FILES = ("README.md", "BUILD_NOTES.md", "setup.cfg", "pyproject.toml", "LICENSE")
_IMPORTED = (
    "numpy", "PIL.Image", "pytest", "absl.testing.parameterized", "hypothesis",
    "safetensors.numpy", "tensorflow", "tflite", "tqdm",
)  # fmt: skip


def copy(directory: pathlib.Path) -> pathlib.Path:
    """Brings the copy that is mutated up to date, beside a link to the tests' data.

    What has not changed stays, and with it what was compiled of it.

    Returns:
      Its root.
    """
    tree = directory / "tree"
    wanted = {pathlib.Path(name) for name in _FILES}
    for name in _COPIED:
        files = (p for p in (groups.ROOT / name).rglob("*") if p.is_file())
        wanted |= {p.relative_to(groups.ROOT) for p in files if p.suffix != ".pyc"}
    for path in sorted(wanted):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        source, target = groups.ROOT / path, tree / path
        if not target.exists() or not filecmp.cmp(source, target):
            shutil.copy2(source, target)
    for path in tree.rglob("*.py"):
        if path.relative_to(tree) not in wanted:
            path.unlink()
    shared = directory / "shared"
    if not shared.exists() and (groups.ROOT.parent / "shared").exists():
        shared.symlink_to((groups.ROOT.parent / "shared").resolve())
    return tree


def prepare() -> None:
    """Imports what the tests need, here, before any fork."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in _IMPORTED:
        importlib.import_module(name)


def attempt(
    mutant: mutations.Mutant, tree: pathlib.Path, tests: Sequence[str], seconds: float
) -> tuple[str, str]:
    """Runs tests on a mutant, until the first that fails.

    Args:
      mutant: Of the project as it is in the tree.
      tree: The copy; as before, afterwards.
      tests: By pytest's names.
      seconds: What they take without a change.

    Returns:
      (KILLED, SURVIVED, TIMED_OUT or NO_TEST; the test that noticed, or "").
    """
    if not tests:
        return NO_TEST, ""
    path = tree / mutant.path
    source, times = path.read_text(), path.stat()
    log = tree.parent / "last.log"
    try:
        path.write_text(mutant.apply(source))
        # The compiled file that lies there is of this size and time, perhaps.
        os.utime(path, (times.st_atime, times.st_mtime + 100))
        status = _forked(tree, tests, log, 3 * seconds + _GRACE)
    finally:
        path.write_text(source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if status is None:
        return TIMED_OUT, ""
    if status == 0:
        return SURVIVED, ""
    text = log.read_text(errors="replace")
    noticed = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.M)
    return KILLED, noticed.group(1) if noticed else f"status {status}"


def _forked(
    tree: pathlib.Path, tests: Sequence[str], log: pathlib.Path, seconds: float
) -> int | None:
    """Runs pytest in a fork; its status, or None where it took too long."""
    child = os.fork()
    if child == 0:
        try:
            _run(tree, tests, log, seconds)
        finally:
            os._exit(70)
    # Not by the clock: both may have been stopped for a while. Waiting takes none of
    # the processor's time, and there may be other work on it.
    for tick in itertools.count():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if tick * _TICK > 3 * seconds:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(_TICK)
    try:
        os.killpg(child, signal.SIGKILL)  # What a test has started and left.
    except ProcessLookupError:
        pass
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return None
    return os.waitstatus_to_exitcode(status)


def _run(
    tree: pathlib.Path, tests: Sequence[str], log: pathlib.Path, seconds: float
) -> None:
    os.setpgid(0, 0)
    limit = int(seconds) + 1
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + limit, used + limit + 5))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    own = ("checkpoints", "signatures", "ondevice", "tests")
    for name in [n for n in sys.modules if n.partition(".")[0] in own]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[:] = [str(tree), *(p for p in sys.path if p not in ("", str(groups.ROOT)))]
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)  # Meant for whoever tests this.
    # conftest.py then keeps the files that it builds from one process to the next.
    os.environ["PYTEST_XDIST_WORKER"] = "mutants"
    import pytest

    base = tree.parent / "temporary" / "mutants"
    base.parent.mkdir(exist_ok=True)
    status = pytest.main(
        [
            "-x", "-q", "--no-header", "--tb=no", "-rfE", "-p", "no:cacheprovider",
            f"--basetemp={base}", *tests,
        ]
    )  # fmt: skip
    sys.stdout.flush()
    os._exit(int(status))
