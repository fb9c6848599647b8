"""Runs .tflite files beside the vendor's in one runtime, in a process of its own.

    python -m docs.routes.speed JOB RUNTIME

JOB is a folder with .tflite files, `vendor.tflite` among them, `probes.npz` with
images [n, S, S, 3] and what the PyTorch module gives for them, and `rounds.json`. The
process leaves RUNTIME.json: by file, how far its outputs are from the module's, what a
call took and its ratio to a call of the vendor's beside it.
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ondevice.device import runtimes
from ondevice.measuring import timing
from ondevice.verification import compare

VENDOR = "vendor.tflite"
REGRESSORS, CLASSIFICATORS = "regressors", "classificators"


def caller(path: pathlib.Path, runtime: str) -> Callable[[np.ndarray], list]:
    """What runs a file on [1, S, S, 3], turned if it wants channels first.

    Raises:
      RuntimeFailure: If the runtime does not run it.
    """
    interpreter = runtimes.create(str(path), runtime, 1)
    (entry,) = interpreter.get_input_details()
    first = int(entry["shape"][1]) == 3
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def call(image: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    def turned(image: np.ndarray) -> list[np.ndarray]:
        return call(np.ascontiguousarray(np.moveaxis(image, -1, 1)))

    return turned if first else call


def apart(
    found: list[np.ndarray], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Largest difference over the largest output; outputs known by their widths."""
    by_width = {array.shape[-1]: array for array in found}
    return {
        name: compare.parity(by_width[value.shape[-1]], value)
        for name, value in expected.items()
    }


def measure(folder: pathlib.Path, runtime: str) -> dict[str, Any]:
    """By file: "error", or else "apart" and the times.

    Times are the milliseconds of a call on the processor, "cpu_ms", and
    `timing.ratio` to the vendor's file.
    """
    settings = json.loads((folder / "rounds.json").read_text())
    with np.load(folder / "probes.npz", allow_pickle=False) as stored:
        images = stored["images"]
        expected = {n: stored[n] for n in (REGRESSORS, CLASSIFICATORS)}
    paths = sorted(folder.glob("*.tflite"))
    found: dict[str, dict[str, Any]] = {path.name: {"error": None} for path in paths}
    openings = []
    for _ in range(settings["openings"]):
        contenders = []
        for path in paths:
            try:
                call = caller(path, runtime)
                outputs = [call(image[np.newaxis]) for image in images]
            except (RuntimeError, ValueError) as error:
                found[path.name]["error"] = " ".join(str(error).split())
                continue
            together = [np.concatenate(each) for each in zip(*outputs)]
            if path.name not in settings["unlike"]:
                found[path.name]["apart"] = apart(together, expected)
            labels = {"file": path.name}
            contenders.append(timing.Contender(labels, {"infer": call}))
        given = [image[np.newaxis] for image in images]
        openings.append(timing.measure(contenders, given, settings["rounds"]))
    times = {each.labels["file"]: each for each in timing.pooled(openings)}
    for name, each in times.items():
        (row,) = each.rows("infer")
        found[name] |= {"cpu_ms": row["cpu_ms"], "median_ms": row["median_ms"]}
        found[name]["ratio"] = timing.ratio(each, times[VENDOR])
    return found


if __name__ == "__main__":
    place = pathlib.Path(sys.argv[1])
    result = measure(place, sys.argv[2])
    (place / f"{sys.argv[2]}.json").write_text(json.dumps(result))
