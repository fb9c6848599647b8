"""What the constants of a .tflite stand for: float32, whatever they are stored as.

float16 is exact in float32. Integers with scales are `scale * (stored - zero_point)`,
one scale for the tensor or one for each index of an axis. A sparse constant is the
array that its encoding stands for.
"""

from __future__ import annotations

import math

import numpy as np

from checkpoints import sparsity, tflite_types

_FLOATS = ("FLOAT32", "FLOAT16")
_INTEGERS = ("INT4", "INT8", "UINT8", "INT16", "INT32", "INT64")


def stands_for_floats(tensor: tflite_types.Tensor) -> bool:
    """Whether a tensor's numbers are floats, as they lie or by their scales."""
    return tensor.dtype in _FLOATS or tensor.quantization is not None


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
    tensor = file.subgraphs[subgraph].tensors[tensor_index]
    where = f"tensor {tensor_index} ({tensor.name[:80]!r}) of subgraph {subgraph}"
    if not file.buffer_bytes(tensor.buffer).nbytes:
        raise tflite_types.TfliteError(
            f"A weight must be a constant. Received: {where}, which holds none."
        )
    given = tensor.quantization
    scaled = "no scale" if given is None else given.details or "scales"
    expected = dict.fromkeys(_FLOATS, "no scale") | dict.fromkeys(_INTEGERS, "scales")
    if expected.get(tensor.dtype) != scaled:
        raise tflite_types.TfliteError(
            f"A weight must be one of {', '.join(_FLOATS)}, or one of "
            f"{', '.join(_INTEGERS)} with scales. Received: {tensor.dtype} with "
            f"{scaled}; in {where}."
        )
    scaling = _broadcast(given, tensor.shape, where) if given else ()
    stored = _stored(file, tensor, where)
    if given is None:
        return stored.astype(np.float32)
    zero = np.array(given.zero_point or (0,), np.float64).reshape(scaling)
    scale = np.array(given.scale, np.float64).reshape(scaling)
    return (scale * (stored - zero)).astype(np.float32)


def _stored(
    file: tflite_types.TfliteFile, tensor: tflite_types.Tensor, where: str
) -> np.ndarray:
    """The numbers as they lie in the file, in the tensor's shape."""
    data = file.buffer_bytes(tensor.buffer)
    dtype = np.dtype(tflite_types.NUMPY_DTYPES.get(tensor.dtype, "|i1"))
    elements = math.prod(tensor.shape)
    expected = elements * dtype.itemsize
    if tensor.dtype == "INT4":
        if tensor.sparsity is not None:
            raise tflite_types.TfliteError(
                f"A sparse weight must have whole bytes. Received: INT4; in {where}."
            )
        expected = (elements + 1) // 2
    fits = data.nbytes == expected
    if tensor.sparsity is not None:
        fits = data.nbytes % dtype.itemsize == 0
    if not fits:
        raise tflite_types.TfliteError(
            f"A constant of shape {tensor.shape} and dtype {tensor.dtype} must have "
            f"{expected} bytes, or a sparse one whole numbers. Received: "
            f"{data.nbytes}; in {where}."
        )
    values = np.frombuffer(data, dtype)
    if tensor.dtype == "INT4":  # Two a byte, the lower four bits first.
        halves = np.stack([values << 4 >> 4, values >> 4], axis=-1)
        values = halves.reshape(-1)[:elements]
    if tensor.sparsity is None:
        return values.reshape(tensor.shape)
    try:
        return sparsity.dense(values, tensor.sparsity, tensor.shape, file.data)
    except sparsity.SparsityError as error:
        raise tflite_types.TfliteError(
            f"Of a sparse weight, {error}; in {where}."
        ) from error


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
