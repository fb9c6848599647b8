"""Runs what each environment builds in every other: by hand, for BUILD_NOTES.md.

    python -m tests.matrix --output_dir=out/matrix py311/bin/python py312/bin/python

Each interpreter builds the tiny detector, where it has tensorflow, and writes a
checkpoint of one step; then each opens every other's file and checkpoint in each of its
runtimes, and holds three steps and an image against `golden_test.GOLDEN`. A table goes
to stderr, and the last line is one JSON object, {"environments", "runs", "furthest"}.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

_PACKAGES = ("tensorflow", "ai-edge-litert", "tflite-runtime", "numpy")
_MODEL, _CHECKPOINT = "model.tflite", "step.safetensors"


def build(directory: pathlib.Path) -> dict[str, Any]:
    """Describes this environment; where it can, it builds the file and a checkpoint."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    if "tensorflow" in versions:
        from ondevice.device import session
        from tests import tiny_builds

        model = tiny_builds.new_classes().model
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _MODEL).write_bytes(model)
        with session.Session(model, threads=1) as opened:
            opened.train(**tiny_builds.batch(opened.manifest), learning_rate=1e-4)
            opened.save(directory / _CHECKPOINT)
    return versions


def run(directory: pathlib.Path) -> dict[str, Any]:
    """Returns runtime -> how far the file there behaves from the golden one."""
    from ondevice.device import runtimes, session
    from tests import golden_test

    model = (directory / _MODEL).read_bytes()
    found: dict[str, Any] = {}
    for runtime in runtimes.installed():
        try:
            with session.Session(model, runtime, 1) as opened:
                opened.restore(directory / _CHECKPOINT)
            found[runtime] = golden_test.furthest(
                golden_test.behaviour(model, runtime)
            )
        except (ValueError, RuntimeError) as error:
            found[runtime] = str(error)
    return found


def _ask(python: str, role: str, directory: pathlib.Path) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-m", "tests.matrix", role, str(directory)],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode:
        raise RuntimeError(f"{python}, {role}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    if sys.argv[1:2] in (["build"], ["run"]):
        role, directory = sys.argv[1:]
        print(json.dumps({"build": build, "run": run}[role](pathlib.Path(directory))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument("pythons", nargs="+")
    given = parser.parse_args()
    directory = given.output_dir.absolute()
    folders = {p: directory / str(i) for i, p in enumerate(given.pythons)}
    environments = {p: _ask(p, "build", folder) for p, folder in folders.items()}
    runs, numbers = [], []
    for builder in [p for p in given.pythons if (folders[p] / _MODEL).exists()]:
        for runner in given.pythons:
            found = _ask(runner, "run", folders[builder])
            for runtime, answer in found.items():
                runs.append([builder, runner, runtime, answer])
                numbers += [answer] if isinstance(answer, float) else [float("inf")]
                print(*runs[-1], file=sys.stderr)
    furthest = max(numbers, default=float("inf"))
    result = {"environments": environments, "runs": runs, "furthest": str(furthest)}
    print(json.dumps(result))
    return int(furthest > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
