"""Small pictures with hands drawn by hand, and commands run where no TensorFlow is."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from PIL import Image

from tests import conftest

# Stands before everything else; makes tensorflow and keras as absent as can be.
_SITECUSTOMIZE = """
import importlib.machinery, sys

class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", *{others!r}):
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [
    Without if f is importlib.machinery.PathFinder else f for f in sys.meta_path
]
"""


def picture(seed: int, bright: bool) -> np.ndarray:
    """[40, 40, 3] uint8: a square on dark noise."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (40, 40, 3), np.uint8)
    pixels[10:30, 12:28] = 240 if bright else 120
    return pixels


def annotated(
    root: pathlib.Path,
    count: int = 9,
    start: int = 0,
    names: tuple[str, str] = ("a", "b"),
) -> pathlib.Path:
    """A folder in yirueilu-b's layout; every second picture is of the second class."""
    (root / "image").mkdir(parents=True)
    (root / "annotation").mkdir()
    for number in range(start, start + count):
        kind = names[number % 2]
        Image.fromarray(picture(number, kind == names[1])).save(
            root / "image" / f"{number}.png"
        )
        hand = {
            "label": kind,
            "bounding_box": [0.3, 0.25, 0.7, 0.75],
            "key_points": [0.4, 0.5] * 7,
        }
        (root / "annotation" / f"{number}.json").write_text(json.dumps([hand]))
    return root


def folders(root: pathlib.Path, count: int = 3) -> pathlib.Path:
    """Folders a and b of pictures without labels."""
    for number in range(2 * count):
        kind = "ab"[number % 2]
        (root / kind).mkdir(parents=True, exist_ok=True)
        pixels = picture(number, kind == "b")
        Image.fromarray(pixels).save(root / kind / f"{number}.png")
    return root


def step_line(number: int) -> dict[str, Any]:
    """A step's line of metrics.jsonl."""
    return {
        "kind": "step", "step": number, "epoch": 0, "loss": 1.0, "class_loss": 0.5,
        "box_loss": 0.5, "gradient_norm": 2.0, "learning_rate": 1e-3,
    }  # fmt: skip


def epoch_line(number: int, loss: float | None = 0.5) -> dict[str, Any]:
    """An epoch's line of metrics.jsonl, ten steps after the one before."""
    return {
        "kind": "epoch", "epoch": number, "step": 10 * number, "loss": 1.0,
        "validation": {
            "loss": loss, "images": 3, "class_accuracy": 0.5, "recall": 1.0,
            "mean_iou": 0.25,
        },
        "best": number == 1,
    }  # fmt: skip


def environment(place: pathlib.Path, *absent: str) -> dict[str, str]:
    """An environment without tensorflow, keras and what else is named."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(others=absent))
    path = os.pathsep.join([str(place), str(conftest.ROOT)])
    return {**os.environ, "PYTHONPATH": path}


def run(
    command: str, *arguments: Any, env: dict[str, str]
) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", f"ondevice.{command}", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=env,
        cwd=conftest.ROOT,
        timeout=120,
    )


def result(done: subprocess.CompletedProcess) -> dict[str, Any]:
    """The JSON object that a command printed last."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
