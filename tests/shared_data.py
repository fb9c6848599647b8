"""Photographs and vendor's files that tests share, and that the repository lacks.

They lie beside it, in ../shared. Where one is missing a test is skipped; with CI=true
it fails, so that no continuous run passes by leaving tests out.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from checkpoints import atomic
from ondevice import sources
from ondevice.detection import anchors

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"

PALM_128 = anchors.PRESETS["palm_128"]
PALM_128_RANGE = (-1.0, 1.0)


def shared(*parts: str) -> pathlib.Path:
    """Path of something below ../shared."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        missing(f"../shared/{'/'.join(parts)} is missing.")
    return path


def vendor(name: str) -> pathlib.Path:
    """Path of a vendor's file in ../shared or the cache, fetched where it must be."""
    path = SHARED / "models" / f"{name}.tflite"
    if path.exists():
        return path
    cached = sources.cache_directory() / path.name
    for source, known in sources.KNOWN.items():
        if known.file == path.name and not cached.exists():
            try:
                atomic.write(cached, [sources.locate(source).data])
            except (ValueError, OSError) as error:
                missing(str(error))
    if not cached.exists():
        missing(f"{path.name} is in neither ../shared nor {sources.cache_directory()}.")
    return cached


def digits(
    classes: tuple[int, ...] = tuple(range(7)), step: int = 1
) -> list[tuple[pathlib.Path, int]]:
    """(path, digit) of photographs, every `step`-th of each class by file number."""
    root = shared("data", "sign_digits")
    found = []
    for digit in classes:
        files = sorted(
            (root / str(digit)).glob("*.jpg"), key=lambda p: int(p.stem.split("_")[1])
        )
        found += [(path, digit) for path in files[::step]]
    return found


def palm_128():
    """infer(image [1, 128, 128, 3]) -> (regressors, logits) of the vendor's file."""
    path = shared("models", "palm_detection_128.tflite")
    try:
        from tflite_runtime import interpreter as runtime
    except ImportError:
        try:
            from ai_edge_litert import interpreter as runtime
        except ImportError:
            missing("Neither tflite_runtime nor ai_edge_litert is installed.")
    interpreter = runtime.Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image_detail,) = interpreter.get_input_details()
    outputs = interpreter.get_output_details()
    by_width = {int(output["shape"][-1]): output["index"] for output in outputs}

    def infer(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        interpreter.set_tensor(image_detail["index"], image)
        interpreter.invoke()
        return (
            interpreter.get_tensor(by_width[18]),
            interpreter.get_tensor(by_width[1]),
        )

    return infer


def missing(message: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
