"""Weights and activations in fewer bits than the converter leaves them by itself.

Weights alone (`store_weights`): a kernel lies in the file as int8 or float16, and a
DEQUANTIZE makes a float of it when the interpreter starts, so that the file computes as
fast as one in float32. The vendor's own files are built like that, with float16.

Activations as well (`integer_only`): the converter's full integer quantisation, without
what it must not touch. BUILD_NOTES.md has what each choice was measured to cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import tflite_file

_INT8, _FLOAT16 = schema.TensorType.INT8, schema.TensorType.FLOAT16

# Operator -> operand -> how it is stored. XNNPACK decides: beside an int8 kernel it
# takes a bias in float32 alone, beside a float16 kernel one in float16. Depthwise
# kernels are a tenth of the weights and would cost as much accuracy as all others.
_STORED = {
    schema.BuiltinOperator.CONV_2D: {1: _INT8},
    schema.BuiltinOperator.DEPTHWISE_CONV_2D: {1: _FLOAT16, 2: _FLOAT16},
    schema.BuiltinOperator.PRELU: {1: _FLOAT16},
}
_DTYPES = {_INT8: np.int8, _FLOAT16: np.float16}

# Its int8 kernel has one scale for all slopes, which reach from -9 to 16, and XNNPACK
# none at all.
_FLOAT_OPERATORS = ("PRELU",)

# Where the layers that make up the outputs end, going back from the outputs.
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def integer_only(
    converter: tf.lite.TFLiteConverter, images: Sequence[np.ndarray]
) -> bytes:
    """Converts with int8 activations, but for PReLUs and the outputs' own layers.

    The last convolutions and all that follows them stay in float: regressors in pixels
    have one scale for offsets of 0.1 and outliers of 1,000, and tflite-runtime 2.14 has
    no int8 LOG, which the classes' scores need.

    Args:
      converter: Set up, optimisations included; input and outputs stay float32.
      images: [1, S, S, 3] float32 each; their activations give the ranges.

    Returns:
      The .tflite as the converter leaves it.
    """
    converter.representative_dataset = lambda: ([image] for image in images)
    options = tf.lite.experimental.QuantizationDebugOptions
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=options(denylisted_ops=list(_FLOAT_OPERATORS)),
    )
    # Setting the options quantises again, by the same calibration.
    debugger.options = options(
        denylisted_ops=list(_FLOAT_OPERATORS),
        denylisted_nodes=_last_nodes(tflite_file.parse(debugger.calibrated_model)),
    )
    return debugger.get_nondebug_quantized_model()


def store_weights(model: schema.ModelT) -> None:
    """Puts the float32 weights of `_STORED` behind DEQUANTIZE, in fewer bits.

    int8 kernels have a scale for each output channel, and no zero point.

    Args:
      model: Of one subgraph; changed in place.
    """
    (graph,) = model.subgraphs
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    placed: dict[tuple[int, int], int] = {}
    dequantisers: list[schema.OperatorT] = []
    for operator in graph.operators:
        rules = _STORED.get(codes[operator.opcodeIndex], {})
        operands = [int(index) for index in operator.inputs]
        for place, kind in rules.items():
            index = operands[place] if place < len(operands) else -1
            value = _constant(model, graph.tensors[index]) if index >= 0 else None
            if value is None:
                continue
            if (index, kind) not in placed:
                dequantisers.append(_dequantiser(model, index, value, kind))
                placed[index, kind] = dequantisers[-1].outputs[0]
            operands[place] = placed[index, kind]
        operator.inputs = operands
    if dequantisers:
        code = schema.OperatorCodeT()
        code.builtinCode = schema.BuiltinOperator.DEQUANTIZE
        code.deprecatedBuiltinCode = code.builtinCode
        code.version = 5  # The first that takes a scale for each channel.
        model.operatorCodes.append(code)
    for dequantiser in dequantisers:
        dequantiser.opcodeIndex = len(model.operatorCodes) - 1
    graph.operators = [*dequantisers, *graph.operators]
    _drop_unused(model)


def _last_nodes(file: tflite_file.TfliteFile) -> list[str]:
    """Names of the tensors from the last weighted layers to the outputs."""
    (graph,) = file.subgraphs
    made = {out: operator for operator in graph.operators for out in operator.outputs}
    found: dict[str, None] = {}
    waiting = [index for index in graph.outputs if index in made]
    while waiting:
        index = waiting.pop()
        found[graph.tensors[index].name] = None
        if made[index].name not in _WEIGHTED:
            waiting += [i for i in made[index].inputs if i in made]
    return list(found)


def _constant(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray | None:
    """The float32 value of a tensor that has one."""
    data = model.buffers[tensor.buffer].data
    if tensor.type != schema.TensorType.FLOAT32 or data is None or not len(data):
        return None
    return np.asarray(data, np.uint8).view("<f4").reshape(tensor.shape)


def _dequantiser(
    model: schema.ModelT, index: int, value: np.ndarray, kind: int
) -> schema.OperatorT:
    """Adds the stored tensor and the one that is made of it; returns the operator."""
    (graph,) = model.subgraphs
    old = graph.tensors[index]
    stored, made = schema.TensorT(), schema.TensorT()
    vars(made).update(vars(old))
    vars(stored).update(vars(old))
    stored.name, stored.type = bytes(old.name) + b"/stored", kind
    if kind == _INT8:
        value, stored.quantization = _by_channel(value)
    else:
        value = np.clip(value, -_LARGEST_FLOAT16, _LARGEST_FLOAT16)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(value.astype(_DTYPES[kind]).tobytes(), np.uint8)
    made.buffer, stored.buffer = 0, len(model.buffers)
    model.buffers.append(buffer)
    graph.tensors += [stored, made]
    operator = schema.OperatorT()
    operator.inputs = [len(graph.tensors) - 2]
    operator.outputs = [len(graph.tensors) - 1]
    return operator


def _by_channel(
    kernel: np.ndarray,
) -> tuple[np.ndarray, schema.QuantizationParametersT]:
    """The whole numbers in -127..127 that a kernel is rounded to, and their scales."""
    scales = np.abs(kernel).reshape(len(kernel), -1).max(axis=1) / 127
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    parameters = schema.QuantizationParametersT()
    parameters.scale = scales
    parameters.zeroPoint = np.zeros(len(scales), np.int64)
    parameters.quantizedDimension = 0
    shape = (-1, *(1,) * (kernel.ndim - 1))
    return np.clip(np.round(kernel / scales.reshape(shape)), -127, 127), parameters


def _drop_unused(model: schema.ModelT) -> None:
    """Leaves out the tensors that nothing reads or makes, and what they held."""
    (graph,) = model.subgraphs
    used = {int(i) for i in (*graph.inputs, *graph.outputs)}
    for operator in graph.operators:
        used.update(int(i) for i in (*operator.inputs, *operator.outputs))
    used.discard(-1)
    place = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}

    def renumbered(indices: Sequence[int]) -> list[int]:
        return [place[int(index)] for index in indices]

    graph.tensors = [graph.tensors[index] for index in sorted(used)]
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for operator in graph.operators:
        operator.inputs = renumbered(operator.inputs)
        operator.outputs = renumbered(operator.outputs)
    for definition in model.signatureDefs or ():
        for entry in (*definition.inputs, *definition.outputs):
            entry.tensorIndex = place[entry.tensorIndex]
    held = {t.buffer for t in graph.tensors} | {m.buffer for m in model.metadata or ()}
    for index, buffer in enumerate(model.buffers):
        if index not in held:
            buffer.data = None
