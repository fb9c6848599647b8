"""The vendor's operators as nodes: the kinds of which the networks are drawn.

Converters write one network in several ways. An activation is an operator of its own
or fused into another; a transpose convolution has its bias inside, in an ADD behind, or
is MediaPipe's custom operator; a weight is a constant or stands behind a DEQUANTIZE.
Here each way becomes the same nodes, whose kinds are those of `topology.Layer`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Mapping

import tflite

from checkpoints import tflite_file

# Operators that change how numbers are stored and not what they are.
DECODERS = ("DEQUANTIZE", "QUANTIZE", "DENSIFY")

# Operators of convolutions -> kind, and where kernel and bias lie among the inputs.
_CONVOLUTIONS: dict[str, tuple[str, tuple[int, ...]]] = {
    "CONV_2D": ("conv", (1, 2)),
    "DEPTHWISE_CONV_2D": ("depthwise", (1, 2)),
}

# MediaPipe's custom operator and its options: TfLiteTransposeConvParams, three int32 in
# front. Source: mediapipe/util/tflite/operations/transpose_conv_bias.cc at v0.7.0 and
# tensorflow/lite/core/c/builtin_op_data.h.
_TRANSPOSE_BIAS = "Convolution2DTransposeBias"
_TRANSPOSE_OPTIONS = struct.Struct("<3i")  # padding, stride_width, stride_height
_SAME, _VALID = 1, 2  # of TfLitePadding

# A transpose convolution whose bias, if it has one, is added behind.
_BARE = "transpose_conv without bias"

# The same for TRANSPOSE_CONV, by its number of inputs, the output's shape first.
_TRANSPOSED: dict[int, tuple[str, tuple[int, ...]]] = {
    3: (_BARE, (1,)),
    4: ("transpose_conv", (1, 3)),
}

_NONE, _RELU = (
    tflite.ActivationFunctionType.NONE,
    tflite.ActivationFunctionType.RELU,
)


@dataclasses.dataclass(frozen=True)
class Node:
    """What one operator does, or a part of it.

    Attributes:
      kind: As a layer's; where no layer is like it, the operator's name.
      window: That of a layer of its kind, otherwise the operator's options.
      inputs: Tensors that it reads and that are no constants.
      output: The tensor that it computes.
      shape: Of the output, without the batch.
      weights: Constants in the order of `porting.ROLES`; -1 where one is absent.
      operator: Index of the operator in subgraph 0.
      known: Whether a layer is of its kind.
    """

    kind: str
    window: object
    inputs: tuple[int, ...]
    output: int
    shape: tuple[int, ...]
    weights: tuple[int, ...]
    operator: int
    known: bool


@dataclasses.dataclass(frozen=True)
class Graph:
    """Subgraph 0 as nodes.

    Attributes:
      nodes: In the order of execution.
      inputs: Shapes of the tensors that are given, without the batch, by their indices.
      outputs: Tensors that are asked for, as nodes compute them, in the file's order.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[int, tuple[int, ...]]
    outputs: tuple[int, ...]


def read(file: tflite_file.TfliteFile) -> Graph:
    """Reads the operators of subgraph 0.

    Args:
      file: A parsed .tflite.

    Returns:
      Its nodes. A tensor between an operator and the activation that is fused into it
      has an index past those of the file.
    """
    graph = file.subgraphs[0]
    stored = decoded_from(file)
    computed = set(graph.inputs)
    made: dict[int, Node] = {}  # by output
    for operator in graph.operators:
        operands = tuple(stored.get(i, i) for i in operator.inputs)
        if _decodes(operator):
            continue
        kind, window, places = _kind(file, operator, operands)
        inputs = tuple(i for i in operands if i in computed)
        for place, output in enumerate(operator.outputs):
            weights = [operands[i] if i < len(operands) else -1 for i in places]
            node = Node(
                kind=kind,
                window=window if not place else (window, place),
                inputs=inputs,
                output=output,
                shape=graph.tensors[output].shape[1:],
                weights=tuple(weights),
                operator=operator.index,
                known=kind != operator.name and not place,
            )
            node = _with_bias(node, operands, made, graph)
            node = _same(node, made)
            activation = operator.options.get("fused_activation_function", _NONE)
            if node.known and activation == _RELU:
                between = len(graph.tensors) + output
                made[between] = dataclasses.replace(node, output=between)
                node = _relu(node, between)
            made[output] = node
            computed.add(output)
    return Graph(
        nodes=tuple(made.values()),
        inputs={i: graph.tensors[i].shape[1:] for i in graph.inputs},
        outputs=tuple(stored.get(i, i) for i in graph.outputs),
    )


def rounds(file: tflite_file.TfliteFile) -> bool:
    """Whether an operator of subgraph 0 computes with integers."""
    graph = file.subgraphs[0]
    return any(
        index >= 0 and graph.tensors[index].dtype in ("INT8", "UINT8", "INT16")
        for operator in graph.operators
        if operator.name not in DECODERS
        for index in operator.inputs
    )


def _same(node: Node, made: dict[int, Node]) -> Node:
    """The node with padding of its own where a PAD before it does as much.

    With a stride of 1 SAME has as many zeros on each side, of an odd window.
    """
    before = made.get(node.inputs[0]) if node.inputs else None
    if before is None or before.kind != "spatial_pad":
        return node
    for side in (3, 5, 7):
        if node.window == (side, 1, "valid") and before.window == (side // 2, 1):
            return dataclasses.replace(node, window=(side, 1), inputs=before.inputs)
    return node


def decoded_from(file: tflite_file.TfliteFile) -> dict[int, int]:
    """Each tensor of subgraph 0 that is only decoded -> what it is decoded from."""
    stored: dict[int, int] = {}
    for operator in file.subgraphs[0].operators:
        if _decodes(operator):
            (source,), (target,) = operator.inputs, operator.outputs
            stored[target] = stored.get(source, source)
    return stored


def _decodes(operator: tflite_file.Operator) -> bool:
    one = len(operator.inputs) == len(operator.outputs) == 1
    return operator.name in DECODERS and one


def _relu(node: Node, read_from: int) -> Node:
    """The activation that is fused into a node."""
    return dataclasses.replace(
        node, kind="relu", window=(1, 1), inputs=(read_from,), weights=()
    )


def _with_bias(
    node: Node,
    operands: tuple[int, ...],
    made: dict[int, Node],
    graph: tflite_file.Subgraph,
) -> Node:
    """A transpose convolution where the node adds a constant to one without bias."""
    if node.kind != "add" or len(operands) != 2 or len(node.inputs) != 1:
        return node
    before = made.get(node.inputs[0])
    (bias,) = (i for i in operands if i != node.inputs[0])
    fits = bias >= 0 and graph.tensors[bias].shape == node.shape[-1:]
    if before is None or before.kind != _BARE or not fits:
        return node
    return dataclasses.replace(
        node,
        kind="transpose_conv",
        window=before.window,
        inputs=before.inputs,
        weights=(*before.weights, bias),
    )


def _kind(
    file: tflite_file.TfliteFile,
    operator: tflite_file.Operator,
    operands: tuple[int, ...],
) -> tuple[str, object, tuple[int, ...]]:
    """A layer's kind, its window, and where its weights lie among the operands.

    Where no layer is like the operator: its name, its options, and no weights.
    """
    graph, options = file.subgraphs[0], operator.options
    plain = operator.name, tuple(sorted((k, _short(v)) for k, v in options.items())), ()
    if options.get("fused_activation_function", _NONE) not in (_NONE, _RELU):
        return plain
    step = options.get("stride_h", 0), options.get("stride_w", 0)
    if operator.name in _CONVOLUTIONS:
        window = _window(graph, operands, step)
        dilation = [options.get(f"dilation_{side}_factor") for side in "hw"]
        # For a 1x1 window SAME and VALID are one.
        same = options.get("padding") == tflite.Padding.SAME or window[:1] == (1,)
        if window and dilation == [1, 1]:
            kind, places = _CONVOLUTIONS[operator.name]
            return kind, window if same else (*window, "valid"), places
    elif operator.name == "TRANSPOSE_CONV":
        window = _window(graph, operands, step)
        # Where windows do not overlap SAME and VALID are one, too.
        if window and window[0] == window[1] and len(operands) in _TRANSPOSED:
            kind, places = _TRANSPOSED[len(operands)]
            return kind, window, places
    elif operator.name == _TRANSPOSE_BIAS:
        stored = options["custom_options"]
        if len(stored) >= _TRANSPOSE_OPTIONS.size and len(operands) == 3:
            padding, across, down = _TRANSPOSE_OPTIONS.unpack_from(stored)
            window = _window(graph, operands, (down, across))
            if window and window[0] == window[1] and padding in (_SAME, _VALID):
                return "transpose_conv", window, (1, 2)
    elif operator.name == "MAX_POOL_2D":
        side = options.get("filter_height")
        if side == options.get("filter_width") and step[0] == step[1]:
            return "max_pool", (side, step[0]), ()
    elif operator.name == "PAD":
        paddings = file.constant(0, operands[1]) if len(operands) == 2 else None
        if paddings is not None and (paddings.shape, paddings.dtype.kind) == (
            (4, 2),
            "i",
        ):
            if not paddings[:3].any() and not paddings[3, 0]:
                return "channel_pad", (1, 1), ()
            added = int(paddings[1, 0])
            if paddings.tolist() == [[0, 0], [added] * 2, [added] * 2, [0, 0]]:
                return "spatial_pad", (added, 1), ()
    elif operator.name == "DEPTH_TO_SPACE":
        return "depth_to_space", (options.get("block_size"), 1), ()
    elif operator.name == "RESIZE_BILINEAR":
        if options.get("half_pixel_centers") and not options.get("align_corners"):
            return "upsample", (1, 1), ()
    elif operator.name == "CONCATENATION":
        if options.get("axis") in (1, -2):
            return "concat", (1, 1), ()
    elif operator.name in ("RELU", "ADD", "RESHAPE"):
        return operator.name.lower(), (1, 1), ()
    elif operator.name == "PRELU":
        return "prelu", (1, 1), (1,)
    return plain


def _short(option: object) -> str:
    """A text that is equal for equal options, however long."""
    if isinstance(option, bytes):
        return hashlib.sha256(option).hexdigest()
    return repr(option)


def _window(
    graph: tflite_file.Subgraph, operands: tuple[int, ...], step: tuple[int, int]
) -> tuple[int, ...]:
    """(side, stride) of a square window; empty where there is none."""
    kernel = operands[1] if len(operands) > 1 else -1
    shape = graph.tensors[kernel].shape if kernel >= 0 else ()
    square = len(shape) == 4 and shape[1] == shape[2] and step[0] == step[1]
    return (shape[1], step[0]) if square else ()
