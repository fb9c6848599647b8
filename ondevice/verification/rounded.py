"""Files whose activations are rounded to int8, and the Keras model layer by layer.

Such a file is no reference for whole networks: rounding grows from layer to layer, and
the file differs from itself between two sets of kernels as much as from anything else.
A single layer has no room for that. So the file gives out every tensor that it
computes, each layer of the Keras model is given what its operator read, its result is
rounded as the file says, and the two must correlate.
"""

from __future__ import annotations

import flatbuffers
import keras
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import tflite_file
from ondevice.rebuild import nodes, recognition

_LEVELS = {"INT8": (-128, 127), "UINT8": (0, 255), "INT16": (-32768, 32767)}


def computed(file: tflite_file.TfliteFile) -> list[int]:
    """The tensors of subgraph 0 that follow from its input, in their order."""
    graph = file.subgraphs[0]
    found = set(graph.inputs)
    for operator in graph.operators:
        if found.intersection(operator.inputs):
            found.update(operator.outputs)
    return sorted(found.difference(graph.inputs))


def exposed(file: tflite_file.TfliteFile) -> bytes:
    """The same file, which gives out every tensor of `computed`."""
    model = schema.ModelT.InitFromPackedBuf(file.data, 0)
    model.subgraphs[0].outputs = computed(file)
    model.signatureDefs = []  # they name the outputs that were
    builder = flatbuffers.Builder(len(file.data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def errors(
    model: keras.Model,
    found: recognition.Recognised,
    file: tflite_file.TfliteFile,
    image: np.ndarray,
    outputs: list[np.ndarray],
) -> dict[str, float]:
    """How far each layer is from the file's operator.

    Args:
      model: The Keras model with the file's weights.
      found: What was recognised in the file.
      file: The vendor's file.
      image: [1, S, S, 3] float32 that it was shown.
      outputs: What `exposed` gave for it, decoded to float32.

    Returns:
      Layer -> 1 - the correlation of its result with the file's, for the layers whose
      result the file holds; 0 where both are the same throughout.
    """
    graph = file.subgraphs[0]
    values = dict(zip(computed(file), outputs, strict=True))
    values[graph.inputs[0]] = image
    between: dict[int, np.ndarray] = {}  # results that the file keeps to itself
    differences = {}
    for layer in found.layers:
        if layer.kind == "input":
            continue
        node = found.nodes[layer.name]
        read = [between[i] for i in node.inputs if i in between]
        if not read:
            read = [values[i] for i in _source(file, node).inputs if i in values]
        keras_layer = model.get_layer(layer.name)
        result = np.asarray(keras_layer(read if len(read) > 1 else read[0]))
        added = graph.operators[node.operator]
        if layer.kind == "transpose_conv" and added.name == "ADD":
            bias = np.asarray(keras_layer.bias)
            bare = next(i for i in added.inputs if i in values)
            result = _rounded(result - bias, graph.tensors[bare]) + bias
        if node.output not in values:
            between[node.output] = result
            continue
        result = _rounded(result, graph.tensors[node.output])
        differences[layer.name] = unlikeness(result, values[node.output])
    return differences


def unlikeness(one: np.ndarray, other: np.ndarray) -> float:
    """1 - correlation; 0 for equal arrays, also where nothing varies in them."""
    if one.shape != other.shape:
        return float("nan")
    if np.array_equal(one, other):
        return 0.0
    return 1.0 - float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _source(
    file: tflite_file.TfliteFile, node: nodes.Node
) -> tflite_file.Operator:
    """The operator that reads what a node reads: the first of two for a bias behind."""
    graph = file.subgraphs[0]
    operator = graph.operators[node.operator]
    if node.kind == "transpose_conv" and operator.name == "ADD":
        return next(o for o in graph.operators if o.outputs[0] in operator.inputs)
    return operator


def _rounded(values: np.ndarray, tensor: tflite_file.Tensor) -> np.ndarray:
    """What is left of float values in a tensor of the file."""
    if tensor.dtype not in _LEVELS or tensor.quantization is None:
        return values
    low, high = _LEVELS[tensor.dtype]
    scale = np.float32(tensor.quantization.scale[0])
    zero = (*tensor.quantization.zero_point, 0)[0]
    return (np.clip(np.round(values / scale) + zero, low, high) - zero) * scale
