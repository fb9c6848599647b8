"""Weights: from the vendor's constants into the Keras model's variables.

The rows point at nodes, not at names, which differ between converters and mislead in
palm full and lite: there a bias is called `depthwise_conv2d_4/depthwise`. Float16 to
float32 is exact; int8 weights are what their scales make of them.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from checkpoints import constants, tflite_file
from ondevice.rebuild import layout, recognition, topology

# Kind of layer -> for each of its node's weights (attribute, axes in the file, axes in
# Keras). An attribute of None is a bias that not every such layer has: without it the
# constant has no variable, and must be absent or zero.
ROLES: dict[str, tuple[tuple[str | None, str, str], ...]] = {
    "conv": (("kernel", "OHWI", "HWIO"), ("bias", "O", "O")),
    "depthwise": (("kernel", "1HWC", "HWC1"), (None, "C", "C")),
    "transpose_conv": (("kernel", "OHWI", "HWOI"), ("bias", "O", "O")),
    "prelu": (("alpha", "HWC", "HWC"),),
}


class PortingError(ValueError):
    """Constants and variables that do not cover each other."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One weight.

    Attributes:
      variable: `<layer>/<attribute>`, or None for a constant that must be zero.
      tensor: Index of the constant in subgraph 0.
      permutation: Axes that bring the constant into Keras' layout.
    """

    variable: str | None
    tensor: int
    permutation: tuple[int, ...]


def weight_map(
    file: tflite_file.TfliteFile, found: recognition.Recognised
) -> tuple[Row, ...]:
    """The table of weights of a recognised file.

    Args:
      file: The vendor's file.
      found: What `recognition.recognise` found in it.

    Returns:
      A row for every weight of every node, in the order of the layers.

    Raises:
      PortingError: If a weight is no constant.
    """
    rows = []
    for layer in found.layers:
        if layer.kind not in ROLES:
            continue
        node = found.nodes[layer.name]
        for (attribute, source, target), index in zip(
            ROLES[layer.kind], node.weights, strict=True
        ):
            attribute = attribute or ("bias" if layer.bias else None)
            if index < 0 and attribute is None:
                continue  # an absent bias is a zero bias
            if index < 0 or not _is_constant(file, index):
                raise PortingError(
                    f"The {attribute or 'bias'} of {layer.name} (operator "
                    f"{node.operator}) must be a constant. Received: tensor {index}."
                )
            rows.append(
                Row(
                    f"{layer.name}/{attribute}" if attribute else None,
                    index,
                    layout.permutation(source, target),
                )
            )
    return tuple(rows)


def port(
    file: tflite_file.TfliteFile, found: recognition.Recognised
) -> dict[str, np.ndarray]:
    """Reads every weight, complete both ways.

    Args:
      file: The vendor's file: float32, float16, or integers with scales.
      found: What `recognition.recognise` found in it.

    Returns:
      `<layer>/<attribute>` -> float32 array in Keras' layout: every variable of the
      one-class network once.

    Raises:
      PortingError: If a variable is not set, a constant that stands for floats is not
        read, a shape is wrong, or a bias that has no variable is not zero; one error
        names them all.
      TfliteError: If a constant cannot be decoded.
    """
    expected = topology.variables(found.layers)
    weights: dict[str, np.ndarray] = {}
    read: set[int] = set()
    faults: list[str] = []
    for row in weight_map(file, found):
        stored = constants.decoded(file, 0, row.tensor)
        read.add(row.tensor)
        if row.variable is None:
            if stored.any():
                faults.append(f"tensor {row.tensor}, a depthwise bias, is not zero")
            continue
        value = stored.transpose(row.permutation)
        if row.variable in weights:
            faults.append(f"{row.variable} is set twice")
        if value.shape != expected[row.variable]:
            faults.append(
                f"{row.variable} must have shape {expected[row.variable]}, "
                f"tensor {row.tensor} gives {value.shape}"
            )
        weights[row.variable] = np.ascontiguousarray(value)
    unset = sorted(expected.keys() - weights.keys())
    unread = sorted(_weights(file) - read)
    if unset:
        faults.append(f"unset variables: {unset}")
    if unread:
        faults.append(f"unread float constants: tensors {unread}")
    if faults:
        raise PortingError(
            "The table of weights must set every variable and read every float "
            f"constant once. Received: {'; '.join(faults)}."
        )
    return weights


def with_classes(
    weights: dict[str, np.ndarray], layers: tuple[topology.Layer, ...]
) -> dict[str, np.ndarray]:
    """Adds the class branch's weights.

    Kernels are drawn as in Glorot and Bengio 2010,
    https://proceedings.mlr.press/v9/glorot10a.html, equation 16, always the same; as
    Keras counts a depthwise kernel's fans, its blocks start close to the identity. The
    last kernels are zero, and so are the logits, biases and slopes. A fresh file
    detects what the vendor's does, since the score of the best class is the palm's own
    (`signatures.scores`).
    """
    random = np.random.default_rng(0)
    shapes = topology.variables(layers)
    last = {f"{x.inputs[0]}/kernel" for x in layers if x.kind == "reshape"}
    found = {}
    for name, shape in shapes.items():
        if name in weights:
            found[name] = weights[name]
        elif name.endswith("/kernel") and name not in last:
            window, (fan_in, fan_out) = math.prod(shape[:2]), shape[2:]
            limit = math.sqrt(6 / (window * (fan_in + fan_out)))
            found[name] = random.uniform(-limit, limit, shape).astype(np.float32)
        else:
            found[name] = np.zeros(shape, np.float32)
    return found


def _weights(file: tflite_file.TfliteFile) -> set[int]:
    """Indices of the constants of subgraph 0 that stand for floats and are read."""
    graph = file.subgraphs[0]
    return {
        index
        for operator in graph.operators
        for index in operator.inputs
        if index >= 0
        and constants.stands_for_floats(graph.tensors[index])
        and _is_constant(file, index)
    }


def _is_constant(file: tflite_file.TfliteFile, index: int) -> bool:
    buffer = file.subgraphs[0].tensors[index].buffer
    return bool(file.buffer_bytes(buffer).nbytes)
