"""Every float constant of a .tflite, by the layer that reads it.

What a file calls a constant is no guide: palm full has one zero bias for all depthwise
layers of a width, called `conv2d_30/Conv2D` like another layer's kernel, and converters
leave trails of operators behind. So a name is `<layer>/<attribute>`, and says who reads
it and as what. A constant that two layers read has two names.

* The layers of a known detector have the names that the rebuild gives them.
* Elsewhere layers are numbered for each kind in the order of execution, as Keras does
  on creation: `conv2d`, `conv2d_1`, `depthwise_conv2d`, `dense`, `p_re_lu`, ...
* A constant that no rule knows keeps the name it has in the file, or `tensor_<index>`
  where it has none. So does every constant past subgraph 0, behind `subgraph<k>/`.
* Where a name is taken already, `#<index>` of the tensor is put behind it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from checkpoints import constants, tflite_file
from ondevice.rebuild import layout, nodes, porting, recognition, topology

TFLITE, KERAS, PYTORCH = "tflite", "keras", "pytorch"
LAYOUTS = (TFLITE, KERAS, PYTORCH)

# Axes in a .tflite -> in Keras and in PyTorch. A kernel's output and input channels are
# O and I whatever the layer; they lie otherwise in a transpose convolution.
_TARGETS = {
    ("conv", "kernel"): ("HWIO", "OIHW"),
    ("depthwise", "kernel"): ("HWC1", "C1HW"),
    ("transpose_conv", "kernel"): ("HWOI", "IOHW"),
    ("dense", "kernel"): ("IO", "OI"),
    ("prelu", "alpha"): ("HWC", "CHW"),
}

# Operators that are like no layer of ours, or only where their windows are otherwise:
# kind, then place among the inputs, attribute and axes of each weight.
_OPERATORS: dict[str, tuple[str, tuple[tuple[int, str, str], ...]]] = {
    "CONV_2D": ("conv", ((1, "kernel", "OHWI"), (2, "bias", "O"))),
    "DEPTHWISE_CONV_2D": ("depthwise", ((1, "kernel", "1HWC"), (2, "bias", "C"))),
    "TRANSPOSE_CONV": ("transpose_conv", ((1, "kernel", "OHWI"), (3, "bias", "O"))),
    "FULLY_CONNECTED": ("dense", ((1, "kernel", "OI"), (2, "bias", "O"))),
}

# Characters of a name; trails of operators can be longer than that.
_LONGEST = 1000
# What safetensors has under this name is no tensor.
_RESERVED = "__metadata__"


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """One constant, as one layer reads it.

    Attributes:
      name: Unique in the file.
      kind: Of the layer: of `topology.Layer`, or `dense`; '' where no rule knows it.
      attribute: kernel, bias, alpha; '' where no rule knows it.
      axes: Letters of its axes as it lies in the file; '' where no rule knows it.
      subgraph: Index of the subgraph.
      tensor: Index of the constant in it.
      read: Index of the tensor that the layer reads: the constant, or what is decoded
        from it.
      multiplier: Outputs of a depthwise layer for each input channel; otherwise 1.
    """

    name: str
    kind: str
    attribute: str
    axes: str
    subgraph: int
    tensor: int
    read: int
    multiplier: int = 1


def name_all(file: tflite_file.TfliteFile) -> tuple[str | None, tuple[Constant, ...]]:
    """Names every constant that stands for floats.

    Args:
      file: A parsed .tflite.

    Returns:
      The known detector that the file is, or None; and its constants, layer by layer,
      then those that no layer reads in the order of the file.

    Raises:
      TfliteError: If a constant that tells what an operator does is malformed.
    """
    graph = file.subgraphs[0]
    try:
        found = recognition.recognise(file)
    except recognition.UnknownDetectorError:
        detector, layers = None, _numbered(nodes.read(file), file)
    else:
        detector, layers = found.spec.name, _known(found)
    operands = _operands(file)
    taken: set[str] = {_RESERVED}
    named, seen = [], set()
    for layer, kind, operator, weights in layers:
        for index, attribute, axes in weights:
            if index < 0 or not _is_float_constant(file, 0, index):
                continue
            tensor = graph.tensors[index]
            seen.add((0, index))
            named.append(
                Constant(
                    name=_unique(f"{layer}/{attribute}", index, taken),
                    kind=kind,
                    attribute=attribute,
                    axes=axes if len(axes) == len(tensor.shape) else "",
                    subgraph=0,
                    tensor=index,
                    read=operands.get((operator, index), index),
                    multiplier=_multiplier(graph, kind, operator, tensor),
                )
            )
    for graph in file.subgraphs:
        prefix = f"subgraph{graph.index}/" if graph.index else ""
        for tensor in graph.tensors:
            place = (graph.index, tensor.index)
            if place in seen or not _is_float_constant(file, *place):
                continue
            own = prefix + (_printable(tensor.name) or f"tensor_{tensor.index}")
            name = _unique(own, tensor.index, taken)
            named.append(Constant(name, "", "", "", *place, read=tensor.index))
    return detector, tuple(named)


def arranged(value: np.ndarray, constant: Constant, target: str) -> np.ndarray:
    """Brings a constant into a layout.

    Args:
      value: As it lies in the file.
      constant: What it is.
      target: One of `LAYOUTS`. `tflite` leaves it as it is, and so do the others where
        no rule knows it.

    Returns:
      A contiguous array. Of a PReLU, PyTorch has one slope a channel where the file has
      one for all places.
    """
    key = constant.kind, constant.attribute
    if target == TFLITE or key not in _TARGETS or not constant.axes:
        return np.asarray(value, order="C")
    axes = _TARGETS[key][target == PYTORCH]
    value = value.transpose(layout.permutation(constant.axes, axes))
    if constant.kind == "prelu" and value.shape[1:] == (1, 1):
        value = value.reshape(-1)  # PyTorch's alone begins with the channels.
    if constant.kind == "depthwise" and target == KERAS and constant.multiplier > 1:
        # Channel by channel, its multiples side by side.
        value = value.reshape(*value.shape[:2], -1, constant.multiplier)
    return np.asarray(value, order="C")


_Layers = Iterator[tuple[str, str, int, list[tuple[int, str, str]]]]


def _known(found: recognition.Recognised) -> _Layers:
    """(name, kind, operator, weights) of each layer of a detector."""
    for layer in found.layers:
        if layer.kind in porting.ROLES:
            node = found.nodes[layer.name]
            yield layer.name, layer.kind, node.operator, _weights(node)


def _numbered(graph: nodes.Graph, file: tflite_file.TfliteFile) -> _Layers:
    """The same of a graph that is no detector."""
    operators = file.subgraphs[0].operators
    stored = nodes.decoded_from(file)
    count: collections.Counter[str] = collections.Counter()
    done: set[int] = set()
    # Some have their bias in an operator behind, which is then the node that counts.
    whole = {n.weights[0] for n in graph.nodes if n.kind == "transpose_conv"}
    for node in graph.nodes:
        operator = operators[node.operator]
        if node.kind in porting.ROLES:
            kind, weights = node.kind, _weights(node)
        elif operator.name in _OPERATORS and node.operator not in done:
            kind, places = _OPERATORS[operator.name]
            inputs = [stored.get(i, i) for i in operator.inputs]
            if kind == "transpose_conv" and whole.intersection(inputs):
                continue
            weights = [
                (inputs[place], attribute, axes)
                for place, attribute, axes in places
                if place < len(inputs)
            ]
        else:
            continue
        done.add(node.operator)
        stem = topology.KERAS_NAMES[kind]
        number = count[stem]
        count[stem] += 1
        name = f"{stem}_{number}" if number else stem
        yield name, kind, node.operator, weights


def _weights(node: nodes.Node) -> list[tuple[int, str, str]]:
    """(tensor, attribute, axes) of a node whose kind has roles."""
    return [
        (index, attribute or "bias", axes)
        for index, (attribute, axes, _) in zip(
            node.weights, porting.ROLES[node.kind], strict=True
        )
    ]


def _operands(file: tflite_file.TfliteFile) -> dict[tuple[int, int], int]:
    """(operator, constant) -> what the operator reads, decoded or not."""
    stored = nodes.decoded_from(file)
    return {
        (operator.index, stored.get(i, i)): i
        for operator in file.subgraphs[0].operators
        for i in operator.inputs
    }


def _multiplier(
    graph: tflite_file.Subgraph, kind: str, operator: int, tensor: tflite_file.Tensor
) -> int:
    if kind != "depthwise" or len(tensor.shape) != 4:
        return 1
    shape = graph.tensors[graph.operators[operator].inputs[0]].shape
    channels = shape[3] if len(shape) == 4 else 0
    whole = channels and tensor.shape[3] % channels == 0
    return tensor.shape[3] // channels if whole else 1


def _is_float_constant(
    file: tflite_file.TfliteFile, subgraph: int, index: int
) -> bool:
    tensor = file.subgraphs[subgraph].tensors[index]
    holds = file.buffers[tensor.buffer].size > 0 and math.prod(tensor.shape) > 0
    return holds and constants.stands_for_floats(tensor)


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:_LONGEST])


def _unique(name: str, index: int, taken: set[str]) -> str:
    while name in taken:
        name = f"{name}#{index}"
    taken.add(name)
    return name
