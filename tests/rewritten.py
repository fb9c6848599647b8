"""Files that say the same otherwise: shuffled, renamed, with MediaPipe's operator."""

from __future__ import annotations

import struct
from collections.abc import Callable

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from ondevice import rewrite

CUSTOM = "Convolution2DTransposeBias"


def edited(data: bytes, edit: Callable[[schema.ModelT], None]) -> bytes:
    """The file after `edit` has changed its object form."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    edit(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def operators(model: schema.ModelT, name: str) -> list[schema.OperatorT]:
    """Those of subgraph 0 of one kind."""
    code = getattr(schema.BuiltinOperator, name)
    return rewrite.operators(model, model.subgraphs[0], code)


def shuffled(data: bytes, seed: int = 0) -> bytes:
    """The file without names; tensors, buffers, codes and outputs change places.

    Operators keep only the order that they need.
    """
    random = np.random.default_rng(seed)

    def shuffle(model: schema.ModelT) -> None:
        graph = model.subgraphs[0]
        for tensor in graph.tensors:
            tensor.name = b"a name that means nothing"
        order, place = _permuted(len(graph.tensors), random)
        graph.tensors = [graph.tensors[old] for old in order]
        for operator in graph.operators:
            operator.inputs = [place.get(i, -1) for i in operator.inputs]
            operator.outputs = [place[i] for i in operator.outputs]
        graph.inputs = [place[i] for i in graph.inputs]
        graph.outputs = [place[i] for i in graph.outputs][::-1]
        for definition in model.signatureDefs or ():
            for entry in (*definition.inputs, *definition.outputs):
                entry.tensorIndex = place[entry.tensorIndex]
        graph.operators = _reordered(graph.operators, random)
        order, place = _permuted(len(model.operatorCodes), random)
        model.operatorCodes = [model.operatorCodes[old] for old in order]
        for operator in graph.operators:
            operator.opcodeIndex = place[operator.opcodeIndex]
        # Buffer 0 is the empty one.
        order, place = _permuted(len(model.buffers) - 1, random)
        rest = model.buffers[1:]
        model.buffers = [model.buffers[0], *(rest[old] for old in order)]
        for tensor in graph.tensors:
            tensor.buffer = place[tensor.buffer - 1] + 1 if tensor.buffer else 0
        for entry in model.metadata or ():
            entry.buffer = place[entry.buffer - 1] + 1

    return edited(data, shuffle)


def with_custom_operator(data: bytes) -> bytes:
    """The file with each TRANSPOSE_CONV as MediaPipe's original palm file has it."""

    def replace(model: schema.ModelT) -> None:
        graph, codes = model.subgraphs[0], model.operatorCodes
        custom, relu = schema.OperatorCodeT(), schema.OperatorCodeT()
        custom.builtinCode = schema.BuiltinOperator.CUSTOM
        custom.deprecatedBuiltinCode, custom.customCode = custom.builtinCode, CUSTOM
        relu.builtinCode = relu.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
        found = operators(model, "TRANSPOSE_CONV")
        codes.extend((custom, relu))
        for operator in found:
            options = operator.builtinOptions
            kept = struct.pack("<3i", 1, options.strideW, options.strideH)  # 1: SAME
            _, kernel, image, bias = operator.inputs
            between = _copied(graph, operator.outputs[0])
            activation = schema.OperatorT()
            activation.opcodeIndex = len(codes) - 1
            activation.inputs, activation.outputs = [between], operator.outputs
            graph.operators.insert(graph.operators.index(operator) + 1, activation)
            operator.opcodeIndex = len(codes) - 2
            operator.inputs, operator.outputs = [image, kernel, bias], [between]
            operator.builtinOptionsType, operator.builtinOptions = 0, None
            operator.customOptions = np.frombuffer(kept, np.uint8)

    return edited(data, replace)


def _copied(graph: schema.SubGraphT, index: int) -> int:
    """A further tensor like one that is computed; returns its index."""
    like, tensor = graph.tensors[index], schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = like.shape, like.type, 0
    tensor.name = b"between"
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _permuted(count: int, random: np.random.Generator) -> tuple[list, dict]:
    """The old places in their new order, and old -> new."""
    order = random.permutation(count).tolist()
    return order, {old: new for new, old in enumerate(order)}


def _reordered(
    found: list[schema.OperatorT], random: np.random.Generator
) -> list[schema.OperatorT]:
    """A random order in which every operator still comes after what it reads."""
    made = {out for operator in found for out in operator.outputs}
    waiting, ready, order = list(found), set(), []
    while waiting:
        free = [o for o in waiting if not (set(o.inputs) & made) - ready]
        chosen = free[random.integers(len(free))]
        waiting.remove(chosen)
        ready.update(chosen.outputs)
        order.append(chosen)
    return order
