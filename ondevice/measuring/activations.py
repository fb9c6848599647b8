"""The activations that the gradients of a network need, counted from its layers."""

from __future__ import annotations

import math

from ondevice.rebuild import specs, topology

_FLOAT = 4  # Bytes.

# Layers whose gradients need what went in: of weights, of the slope taken, of the cell
# that was the largest.
_KEEPING = ("conv", "depthwise", "transpose_conv", "prelu", "max_pool")


def of_sample(spec: str, trainable: str, classes: int) -> int | None:
    """Bytes for one sample, as float32, each tensor once.

    Args:
      spec: Name of the detector.
      trainable: What trains: nothing needs to be kept below it.
      classes: How many.

    Returns:
      None where the detector is not known.
    """
    if spec not in specs.PRESETS:
        return None
    layers = topology.draw(specs.PRESETS[spec], classes)
    trained = {
        name.partition("/")[0] for name in topology.trained_variables(layers, trainable)
    }
    shapes = {layer.name: layer.shape for layer in layers}
    moved: set[str] = set()  # Layers whose output depends on what trains.
    kept: set[str] = set()
    for layer in layers:
        if layer.name in trained or moved.intersection(layer.inputs):
            moved.add(layer.name)
            if layer.kind in _KEEPING:
                kept.update(layer.inputs)
    return sum(_FLOAT * math.prod(shapes[name]) for name in kept)
