"""Small .tflite, written with the schema package."""

from __future__ import annotations

import flatbuffers
import numpy as np
import tflite

PLAIN = (((2, 3), "FLOAT32", 1),)
# Of the default buffer's six numbers two are in the first row and four in the other.
SPARSE = (
    ((2, 8), "FLOAT32", 1, ((0, 1), (), (2, ([0, 2, 6], [1, 6, 0, 3, 4, 7], "uint8")))),
)


def model_bytes(
    tensors=PLAIN,
    buffers=(b"", np.arange(6, dtype="<f4").tobytes()),
    operators=(),
    codes=(),
    signature=False,
    subgraphs=1,
    shared=False,
    metadata=(),
) -> bytes:
    """Writes a small .tflite with the schema package.

    Args:
      tensors: (shape, dtype's name, buffer) each, or with (traversal order, block map,
        levels) behind them; a dense level is its size, a sparse one (segments, indices,
        their dtype).
      buffers: Bytes each.
      operators: (code, inputs, outputs) each.
      codes: (builtin code, custom code or None) each.
      signature: Whether to add one called `run`.
      subgraphs: How often the one subgraph is listed.
      shared: Whether each tensor is the same table.
      metadata: (name, buffer) each.
    """
    builder = flatbuffers.Builder(1024)

    def vector(items):
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    def numbers(items):
        return builder.CreateNumpyVector(np.asarray(items, np.int32))

    def buffer(data):
        content = builder.CreateByteVector(data) if data else None
        tflite.BufferStart(builder)
        if content is not None:
            tflite.BufferAddData(builder, content)
        return tflite.BufferEnd(builder)

    def level(given):
        if isinstance(given, int):
            tflite.DimensionMetadataStart(builder)
            tflite.DimensionMetadataAddDenseSize(builder, given)
            return tflite.DimensionMetadataEnd(builder)
        *rows, dtype = given
        tables = []
        for row in rows:
            values = builder.CreateNumpyVector(np.asarray(row, dtype))
            builder.StartObject(1)  # Each of the three kinds is a table of a vector.
            builder.PrependUOffsetTRelativeSlot(0, values, 0)
            tables.append(builder.EndObject())
        kind = {"int32": 1, "uint16": 2, "uint8": 3}.get(dtype, 9)
        tflite.DimensionMetadataStart(builder)
        tflite.DimensionMetadataAddFormat(builder, tflite.DimensionType.SPARSE_CSR)
        tflite.DimensionMetadataAddArraySegmentsType(builder, kind)
        tflite.DimensionMetadataAddArraySegments(builder, tables[0])
        tflite.DimensionMetadataAddArrayIndicesType(builder, kind)
        tflite.DimensionMetadataAddArrayIndices(builder, tables[1])
        return tflite.DimensionMetadataEnd(builder)

    def sparsity(order, blocks, levels):
        rows = vector([level(given) for given in levels])
        order, blocks = numbers(order), numbers(blocks)
        tflite.SparsityParametersStart(builder)
        tflite.SparsityParametersAddTraversalOrder(builder, order)
        tflite.SparsityParametersAddBlockMap(builder, blocks)
        tflite.SparsityParametersAddDimMetadata(builder, rows)
        return tflite.SparsityParametersEnd(builder)

    def tensor(i, shape, dtype, number, encoding=None):
        name, sides = builder.CreateString(f"t{i}"), numbers(shape)
        stored = sparsity(*encoding) if encoding else None
        tflite.TensorStart(builder)
        if stored is not None:
            tflite.TensorAddSparsity(builder, stored)
        tflite.TensorAddShape(builder, sides)
        tflite.TensorAddType(builder, getattr(tflite.TensorType, dtype))
        tflite.TensorAddBuffer(builder, number)
        tflite.TensorAddName(builder, name)
        return tflite.TensorEnd(builder)

    def operator(code, inputs, outputs):
        inputs, outputs = numbers(inputs), numbers(outputs)
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, code)
        tflite.OperatorAddInputs(builder, inputs)
        tflite.OperatorAddOutputs(builder, outputs)
        return tflite.OperatorEnd(builder)

    def operator_code(builtin, custom):
        name = builder.CreateString(custom) if custom else None
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(builtin, 127))
        tflite.OperatorCodeAddBuiltinCode(builder, builtin)
        if name is not None:
            tflite.OperatorCodeAddCustomCode(builder, name)
        return tflite.OperatorCodeEnd(builder)

    def named(name, index):
        text = builder.CreateString(name)
        tflite.TensorMapStart(builder)
        tflite.TensorMapAddName(builder, text)
        tflite.TensorMapAddTensorIndex(builder, index)
        return tflite.TensorMapEnd(builder)

    if shared:
        tables = [tensor(0, *tensors[0])] * len(tensors)
    else:
        tables = [tensor(i, *row) for i, row in enumerate(tensors)]
    rows = vector([operator(*row) for row in operators])
    tables = vector(tables)
    ends = numbers([0])
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tables)
    tflite.SubGraphAddOperators(builder, rows)
    tflite.SubGraphAddInputs(builder, ends)
    tflite.SubGraphAddOutputs(builder, ends)
    graph = tflite.SubGraphEnd(builder)
    graphs = vector([graph] * subgraphs)
    stored = vector([buffer(data) for data in buffers])
    kinds = vector([operator_code(*c) for c in codes])
    signatures = None
    if signature:
        entries = vector([named("x", 0)])
        key = builder.CreateString("run")
        tflite.SignatureDefStart(builder)
        tflite.SignatureDefAddInputs(builder, entries)
        tflite.SignatureDefAddOutputs(builder, entries)
        tflite.SignatureDefAddSignatureKey(builder, key)
        signatures = vector([tflite.SignatureDefEnd(builder)])
    entries = []
    for name, number in metadata:
        text = builder.CreateString(name)
        tflite.MetadataStart(builder)
        tflite.MetadataAddName(builder, text)
        tflite.MetadataAddBuffer(builder, number)
        entries.append(tflite.MetadataEnd(builder))
    entries = vector(entries)
    tflite.ModelStart(builder)
    tflite.ModelAddMetadata(builder, entries)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, kinds)
    tflite.ModelAddSubgraphs(builder, graphs)
    tflite.ModelAddBuffers(builder, stored)
    if signatures is not None:
        tflite.ModelAddSignatureDefs(builder, signatures)
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())
