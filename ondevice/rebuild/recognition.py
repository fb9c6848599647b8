"""Which detector is it? The graph tells, never a name.

Every layer of a known network and every node of the file gets a key: a digest of what
it does, its output shape and the keys of its inputs. A file is a detector's when the
keys of its outputs are the detector's; the pairs of layer and node follow from the
keys. Names, the order of operators and the indices of tensors play no part.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping

from checkpoints import strict_json, tflite_file
from ondevice.rebuild import nodes, specs, topology

_COMMUTATIVE = ("add",)

# A node with more is no network's; a file may have one of a hundred thousand.
_MOST_INPUTS = 1000
# Of what a message lists.
_LISTED = 20
_QUOTES = "'\""


class UnknownDetectorError(ValueError):
    """A file whose graph is no known detector's."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A file and the detector that it holds.

    Attributes:
      spec: The detector.
      layers: Its layers, one class.
      nodes: Layer name -> the file's node; `input` layers have none.
      outputs: Output layer name -> position among the file's outputs.
    """

    spec: specs.DetectorSpec
    layers: tuple[topology.Layer, ...]
    nodes: Mapping[str, nodes.Node]
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
    graph = nodes.read(file)
    keys = _graph_keys(graph)
    node_of = {keys[node.output]: node for node in graph.nodes}
    received = [keys[i] for i in graph.outputs]
    best = (0.0, "", "")
    for spec in specs.PRESETS.values():
        layers = topology.draw(spec)
        expected = _layer_keys(layers)
        outputs = [x.name for x in _outputs(layers)]
        if sorted(received) == sorted(expected[name] for name in outputs):
            return Recognised(
                spec=spec,
                layers=layers,
                nodes={
                    x.name: node_of[expected[x.name]]
                    for x in layers
                    if x.kind != "input"
                },
                outputs={name: received.index(expected[name]) for name in outputs},
            )
        computed = [x for x in layers if x.kind != "input"]
        missing = [x for x in computed if expected[x.name] not in node_of]
        share = 1 - len(missing) / len(computed)
        # Every later key depends on the first that differs: that one is worth a word.
        best = max(best, (share, spec.name, missing[0].name if missing else "outputs"))
    raise UnknownDetectorError(_refusal(file, graph, best))


def _refusal(
    file: tflite_file.TfliteFile, graph: nodes.Graph, best: tuple[float, str, str]
) -> str:
    """What is known, what was received, and where the nearest detector ends."""
    tensors = file.subgraphs[0].tensors
    ends = (*file.subgraphs[0].inputs, *file.subgraphs[0].outputs)
    shapes = [list(tensors[i].shape) for i in ends[:_LISTED]]
    nearest = (
        f"{best[0]:.0%} of {best[1]}'s layers agree, the first other one is {best[2]}"
        if best[0]
        else "no layer agrees with any of them"
    )
    strange: dict[str, int] = {}  # the first of each
    for node in graph.nodes:
        if not node.known:
            strange.setdefault(node.kind, node.operator)
    first = itertools.islice(strange.items(), _LISTED)
    listed = ", ".join(
        f"{strict_json.shown(name).strip(_QUOTES)} (operator {at})"
        for name, at in first
    )
    counts = itertools.islice(file.census().items(), _LISTED)
    census = ", ".join(f"{strict_json.shown(name)}: {n}" for name, n in counts)
    return (
        f"The graph must be one of the known detectors: {', '.join(specs.PRESETS)}. "
        f"Received: inputs and outputs of shapes {shapes}, operators "
        f"{{{census}}}; {nearest}"
        + (f"; no layer is like {listed}." if listed else ".")
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
        inputs = [keys[name] for name in layer.inputs]
        keys[layer.name] = _key(layer.kind, layer.window, layer.shape, inputs)
    return keys


def _graph_keys(graph: nodes.Graph) -> dict[int, str]:
    """The key of every tensor that the file takes in or computes."""
    keys = {
        index: _key("input", (1, 1), shape, [])
        for index, shape in graph.inputs.items()
    }
    for node in graph.nodes:
        # Constants carry weights, which tell no network from another. What a node reads
        # and nothing made before it is no network's.
        if len(node.inputs) > _MOST_INPUTS:
            keys[node.output] = _digest("too many inputs", node.output)
            continue
        inputs = [keys.get(i) or _digest("not computed", i) for i in node.inputs]
        keys[node.output] = _key(node.kind, node.window, node.shape, inputs)
    for index in graph.outputs:
        keys.setdefault(index, _digest("not computed", index))
    return keys
