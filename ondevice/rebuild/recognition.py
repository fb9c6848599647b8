"""Which detector is it? The graph tells, never a name.

Every node of a known network and every operator of the file gets a key: a digest of
what it does, its output shape and the keys of its inputs. A file is a detector's when
the keys of its outputs are the detector's; the pairs of layer and operator follow from
the keys. Names, the order of operators and the indices of tensors play no part.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Mapping

import tflite

from checkpoints import tflite_file
from ondevice.rebuild import specs, topology

# Operators that only bring a stored constant into float32.
DECODERS = ("DEQUANTIZE",)

_COMMUTATIVE = ("add",)


class UnknownDetectorError(ValueError):
    """A file whose graph is no known detector's."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file and the detector that it holds.

    Attributes:
      spec: The detector.
      layers: Its layers, one class.
      operators: Layer name -> the file's operator; `input` layers have none.
      outputs: Output layer name -> position among the file's outputs.
    """

    spec: specs.DetectorSpec
    layers: tuple[topology.Layer, ...]
    operators: Mapping[str, tflite_file.Operator]
    outputs: Mapping[str, int]


def recognise(file: tflite_file.TfliteFile) -> Recognised:
    """Finds the detector whose graph the file has.

    Args:
      file: A parsed .tflite.

    Returns:
      The detector and its pairs of layer and operator.

    Raises:
      UnknownDetectorError: If the graph is none of the known ones; the error says what
        is known, what was received and how much of the nearest one agrees.
    """
    if not file.subgraphs:
        raise UnknownDetectorError("A detector must have a graph. Received: none.")
    graph = file.subgraphs[0]
    keys = _file_keys(file)
    operator_of = {
        keys[op.outputs[0]]: op
        for op in graph.operators
        if op.outputs and op.outputs[0] in keys
    }
    received = collections.Counter(keys[i] for i in graph.outputs)
    best = (0.0, "", "")
    for spec in specs.PRESETS.values():
        layers = topology.draw(spec)
        expected = _layer_keys(layers)
        outputs = [x.name for x in _outputs(layers)]
        if received == collections.Counter(expected[name] for name in outputs):
            return Recognised(
                spec=spec,
                layers=layers,
                operators={
                    x.name: operator_of[expected[x.name]]
                    for x in layers
                    if x.kind != "input"
                },
                outputs={
                    name: [keys[i] for i in graph.outputs].index(expected[name])
                    for name in outputs
                },
            )
        computed = [x for x in layers if x.kind != "input"]
        missing = [x for x in computed if expected[x.name] not in operator_of]
        share = 1 - len(missing) / len(computed)
        # Every later key depends on the first that differs: that one is worth a word.
        best = max(best, (share, spec.name, missing[0].name if missing else "outputs"))
    shapes = [list(graph.tensors[i].shape) for i in (*graph.inputs, *graph.outputs)]
    census = collections.Counter(op.name for op in graph.operators)
    nearest = (
        f"{best[0]:.0%} of {best[1]}'s layers agree, the first other one is {best[2]}"
        if best[0]
        else "no layer agrees with any of them"
    )
    raise UnknownDetectorError(
        f"The graph must be one of the known detectors: {', '.join(specs.PRESETS)}. "
        f"Received: inputs and outputs of shapes {shapes}, operators "
        f"{dict(sorted(census.items()))}; {nearest}."
    )


def _outputs(layers: tuple[topology.Layer, ...]) -> list[topology.Layer]:
    read = {name for layer in layers for name in layer.inputs}
    return [layer for layer in layers if layer.name not in read]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _key(kind: str, window: object, shape: tuple[int, ...], inputs: list[str]) -> str:
    """The key of one node; `shape` is without the batch."""
    if kind in _COMMUTATIVE:
        inputs = sorted(inputs)
    return _digest(kind, window, tuple(shape), inputs)


def _layer_keys(layers: tuple[topology.Layer, ...]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for layer in layers:
        window = (layer.kernel, layer.stride)
        inputs = [keys[name] for name in layer.inputs]
        keys[layer.name] = _key(layer.kind, window, layer.shape, inputs)
    return keys


def _file_keys(file: tflite_file.TfliteFile) -> dict[int, str]:
    """The key of every tensor that subgraph 0 computes or takes in."""
    graph = file.subgraphs[0]
    keys: dict[int, str] = {}
    for index in graph.inputs:
        keys[index] = _key("input", (1, 1), graph.tensors[index].shape[1:], [])
    for operator in graph.operators:
        kind, window = _kind(file, operator)
        # Constants carry weights, which tell no network from another.
        inputs = [keys[i] for i in operator.inputs if i in keys]
        if operator.name in DECODERS and not inputs:
            continue
        for place, index in enumerate(operator.outputs):
            shape = graph.tensors[index].shape[1:]
            keys[index] = _key(kind, window if not place else place, shape, inputs)
    for index in graph.outputs:
        keys.setdefault(index, _digest("not computed", index))
    return keys


def _kind(
    file: tflite_file.TfliteFile, operator: tflite_file.Operator
) -> tuple[str, object]:
    """A layer's kind and window, or the operator as it is where no layer is like it."""
    graph, options = file.subgraphs[0], operator.options
    plain = (operator.name, tuple(sorted((k, repr(v)) for k, v in options.items())))
    none = tflite.ActivationFunctionType.NONE
    if options.get("fused_activation_function", none) != none:
        return plain
    if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        height, width = graph.tensors[operator.inputs[1]].shape[1:3]
        step = (options["stride_h"], options["stride_w"])
        dilation = (options["dilation_h_factor"], options["dilation_w_factor"])
        # For a 1x1 window SAME and VALID are one.
        same = options["padding"] == tflite.Padding.SAME or (height, width) == (1, 1)
        if height == width and step[0] == step[1] and dilation == (1, 1) and same:
            kind = "conv" if operator.name == "CONV_2D" else "depthwise"
            return kind, (height, step[0])
    elif operator.name == "MAX_POOL_2D":
        window = (options["filter_height"], options["filter_width"])
        step = (options["stride_h"], options["stride_w"])
        if window[0] == window[1] and step[0] == step[1]:
            return "max_pool", (window[0], step[0])
    elif operator.name == "PAD":
        paddings = file.constant(0, operator.inputs[1])
        if paddings is not None and paddings.shape == (4, 2):
            if not paddings[:3].any() and not paddings[3, 0]:
                return "channel_pad", (1, 1)
    elif operator.name == "RESIZE_BILINEAR":
        if options["half_pixel_centers"] and not options["align_corners"]:
            return "upsample", (1, 1)
    elif operator.name == "CONCATENATION":
        if options["axis"] in (1, -2):
            return "concat", (1, 1)
    elif operator.name in ("PRELU", "ADD", "RESHAPE"):
        return operator.name.lower(), (1, 1)
    return plain
