"""What the operators of a signature have to do: multiply-adds, and bytes they move.

Counted from the graph, so that a step can be held against the arithmetic that it cannot
do without, and operators that only move numbers about can be seen.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np

from checkpoints import tflite_file

# Bytes of a number, by the schema's name; what is no array (RESOURCE) takes none.
_SIZES = {
    name: np.dtype(text).itemsize for name, text in tflite_file.NUMPY_DTYPES.items()
}
_PASSES = 3  # Forward once, then the gradients of inputs and of weights.


@dataclasses.dataclass(frozen=True)
class Work:
    """What one operator does in a call.

    Attributes:
      name: Of the operator.
      inputs: Shapes of its inputs, constants and all.
      outputs: Shapes of its outputs.
      macs: Multiply-adds of convolutions and matrix products; elementwise operators
        have none here.
      read: Bytes of the inputs.
      written: Bytes of the outputs.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    macs: int
    read: int
    written: int


class NoSignatureError(ValueError):
    """A signature that a file does not have."""


def of_signature(file: tflite_file.TfliteFile, key: str) -> list[Work]:
    """Lists what a signature's operators do, in the order of execution.

    Args:
      file: The .tflite.
      key: Of the signature.

    Raises:
      NoSignatureError: If the file has no such signature.
    """
    found = {s.key: s.subgraph for s in file.signatures}
    if key not in found:
        raise NoSignatureError(
            f"A signature must be one of {sorted(found)}. Received: {key!r}."
        )
    graph = file.subgraphs[found[key]]
    return [_work(graph, operator) for operator in graph.operators]


def multiply_adds(works: Iterable[Work]) -> int:
    """Of all of them together."""
    return sum(work.macs for work in works)


def of_step(forward: int, batch: int) -> int:
    """Multiply-adds of a training step in which every weight trains.

    Args:
      forward: Multiply-adds of the forward pass of one image.
      batch: Images in a step.
    """
    return _PASSES * forward * batch


def census(works: Iterable[Work]) -> list[tuple[Work, int]]:
    """Equal operators once, with how many there are, those that move most first."""
    counts = collections.Counter(works)

    def moved(entry: tuple[Work, int]) -> int:
        return (entry[0].read + entry[0].written) * entry[1]

    return sorted(counts.items(), key=moved, reverse=True)


def _work(graph: tflite_file.Subgraph, operator: tflite_file.Operator) -> Work:
    read = [graph.tensors[i] for i in operator.inputs if i >= 0]
    written = [graph.tensors[i] for i in operator.outputs]
    shapes = tuple(tensor.shape for tensor in read)
    outputs = tuple(tensor.shape for tensor in written)
    count = _MACS.get(operator.name)
    return Work(
        operator.name,
        shapes,
        outputs,
        count(operator, shapes, outputs[0]) if count else 0,
        sum(map(_bytes, read)),
        sum(map(_bytes, written)),
    )


def _bytes(tensor: tflite_file.Tensor) -> int:
    return math.prod(tensor.shape) * _SIZES.get(tensor.dtype, 0)


# From the operator, the shapes of its inputs, and the shape of its output.
_Count = Callable[
    [tflite_file.Operator, tuple[tuple[int, ...], ...], tuple[int, ...]], int
]


def _conv(_, inputs, output) -> int:
    return math.prod(output) * math.prod(inputs[1][1:])  # OHWI


def _depthwise(_, inputs, output) -> int:
    return math.prod(output) * math.prod(inputs[1][1:3])  # 1HWC


def _transpose_conv(_, inputs, output) -> int:
    # The inputs are the output's shape, the weights OHWI and the image.
    return math.prod(inputs[2]) * math.prod(inputs[1][:3])


def _batch_matmul(operator, inputs, output) -> int:
    side = -2 if operator.options.get("adj_x") else -1
    return math.prod(output) * inputs[0][side]


def _fully_connected(_, inputs, output) -> int:
    return math.prod(output) * inputs[1][-1]


_MACS: dict[str, _Count] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
    "BATCH_MATMUL": _batch_matmul,
    "FULLY_CONNECTED": _fully_connected,
}
