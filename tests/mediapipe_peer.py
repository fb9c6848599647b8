"""MediaPipe in an environment of its own, and questions to it.

Its numpy and protobuf fit with nobody else's, so it is installed beside the cache of
vendor's files, once, and asked in another process (mediapipe_palms.py).
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ondevice import sources
from ondevice.detection import anchors
from tests import shared_data

_RELEASE = "mediapipe==0.10.21"
# Of its requirements, those that its graphs need.
_REQUIREMENTS = (
    "absl-py",
    "attrs",
    "flatbuffers",
    "numpy<2",
    "protobuf>=4.25.3,<5",
    "opencv-contrib-python-headless",
    "matplotlib",
    "sounddevice",
)
_SCRIPT = pathlib.Path(__file__).with_name("mediapipe_palms.py")


@functools.cache
def environment() -> pathlib.Path:
    """Directory of the environment, made at the first call on a machine."""
    directory = sources.cache_directory() / f"{_RELEASE.replace('==', '-')}-env"
    if directory.exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    making = tempfile.mkdtemp(prefix=directory.name, dir=directory.parent)
    try:
        pip = (
            *(_python(pathlib.Path(making)), "-m", "pip", "install", "--quiet"),
            *("--disable-pip-version-check", "--retries=1", "--timeout=20"),
        )
        for command in (
            (sys.executable, "-m", "venv", making),
            (*pip, "--no-deps", _RELEASE),
            (*pip, *_REQUIREMENTS),
            (_python(pathlib.Path(making)), "-c", "import mediapipe"),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.splitlines() or done.stdout.splitlines() or ["?"]
                shared_data.missing(f"{_RELEASE} cannot be installed: {lines[-1]}")
        try:
            os.rename(making, directory)
        except OSError:  # Another run was first.
            if not directory.exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return directory


def file(pattern: str) -> pathlib.Path:
    """A file of the packages installed there."""
    (path,) = environment().glob(f"lib/python*/site-packages/{pattern}")
    return path


def detector(
    model: pathlib.Path,
    spec: anchors.AnchorSpec,
    input_range: tuple[float, float],
    keypoints: int,
) -> dict[str, Any]:
    """The request of a graph around a detector."""
    return {
        "detector": {
            "model": str(model),
            "size": spec.input_size,
            "low": input_range[0],
            "high": input_range[1],
            "layers": len(spec.strides),
            "strides": " ".join(f"strides: {stride}" for stride in spec.strides),
            "min_scale": spec.min_scale,
            "ratio": spec.interpolated_scale_aspect_ratio,
            "anchors": len(anchors.centres(spec)),
            "keypoints": keypoints,
            "coordinates": 4 + 2 * keypoints,
        }
    }


def ask(
    directory: pathlib.Path,
    pictures: Mapping[str, np.ndarray],
    requests: Sequence[Mapping[str, Any]],
) -> list[list[Any]]:
    """Answers, one list a request, in the order of its `keys`.

    Args:
      directory: For what is exchanged.
      pictures: [height, width, 3] uint8 by key.
      requests: As mediapipe_palms.py takes them.
    """
    np.savez(directory / "pictures.npz", **pictures)
    asked = {"pictures": str(directory / "pictures.npz"), "requests": list(requests)}
    (directory / "requests.json").write_text(json.dumps(asked))
    done = subprocess.run(
        [_python(environment()), str(_SCRIPT), str(directory / "requests.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _python(directory: pathlib.Path) -> str:
    return str(directory / "bin" / "python")
