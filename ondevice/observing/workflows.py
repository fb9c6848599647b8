"""Claim e: the guide's workflow and a patch end at the same model; what each costs.

Each way is gone in a process of its own, which tells its time and its memory:

    python -m ondevice.observing.workflows guide|patch FOLDER RUNTIME
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints import patch, tflite_file
from ondevice.device import runtimes, usage
from ondevice.measuring import packages
from ondevice.observing import elsewhere, runs, verdict

if TYPE_CHECKING:  # It imports tensorflow, which a patch does without.
    from ondevice.observing import subject

_STEPS = 3

# Of the largest output, where only the way of writing differs; and of the loss, where
# float32 took its steps in two programs. Outputs come further apart there: Adam makes a
# whole step of a gradient that is rounding noise.
_WRITTEN_ALIKE = 5e-6
_TRAINED_ALIKE = 0.02

_GUIDE, _PATCH = "guide", "patch"
_ROOT = pathlib.Path(__file__).resolve().parents[2]

_DEVICE = ("absl-py", "numpy", "pillow", "safetensors", "tflite", "tqdm")


def observe(
    observed: subject.Subject, model: bytes, runtime: str, directory: pathlib.Path
) -> verdict.Verdict:
    """Fine-tunes once more in either way, from what an interpreter learnt.

    Args:
      observed: The network.
      model: Its right trainable file.
      runtime: Where interpreters run.
      directory: For files that come and go.
    """
    folder = directory / f"{observed.name}-workflows"
    folder.mkdir()
    (folder / "model.tflite").write_bytes(model)
    (folder / "network.json").write_text(json.dumps([observed.name, observed.seed]))
    elsewhere.give(folder / "job.npz", observed)
    with runs.opened(model, runtime) as running:
        runs.train(running, observed, 0, _STEPS)
        np.savez(folder / "learnt.npz", **running.state())
        described = running.manifest
    costs = {way: _in_a_process(way, folder, runtime) for way in (_GUIDE, _PATCH)}
    file = tflite_file.read(folder / "model.tflite")
    with np.load(folder / "guide.npz", allow_pickle=False) as stored:
        guides = patch.patch_trainable(file, described, dict(stored))
    models = {way: (folder / f"{way}.tflite").read_bytes() for way in costs}
    seen = {}
    for way, written in {**models, "guide's, patched": guides}.items():
        with runs.opened(written, runtime) as running:
            seen[way] = runs.look(running, observed)
    written_apart = _apart(seen[_GUIDE], seen["guide's, patched"])
    losses = {way: float(np.mean(seen[way].losses)) for way in costs}
    trained_apart = abs(losses[_GUIDE] / losses[_PATCH] - 1)
    device = [*_DEVICE, runtimes.DISTRIBUTIONS[runtime]]
    costs[_PATCH]["installed_megabytes"] = packages.megabytes(device)
    costs[_GUIDE]["installed_megabytes"] = packages.megabytes([*device, "tensorflow"])
    return verdict.Verdict(
        "e",
        observed.name,
        "The guide's workflow (tensors back to Keras, fine-tuning there, a new fresh "
        "file) and a patch end at the same model.",
        written_apart <= _WRITTEN_ALIKE and trained_apart <= _TRAINED_ALIKE,
        {
            "runtime": runtime,
            "one_state_written_in_either_way": {
                "largest_difference_over_largest_output": written_apart,
                "bound": _WRITTEN_ALIKE,
            },
            "fine_tuned_in_either_way": {
                "losses": losses,
                "relative_difference": trained_apart,
                "bound": _TRAINED_ALIKE,
                "largest_difference_over_largest_output": _apart(
                    seen[_GUIDE], seen[_PATCH]
                ),
            },
            "costs": costs,
        },
        f"Both start from what an interpreter learnt and take {_STEPS} steps more, one "
        "in Keras and one in an interpreter. The guide's last state is also patched "
        "into the old file, and the outputs are held against the new file's.",
    )


def _apart(one: runs.Seen, other: runs.Seen) -> float:
    """The largest difference of an output over the largest output."""
    pairs = zip(one.outputs, other.outputs, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _in_a_process(way: str, folder: pathlib.Path, runtime: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ondevice.observing.workflows", way, folder, runtime],
        check=True,
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def _guide(
    folder: pathlib.Path, state: Mapping[str, Any]
) -> tuple[bytes, float]:
    """Returns the new fresh file, and when its writing began."""
    from ondevice.observing import networks

    observed = networks.make(*json.loads((folder / "network.json").read_text()))
    in_keras = observed.keras()
    for number in range(_STEPS, 2 * _STEPS):
        batch = observed.batches[number % len(observed.batches)]
        _, after = in_keras.step(
            state, batch, observed.settings, observed.rate, "float32"
        )
        state = {**after, "step": np.int32(number + 1)}
    np.savez(folder / "guide.npz", **state)
    return observed.reconvert(state), time.monotonic()


def _patch(
    folder: pathlib.Path, state: Mapping[str, np.ndarray], runtime: str
) -> tuple[bytes, float]:
    """Returns the patched file, and when its writing began."""
    observed = elsewhere.given(folder / "job.npz")
    file = tflite_file.read(folder / "model.tflite")
    with runs.opened(file.data, runtime, state) as running:
        runs.train(running, observed, _STEPS, _STEPS)
        learnt, described = running.state(), running.manifest
    began = time.monotonic()
    return patch.patch_trainable(file, described, learnt), began


def _main(way: str, folder: str, runtime: str) -> None:
    place = pathlib.Path(folder)
    with np.load(place / "learnt.npz", allow_pickle=False) as stored:
        state = dict(stored)
    began = time.monotonic()
    if way == _GUIDE:
        data, written = _guide(place, state)
    else:
        data, written = _patch(place, state, runtime)
    (place / f"{way}.tflite").write_bytes(data)
    peak = usage.peak_memory() or 0
    cost = {
        "seconds": round(time.monotonic() - began, 3),
        "peak_megabytes": round(peak / 1e6),
    }
    if way == _PATCH:
        cost["seconds_to_write_the_file"] = round(time.monotonic() - written, 3)
    print(json.dumps(cost))


if __name__ == "__main__":
    _main(*sys.argv[1:])
