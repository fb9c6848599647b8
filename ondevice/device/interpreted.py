"""Constants as an interpreter has them: tensor by index, in a process of its own.

The way of those who do not read the file themselves. It gives what the runtime makes of
a constant, behind its DEQUANTIZE and DENSIFY, and needs a runtime that knows every
operator of the file. `read` starts
`python -m ondevice.device.interpreted FILE RUNTIME OUTPUT INDEX...`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from checkpoints import soundness, tflite_file
from ondevice.device import probe, runtimes

_MODULE = "ondevice.device.interpreted"


def read(
    path: str | os.PathLike[str], indices: Sequence[int], runtime: str, timeout: float
) -> dict[int, np.ndarray]:
    """Reads tensors of subgraph 0 after an invocation with zeros.

    Args:
      path: Of the .tflite.
      indices: Of the tensors.
      runtime: As `runtimes.choose` takes it.
      timeout: Seconds for all of it.

    Returns:
      Index -> float32 array; integers are what their scales make of them.

    Raises:
      RuntimeChoiceError: As `runtimes.choose`.
      RuntimeFailure: If the runtime does not run the file, or crashes or hangs on it.
    """
    name = runtimes.choose(runtime)
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "tensors.npz")
        with open(os.path.join(folder, "indices.json"), "w") as stream:
            json.dump(list(indices), stream)
        try:
            found = probe.apart(
                _MODULE, [os.fspath(path), name, stream.name, output], timeout
            )
        except probe.ApartError as error:
            found = {"error": str(error)}
        if found.get("error"):
            raise runtimes.RuntimeFailure(
                f"The runtime {name!r} must be able to run the file, otherwise it "
                f"gives none of its tensors. Received: {found['error']}; in "
                f"{os.fspath(path)}."
            )
        with np.load(output, allow_pickle=False) as stored:
            return {int(index): stored[index] for index in stored.files}


def _tensors(path: str, runtime: str, indices: Sequence[int]) -> dict[str, np.ndarray]:
    soundness.require(tflite_file.read(path))
    interpreter = runtimes.create(path, runtime, every_tensor=True)
    for entry in interpreter.get_input_details():
        if entry["dtype"] not in (np.bytes_, np.str_, np.object_):
            zeros = np.zeros(entry["shape"], entry["dtype"])
            interpreter.set_tensor(entry["index"], zeros)
    interpreter.invoke()
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    return {
        str(index): _float(interpreter.get_tensor(index), details[index])
        for index in indices
    }


def _float(stored: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """What an interpreter's tensor stands for, by its own account of the scales."""
    given = detail["quantization_parameters"]
    if not given["scales"].size:
        return stored.astype(np.float32)
    shape = [1] * stored.ndim
    if given["scales"].size > 1:
        shape[given["quantized_dimension"]] = -1
    scale = given["scales"].astype(np.float64).reshape(shape)
    zero = given["zero_points"].astype(np.float64).reshape(shape)
    return (scale * (stored - zero)).astype(np.float32)


def _main(path: str, runtime: str, indices: str, output: str) -> None:
    probe.limit_memory()
    error = None
    try:
        with open(indices) as stream:
            found = _tensors(path, runtime, json.load(stream))
        np.savez(output, **found)
    except Exception as caught:  # Whatever it is, it is the answer.
        error = " ".join(str(caught).split()) or type(caught).__name__
    print(json.dumps({"error": error}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
