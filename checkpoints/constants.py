"""What the constants of a .tflite stand for: float32, whatever they are stored as.

float16 is exact in float32. Integers with scales are `scale * (stored - zero_point)`,
one scale for the tensor or one for each index of an axis.
"""

from __future__ import annotations

import math

import numpy as np

from checkpoints import tflite_types

_FLOATS = ("FLOAT32", "FLOAT16")
_INTEGERS = ("INT8", "UINT8", "INT16", "INT32")


def decoded(
    file: tflite_types.TfliteFile, subgraph: int, tensor_index: int
) -> np.ndarray:
    """Reads a constant.

    Args:
      file: A parsed .tflite.
      subgraph: Index of the subgraph.
      tensor_index: Index of the tensor in it.

    Returns:
      float32 array of the tensor's shape.

    Raises:
      TfliteError: If it is no constant, or stored in a way that has no decoder: which
        one, and where.
    """
    stored = file.constant(subgraph, tensor_index)
    tensor = file.subgraphs[subgraph].tensors[tensor_index]
    where = f"tensor {tensor_index} ({tensor.name!r}) of subgraph {subgraph}"
    if stored is None:
        raise tflite_types.TfliteError(
            f"A weight must be a constant. Received: {where}, which holds none."
        )
    given = tensor.quantization
    if tensor.dtype in _FLOATS and given is None:
        return stored.astype(np.float32)
    if tensor.dtype not in _INTEGERS or given is None:
        scaled = "no scale" if given is None else "scales"
        raise tflite_types.TfliteError(
            f"A weight must be one of {', '.join(_FLOATS)}, or one of "
            f"{', '.join(_INTEGERS)} with scales. Received: {tensor.dtype} with "
            f"{scaled}; in {where}."
        )
    shape = _broadcast(given, tensor.shape, where)
    zero = np.array(given.zero_point or (0,), np.float64).reshape(shape)
    scale = np.array(given.scale, np.float64).reshape(shape)
    return (scale * (stored - zero)).astype(np.float32)


def _broadcast(
    given: tflite_types.Quantization, shape: tuple[int, ...], where: str
) -> tuple[int, ...]:
    """The shape in which scales and zero points are multiplied with a tensor."""
    count, zeros = len(given.scale), len(given.zero_point)
    axis = given.axis if 0 <= given.axis < len(shape) else 0
    sides = {1: (1,) * len(shape)}
    if shape:
        sides.setdefault(
            shape[axis], tuple(s if i == axis else 1 for i, s in enumerate(shape))
        )
    finite = all(math.isfinite(scale) for scale in given.scale)
    if count not in sides or zeros not in (0, count) or not finite:
        raise tflite_types.TfliteError(
            f"A weight of shape {shape} must have one finite scale and zero point, or "
            f"one for each index of axis {given.axis}. Received: {count} scales, "
            f"{zeros} zero points; in {where}."
        )
    return sides[count]
