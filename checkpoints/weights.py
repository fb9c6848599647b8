"""Reads the weights out of a .tflite: `patch`, the other way round."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import strict_json, tflite_file


class WeightsError(ValueError):
    """A file whose buffers do not hold what its manifest says."""


def of_trainable(
    file: tflite_file.TfliteFile, manifest: manifests.Manifest
) -> dict[str, np.ndarray]:
    """Returns what an interpreter starts with.

    Args:
      file: A trainable file.
      manifest: Its manifest.

    Returns:
      Name -> array of every variable: weights, slots and the step. They are views of
      the file, and read-only.

    Raises:
      WeightsError: Naming every variable whose buffer does not hold its shape.
    """
    faults = [
        f"{v.name!r}, {v.dtype} {v.shape} in buffer {v.buffer} of "
        f"{_size(file, v.buffer)} bytes"
        for v in manifest.variables
        if _size(file, v.buffer) != math.prod(v.shape) * np.dtype(v.dtype).itemsize
    ]
    _refuse(faults, "variable")
    return {
        v.name: np.frombuffer(
            file.buffer_bytes(v.buffer), np.dtype(v.dtype).newbyteorder("<")
        ).reshape(v.shape)
        for v in manifest.variables
    }


def of_inference(
    file: tflite_file.TfliteFile,
    manifest: manifests.Manifest,
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Returns weights of an inference file in the variables' layout.

    Args:
      file: An inference file in float32.
      manifest: Its manifest, whose constants say how each weight lies there.
      shapes: Name -> shape of every weight to read.

    Returns:
      Name -> float32 array; views of the file, and read-only.

    Raises:
      WeightsError: Naming every weight that the file has not, or not in its size.
    """
    constants = {constant.variable: constant for constant in manifest.constants}
    faults, found = [], {}
    for name, shape in shapes.items():
        if name not in constants:
            faults.append(f"no {name!r}")
            continue
        axes, buffer = constants[name].permutation, constants[name].buffer
        if len(axes) != len(shape) or _size(file, buffer) != 4 * math.prod(shape):
            faults.append(
                f"{name!r}, {shape} by {axes} in buffer {buffer} of "
                f"{_size(file, buffer)} bytes"
            )
            continue
        stored = np.frombuffer(file.buffer_bytes(buffer), "<f4")
        turned = stored.reshape([shape[axis] for axis in axes])
        found[name] = turned.transpose(np.argsort(axes))
    _refuse(faults, "weight")
    return found


def _size(file: tflite_file.TfliteFile, buffer: int) -> int:
    """Bytes of a buffer; 0 where there is none."""
    return file.buffers[buffer].size if 0 <= buffer < len(file.buffers) else 0


def _refuse(faults: list[str], what: str) -> None:
    if faults:
        raise WeightsError(
            f"The buffer of every {what} must hold its shape. Received: "
            f"{strict_json.summary(faults)}."
        )
