"""What a parsed .tflite is: frozen dataclasses, made by `tflite_file.parse`."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import struct
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import allowance
from checkpoints import sparsity as sparsities

NUMPY_DTYPES = types.MappingProxyType(
    {
        "FLOAT16": "<f2",
        "FLOAT32": "<f4",
        "FLOAT64": "<f8",
        "COMPLEX64": "<c8",
        "COMPLEX128": "<c16",
        "BOOL": "|b1",
        "INT8": "|i1",
        "INT16": "<i2",
        "INT32": "<i4",
        "INT64": "<i8",
        "UINT8": "|u1",
        "UINT16": "<u2",
        "UINT32": "<u4",
        "UINT64": "<u8",
    }
)

# Bytes of memory of one string of a constant beside its characters, at most.
_A_STRING = 64


class TfliteError(ValueError):
    """A .tflite that is malformed, or not one at all."""


@functools.cache
def subgraph_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Those of an operator's options that are indices of subgraphs."""
    return tuple(key for key in keys if key.endswith("subgraph_index"))


@dataclasses.dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point), along `axis` where there are several.

    `details` names another rule where the file has one, as 'BlockwiseQuantization'.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    details: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
      index: Index in its subgraph.
      name: Name in the file; differs between converters.
      shape: Static shape; () is a scalar, or unknown.
      shape_signature: Shape with -1 for a dynamic side; () where the file has none.
      dtype: Name in the schema: 'FLOAT32', 'RESOURCE', 'STRING', ...
      buffer: Index of the buffer with its value; an empty one means no constant.
      is_variable: Whether it keeps its value between invocations.
      quantization: None where it is not quantized.
      sparsity: How the buffer stores it; None where it is dense.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    buffer: int
    is_variable: bool
    quantization: Quantization | None
    sparsity: sparsities.Sparsity | None


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a subgraph.

    Attributes:
      index: Index in its subgraph, which is the order of execution.
      name: 'CONV_2D', ...; of a custom operator its custom code, as 'FlexSave'.
      custom: Whether it is one.
      inputs: Tensor indices; -1 where an optional input is left out.
      outputs: Tensor indices.
      options: Builtin options by their names in the schema, as `stride_h`; enumerations
        equal their number and have a `.name`. Of a custom operator: {'custom_options':
        bytes}.
    """

    index: int
    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]

    @property
    def calls(self) -> tuple[int, ...]:
        """The subgraphs that it runs, as the condition and the body of a WHILE."""
        return tuple(self.options[key] for key in subgraph_keys(tuple(self.options)))


@dataclasses.dataclass(frozen=True)
class Subgraph:
    """One subgraph; inputs and outputs are tensor indices."""

    index: int
    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Signature:
    """A named entry; inputs and outputs are name -> tensor index in `subgraph`."""

    key: str
    subgraph: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True)
class BufferRange:
    """Where a buffer's bytes lie in the file; size 0 where it holds none."""

    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class TfliteFile:
    """A parsed .tflite.

    Attributes:
      subgraphs: The first is the primary one.
      signatures: In the file's order.
      metadata: Metadata name -> buffer.
      description: The file's own description.
      buffers: Where each buffer lies in `data`.
      data: The whole file.
    """

    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[Signature, ...]
    metadata: Mapping[str, int]
    description: str
    buffers: tuple[BufferRange, ...]
    data: bytes = dataclasses.field(repr=False)

    def buffer_bytes(self, index: int) -> memoryview:
        """Returns the bytes of a buffer as a read-only view.

        Raises:
          TfliteError: If there is no such buffer.
        """
        if not 0 <= index < len(self.buffers):
            raise TfliteError(
                f"A buffer must be in [0, {len(self.buffers)}). Received: {index}."
            )
        span = self.buffers[index]
        return memoryview(self.data)[span.offset : span.offset + span.size]

    def constant(self, subgraph: int, tensor_index: int) -> np.ndarray | None:
        """Returns the constant value of a tensor as a read-only view of the file.

        Args:
          subgraph: Index of the subgraph.
          tensor_index: Index of the tensor in it.

        Returns:
          The array in the tensor's shape and dtype, float16 as float16; strings as an
          object array of bytes; None where the tensor is no constant.

        Raises:
          TfliteError: If the indices are out of range, the buffer's size is not the
            tensor's, or the encoding is not a plain array (sparse, INT4, BFLOAT16).
        """
        if not 0 <= subgraph < len(self.subgraphs) or not (
            0 <= tensor_index < len(self.subgraphs[subgraph].tensors)
        ):
            raise TfliteError(
                f"A tensor must be in the file. Received: tensor {tensor_index} of "
                f"subgraph {subgraph}."
            )
        tensor = self.subgraphs[subgraph].tensors[tensor_index]
        stored = self.buffer_bytes(tensor.buffer)
        if not stored.nbytes:
            return None
        where = f"tensor {tensor_index} ({tensor.name[:80]!r}) of subgraph {subgraph}"
        if tensor.dtype == "STRING" and tensor.sparsity is None:
            offsets = self.string_offsets(subgraph, tensor_index)
            if _A_STRING * offsets.size > allowance.of(len(self.data)):
                raise TfliteError(
                    "A string constant must not take more memory than reading the file "
                    f"may. Received: {offsets.size} strings; in {where}."
                )
            values = np.empty(offsets.size - 1, object)
            values[:] = [bytes(stored[a:b]) for a, b in itertools.pairwise(offsets)]
            return values.reshape(tensor.shape)
        if tensor.sparsity or tensor.dtype not in NUMPY_DTYPES:
            raise TfliteError(
                "A constant must be a dense array of a dtype that numpy has. Received: "
                f"{'sparse ' if tensor.sparsity else ''}{tensor.dtype}; in {where}."
            )
        dtype = np.dtype(NUMPY_DTYPES[tensor.dtype])
        expected = math.prod(tensor.shape) * dtype.itemsize
        if stored.nbytes != expected:
            raise TfliteError(
                f"A constant of shape {tensor.shape} and dtype {tensor.dtype} must "
                f"have {expected} bytes. Received: {stored.nbytes}; in {where}."
            )
        return np.frombuffer(stored, dtype).reshape(tensor.shape)

    def string_offsets(self, subgraph: int, tensor_index: int) -> np.ndarray:
        """Where the strings of a constant begin in its buffer, and the last one ends.

        Returns:
          [strings + 1] of int32, rising.

        Raises:
          TfliteError: If it is no table of so many strings: int32 count, count + 1
            int32 offsets, characters.
        """
        tensor = self.subgraphs[subgraph].tensors[tensor_index]
        stored = self.buffer_bytes(tensor.buffer)
        where = f"tensor {tensor_index} ({tensor.name[:80]!r}) of subgraph {subgraph}"
        count = struct.unpack_from("<i", stored)[0] if len(stored) >= 4 else -1
        if count != math.prod(tensor.shape) or len(stored) < 4 * (count + 2):
            raise TfliteError(
                f"A string constant of shape {tensor.shape} must hold that many "
                f"strings. Received: {count} in {len(stored)} bytes; in {where}."
            )
        offsets = np.frombuffer(stored, "<i4", count + 1, 4)
        if offsets[0] < 0 or offsets[-1] > len(stored) or (np.diff(offsets) < 0).any():
            raise TfliteError(
                f"A string constant's offsets must rise inside its {len(stored)} "
                f"bytes. Received: {offsets[:8].tolist()}; in {where}."
            )
        return offsets

    def census(self) -> dict[str, int]:
        """Returns operator name -> count over all subgraphs, sorted by name."""
        names = collections.Counter(o.name for g in self.subgraphs for o in g.operators)
        return dict(sorted(names.items()))

    def flex(self) -> tuple[str, ...]:
        """Returns the operators that need TensorFlow's own kernels, sorted."""
        return tuple(name for name in self._custom_names() if name.startswith("Flex"))

    def custom(self) -> tuple[str, ...]:
        """Returns the other custom operators, sorted."""
        names = self._custom_names()
        return tuple(name for name in names if not name.startswith("Flex"))

    def _custom_names(self) -> list[str]:
        return sorted(
            {o.name for g in self.subgraphs for o in g.operators if o.custom}
        )
