"""What follows the converter: names, buffers and their alignment, in the file itself.

The contract's names are put on the signatures' tensors; every variable gets a buffer of
its own, since equal initial values share one; subgraphs get an order in which memory is
planned well; buffers are aligned as the runtimes' kernels expect; metadata is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests

# Alignment of constants, as `force_align: 16` of the schema's Buffer.data asks for; the
# Python packer does not look at it.
_ALIGNMENT = 16


class ConversionError(ValueError):
    """A graph that the converter refuses, or a file that is not what was asked for."""


def name_signatures(
    model: schema.ModelT, signatures: Sequence[manifests.SignatureSpec]
) -> None:
    """Replaces `in_i` and `out_i` by the names of the contract."""
    contracts = {s.key: s for s in signatures}
    for definition in model.signatureDefs:
        signature = contracts[definition.signatureKey.decode()]
        for maps, prefix, specs in (
            (definition.inputs, "in_", signature.inputs),
            (definition.outputs, "out_", signature.outputs),
        ):
            if len(maps) != len(specs):
                raise ConversionError(
                    f"Signature {signature.key!r} must keep its {len(specs)} tensors "
                    f"called {prefix}*. Received: {len(maps)}, the others were pruned."
                )
            for entry in maps:
                place = int(entry.name.decode().removeprefix(prefix))
                entry.name = specs[place].name.encode()


def name_tensors(
    model: schema.ModelT, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Puts names on a frozen file's tensors, and the tensors into the names' order.

    The converter orders them as it likes; its signature tells which is which.
    """
    graph, definition = model.subgraphs[0], model.signatureDefs[0]
    indices = {
        entry.name.decode(): entry.tensorIndex
        for entry in (*definition.inputs, *definition.outputs)
    }
    keys = {f"in_{i}": name for i, name in enumerate(inputs)}
    keys |= {f"out_{i}": name for i, name in enumerate(outputs)}
    if keys.keys() != indices.keys():
        raise ConversionError(
            f"The frozen file must keep its tensors {sorted(keys)}. Received: "
            f"{sorted(indices)}, the others were pruned."
        )
    for key, name in keys.items():
        graph.tensors[indices[key]].name = name.encode()
    graph.inputs = [indices[f"in_{i}"] for i in range(len(inputs))]
    graph.outputs = [indices[f"out_{i}"] for i in range(len(outputs))]
    for entry in (*definition.inputs, *definition.outputs):
        entry.name = keys[entry.name.decode()].encode()


def add_metadata(model: schema.ModelT, name: str, content: bytes) -> None:
    """Puts bytes into the file, where its metadata names them."""
    entry = schema.MetadataT()
    entry.name = name.encode()
    entry.buffer = len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]


def operators(
    model: schema.ModelT, graph: schema.SubGraphT, code: int
) -> list[schema.OperatorT]:
    """Those of a subgraph of one kind, by its `schema.BuiltinOperator`."""
    codes = [each.builtinCode for each in model.operatorCodes]
    return [o for o in graph.operators or () if codes[o.opcodeIndex] == code]


def callees_first(model: schema.ModelT) -> None:
    """Puts loops and branches before what runs them, and signatures without any first.

    tflite-runtime 2.14 hands one subgraph after the other to its delegate, plans the
    memory of a loop's body as soon as it comes to a caller, and keeps the plan: a body
    behind its caller lives by that of the operators that it had before, which takes
    three times the memory.
    """

    def depth(index: int) -> int:
        inner = [
            getattr(options, name)
            for options in _options(model.subgraphs[index])
            for name in _subgraphs_in(options)
            if name != "initSubgraphIndex"  # Planned when it is run.
        ]
        return 1 + max(map(depth, inner)) if inner else 0

    signatures = {definition.subgraphIndex for definition in model.signatureDefs}
    order = sorted(
        range(len(model.subgraphs)), key=lambda i: (depth(i), i not in signatures, i)
    )
    place = {index: new for new, index in enumerate(order)}
    model.subgraphs = [model.subgraphs[index] for index in order]
    for graph in model.subgraphs:
        for options in _options(graph):
            for name in _subgraphs_in(options):
                setattr(options, name, place[getattr(options, name)])
    for definition in model.signatureDefs:
        definition.subgraphIndex = place[definition.subgraphIndex]


def _options(graph: schema.SubGraphT) -> list[Any]:
    """Those of its operators that have any."""
    found = [operator.builtinOptions for operator in graph.operators or ()]
    return [options for options in found if options is not None]


def _subgraphs_in(options: Any) -> list[str]:
    """The names of an operator's options that are subgraphs."""
    return [name for name in vars(options) if name.endswith("SubgraphIndex")]


def share_constants(model: schema.ModelT) -> None:
    """Lets equal constants have one buffer; nothing reads the others'."""
    first: dict[bytes, int] = {}
    shared: dict[int, int] = {}
    for index, buffer in enumerate(model.buffers):
        if buffer.data is not None and len(buffer.data):
            content = np.asarray(buffer.data, np.uint8).tobytes()
            shared[index] = first.setdefault(content, index)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = shared.get(tensor.buffer, tensor.buffer)


def drop_buffers(model: schema.ModelT) -> None:
    """Leaves the buffers that are read, of empty ones the first: no constant at all.

    The converter makes one for each tensor, which all readers of the file go through.
    """
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    users = [*tensors, *(model.metadata or ())]
    read = {user.buffer for user in users}
    place = {0: 0}
    for index, buffer in enumerate(model.buffers):
        if index in read and buffer.data is not None and len(buffer.data):
            place.setdefault(index, len(place))
    model.buffers = [model.buffers[index] for index in place]
    for user in users:
        user.buffer = place.get(user.buffer, 0)


def unshare_variables(model: schema.ModelT) -> None:
    """Gives each variable's initial value a tensor and a buffer of its own."""
    initialisers = {
        operator.builtinOptions.initSubgraphIndex
        for graph in model.subgraphs
        for operator in operators(model, graph, schema.BuiltinOperator.CALL_ONCE)
    }
    assignments = [
        (model.subgraphs[index], operator)
        for index in sorted(initialisers)
        for operator in operators(
            model, model.subgraphs[index], schema.BuiltinOperator.ASSIGN_VARIABLE
        )
    ]
    values = {id(graph.tensors[o.inputs[1]]) for graph, o in assignments}
    taken = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors
        if id(tensor) not in values
    }
    assigned: set[int] = set()
    for graph, operator in assignments:
        old = graph.tensors[operator.inputs[1]]
        tensor = old
        if id(old) in assigned:  # one constant tensor may serve two assignments
            tensor = schema.TensorT()
            vars(tensor).update(vars(old))
            operator.inputs = [operator.inputs[0], len(graph.tensors)]
            graph.tensors.append(tensor)
        assigned.add(id(tensor))
        if tensor.buffer in taken:
            buffer = schema.BufferT()
            buffer.data = np.array(model.buffers[old.buffer].data)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        taken.add(tensor.buffer)


class _AlignedBuffer(schema.BufferT):
    """A buffer that packs its bytes at a multiple of 16."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        data = None
        if self.data is not None and len(self.data):
            stored = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(stored), _ALIGNMENT)
            builder.head -= len(stored)
            builder.Bytes[builder.head : builder.head + len(stored)] = stored
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def pack(model: schema.ModelT) -> bytes:
    for buffer in model.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
