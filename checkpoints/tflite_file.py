"""The one reader of the .tflite schema: a file as frozen dataclasses.

`read` and `parse` accept any bytes: what is not a well-formed .tflite gives one
`TfliteError` that says where, never another exception, a hang or a large allocation.
Indices (tensors, buffers, operator codes, subgraphs) are checked once, here, so whoever
walks the result may use them freely.

Source: tensorflow/lite/schema/schema.fbs, version 3; the slot numbers below count its
fields from 0.
"""

from __future__ import annotations

import functools
import os
import struct
import types

import tflite
from tflite import utils

from checkpoints import flatbuffer, operator_options, shapes, sparsity
from checkpoints.tflite_types import (
    NUMPY_DTYPES,
    BufferRange,
    Operator,
    Quantization,
    Signature,
    Subgraph,
    Tensor,
    TfliteError,
    TfliteFile,
    subgraph_keys,
)

__all__ = [
    "NUMPY_DTYPES",
    "BufferRange",
    "Operator",
    "Quantization",
    "Signature",
    "Subgraph",
    "Tensor",
    "TfliteError",
    "TfliteFile",
    "parse",
    "read",
]

IDENTIFIER = b"TFL3"  # At byte 4.
SCHEMA_VERSION = 3

# Of a sparse tensor's indices, by their number in the schema's SparseIndexVector.
_INDEX_DTYPES = {1: "<i4", 2: "<u2", 3: "|u1"}

_INT8, _UINT8 = struct.Struct("<b"), struct.Struct("<B")
_INT32, _UINT32 = struct.Struct("<i"), struct.Struct("<I")
_UINT64 = struct.Struct("<Q")


def read(path: str | os.PathLike[str]) -> TfliteFile:
    """Reads a .tflite.

    Raises:
      TfliteError: If the file is not a well-formed .tflite; the error names it.
      OSError: If it cannot be read.
    """
    with open(path, "rb", buffering=0) as stream:  # One copy, and no other.
        data = stream.read(8)
        if data[4:] == IDENTIFIER:  # Otherwise the rest is not worth reading.
            stream.seek(0)
            data = stream.readall()
    try:
        return parse(data)
    except TfliteError as error:
        raise TfliteError(f"{os.fspath(path)}: {error}") from error


def parse(data: bytes) -> TfliteFile:
    """Parses the bytes of a .tflite.

    Raises:
      TfliteError: If they are not a well-formed one.
    """
    data = bytes(data)
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise TfliteError(
            "A .tflite must have the identifier b'TFL3' at byte 4. Received: "
            f"{data[4:8]!r} in a file that begins with {data[:4]!r}."
        )
    try:
        return _model(flatbuffer.Reader(data))
    except flatbuffer.FlatbufferError as error:
        raise TfliteError(str(error)) from error


def _model(reader: flatbuffer.Reader) -> TfliteFile:
    root = reader.root()
    version = root.scalar(0, _UINT32)
    if version != SCHEMA_VERSION:
        raise TfliteError(
            f"The schema's version must be {SCHEMA_VERSION}. Received: {version}."
        )
    codes = [_operator_code(table) for table in root.tables(1, "operator code", 80)]
    buffers = tuple(_buffer(table) for table in root.tables(4, "buffer", 120))
    graphs = list(root.tables(2, "subgraph", 400))
    if not graphs:
        raise TfliteError("A .tflite must have a subgraph. Received: none.")
    subgraphs = tuple(
        _subgraph(i, table, codes, len(buffers), len(graphs))
        for i, table in enumerate(graphs)
    )
    metadata = {}
    for table in root.tables(6, "metadata", 150):
        buffer = table.scalar(1, _UINT32)
        metadata[table.text(0)] = _index(buffer, len(buffers), "buffer", table)
    return TfliteFile(
        subgraphs=subgraphs,
        signatures=tuple(
            _signature(table, subgraphs) for table in root.tables(7, "signature", 800)
        ),
        metadata=types.MappingProxyType(metadata),
        description=root.text(3),
        buffers=buffers,
        data=reader.data,
    )


def _operator_code(table: flatbuffer.Table) -> tuple[str, bool]:
    """Returns (name, whether custom)."""
    # Codes past 127 did not fit the deprecated byte, which then holds a placeholder.
    code = max(table.scalar(0, _INT8), table.scalar(3, _INT32))
    if code == tflite.BuiltinOperator.CUSTOM:
        return table.text(1), True
    return utils.BUILTIN_OPCODE2NAME.get(code, f"BUILTIN_{code}"), False


def _buffer(table: flatbuffer.Table) -> BufferRange:
    start, size = table.span(0, 1)
    if not size:  # Files past 2 GB keep the bytes behind the flatbuffer.
        start, size = table.scalar(1, _UINT64), table.scalar(2, _UINT64)
        if start <= 1 or not size:  # 0 and 1 are placeholders.
            return BufferRange(0, 0)
        table.reader.check(start, size, table)
    return BufferRange(start, size)


def _subgraph(
    index: int,
    table: flatbuffer.Table,
    codes: list[tuple[str, bool]],
    buffers: int,
    subgraphs: int,
) -> Subgraph:
    tensors = tuple(
        _tensor(i, tensor, buffers)
        for i, tensor in enumerate(table.tables(0, "tensor", 190))
    )
    operators = tuple(
        _operator(i, operator, codes, len(tensors), subgraphs)
        for i, operator in enumerate(table.tables(3, "operator", 140))
    )
    return Subgraph(
        index=index,
        name=table.text(4),
        tensors=tensors,
        operators=operators,
        inputs=_indices(table, 1, len(tensors)),
        outputs=_indices(table, 2, len(tensors)),
    )


def _tensor(index: int, table: flatbuffer.Table, buffers: int) -> Tensor:
    shape = table.numbers(0, "i")
    signature = table.numbers(7, "i")
    code = table.scalar(1, _INT8)
    dtypes = _dtypes()
    faults = []
    if not shapes.is_possible(shape):
        faults.append(f"shape {shape[: shapes.MAX_RANK + 1]}")
    if len(signature) > shapes.MAX_RANK or min(signature, default=0) < -1:
        faults.append(f"shape signature {signature[: shapes.MAX_RANK + 1]}")
    if code not in dtypes:
        faults.append(f"dtype {code}")
    if faults:
        raise TfliteError(
            f"A tensor must have a rank of at most {shapes.MAX_RANK}, sides of 0 or "
            f"more, at most {shapes.MAX_ELEMENTS} elements and a dtype of the schema. "
            f"Received: {'; '.join(faults)}; in {table}."
        )
    return Tensor(
        index=index,
        name=table.text(3),
        shape=shape,
        shape_signature=signature,
        dtype=dtypes[code],
        buffer=_index(table.scalar(2, _UINT32), buffers, "buffer", table),
        is_variable=bool(table.scalar(5, _UINT8)),
        quantization=_quantization(table.table(4, "quantization")),
        sparsity=_sparsity(table.table(6, "sparsity", 120)),
    )


def _quantization(table: flatbuffer.Table | None) -> Quantization | None:
    scale = table.numbers(2, "f") if table else ()
    kind = table.scalar(4, _UINT8) if table else 0
    if table is None or not (scale or kind):
        return None
    table.reader.spend(table, 300)
    details = _quantizations().get(kind, f"details {kind}") if kind else ""
    return Quantization(scale, table.numbers(3, "q"), table.scalar(6, _INT32), details)


def _sparsity(table: flatbuffer.Table | None) -> sparsity.Sparsity | None:
    if table is None:
        return None
    levels = table.tables(2, "level", 80)
    return sparsity.Sparsity(
        traversal_order=table.numbers(0, "i"),
        block_map=table.numbers(1, "i"),
        levels=tuple(_level(level) for level in levels),
    )


def _level(table: flatbuffer.Table) -> sparsity.Level:
    kind = table.scalar(0, _INT8)
    if kind == tflite.DimensionType.DENSE:
        return sparsity.Level(table.scalar(1, _INT32))
    segments, indices = _sparse_indices(table, 2), _sparse_indices(table, 4)
    if kind != tflite.DimensionType.SPARSE_CSR or segments is None or indices is None:
        raise TfliteError(
            "A level of a sparse tensor must be dense, or sparse with segments and "
            f"indices. Received: format {kind}, segments {segments}, indices "
            f"{indices}; in {table}."
        )
    return sparsity.Level(0, segments, indices)


def _sparse_indices(table: flatbuffer.Table, slot: int) -> sparsity.Indices | None:
    """Returns where a vector lies; `slot` is of its type. None where it is absent."""
    dtype = _INDEX_DTYPES.get(table.scalar(slot, _UINT8))
    vector = table.table(slot + 1, "indices") if dtype else None
    if dtype is None or vector is None:
        return None
    width = int(dtype[-1])
    start, count = vector.span(0, width)
    table.reader.spend(table, 130 + count * width)
    return sparsity.Indices(start, count, dtype)


def _operator(
    index: int,
    table: flatbuffer.Table,
    codes: list[tuple[str, bool]],
    tensors: int,
    subgraphs: int,
) -> Operator:
    code = _index(table.scalar(0, _UINT32), len(codes), "operator code", table)
    name, custom = codes[code]
    options = operator_options.NONE
    if custom:
        start, length = table.span(5, 1)
        table.reader.spend(table, 300 + length)
        options = {"custom_options": table.reader.data[start : start + length]}
    for second, slot in enumerate((3, 11)):  # builtin_options, builtin_options_2
        kind = operator_options.class_name(table.scalar(slot, _UINT8), bool(second))
        fields = table.table(slot + 1, "options") if kind else None
        if fields is not None:
            options = operator_options.decode(fields, kind)
    for key in subgraph_keys(tuple(options)):
        _index(options[key], subgraphs, key, table)
    return Operator(
        index=index,
        name=name,
        custom=custom,
        inputs=_indices(table, 1, tensors, absent=True),
        outputs=_indices(table, 2, tensors),
        options=options,
    )


def _signature(
    table: flatbuffer.Table, subgraphs: tuple[Subgraph, ...]
) -> Signature:
    subgraph = table.scalar(4, _UINT32)
    _index(subgraph, len(subgraphs), "subgraph", table)
    tensors = len(subgraphs[subgraph].tensors)
    named: list[dict[str, int]] = [{}, {}]
    for slot, names in enumerate(named):
        for entry in table.tables(slot, ("input", "output")[slot], 150):
            tensor = entry.scalar(1, _UINT32)
            names[entry.text(0)] = _index(tensor, tensors, "tensor", entry)
    inputs, outputs = map(types.MappingProxyType, named)
    return Signature(table.text(2), subgraph, inputs, outputs)


def _indices(
    table: flatbuffer.Table, slot: int, count: int, absent: bool = False
) -> tuple[int, ...]:
    """Returns a vector of tensor indices, each proven below `count`."""
    indices = table.numbers(slot, "i")
    lowest = -1 if absent else 0
    if indices and (min(indices) < lowest or max(indices) >= count):
        wrong = [i for i in indices if not lowest <= i < count]
        raise TfliteError(
            f"Tensor indices must be in [{lowest}, {count}). Received: {wrong[:8]}; "
            f"in {table}."
        )
    return indices


def _index(value: int, count: int, what: str, where: object) -> int:
    if not 0 <= value < count:
        raise TfliteError(
            f"The index of a {what} must be in [0, {count}). Received: {value}; "
            f"in {where}."
        )
    return value


@functools.cache
def _dtypes() -> dict[int, str]:
    kinds = vars(tflite.TensorType).items()
    return {number: name for name, number in kinds if isinstance(number, int)}


@functools.cache
def _quantizations() -> dict[int, str]:
    kinds = vars(tflite.QuantizationDetails).items()
    return {number: name for name, number in kinds if isinstance(number, int)}
