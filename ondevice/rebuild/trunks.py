"""Where a network is cut: the frozen trunk, and what trains on its features."""

from __future__ import annotations

from ondevice.rebuild import topology

_HEADS = (topology.BOX_HEAD, topology.SCORE_HEAD, topology.CLASS_HEAD)


def trunk_features(
    layers: tuple[topology.Layer, ...], trained: tuple[str, ...]
) -> tuple[str, ...]:
    """What the frozen part of the network hands to the rest: where to cut it.

    The rest is every head, and every layer that a trained weight has a say in.

    Args:
      layers: The network.
      trained: Names of the weights that train.

    Returns:
      Names of layers, in the network's order; none where a trained weight has a say in
      all that the image goes through.
    """
    learning = {name.split("/")[0] for name in trained}
    above: set[str] = set()
    read: set[str] = set()
    for layer in layers:
        head = layer.group in _HEADS
        if head or layer.name in learning or above.intersection(layer.inputs):
            above.add(layer.name)
            read.update(layer.inputs)
    # Zeros around a grid are no feature: the grid is.
    for layer in layers:
        if layer.kind == "spatial_pad" and layer.name in read - above:
            above.add(layer.name)
            read.update(layer.inputs)
    features = tuple(x.name for x in layers if x.name in read - above)
    image = tuple(x.name for x in layers if x.kind == "input")
    return () if features == image else features


def split(
    layers: tuple[topology.Layer, ...], features: tuple[str, ...]
) -> tuple[tuple[topology.Layer, ...], tuple[topology.Layer, ...]]:
    """Cuts the network at the trunk's features.

    Returns:
      The layers that the features need, and the others, which read the features as
      inputs in their order.
    """
    needed = set(features)
    for layer in reversed(layers):
        if layer.name in needed:
            needed.update(layer.inputs)
    by_name = {layer.name: layer for layer in layers}
    inputs = tuple(
        topology.Layer(name, "input", (), by_name[name].shape, topology.GLUE)
        for name in features
    )
    trunk = tuple(layer for layer in layers if layer.name in needed)
    return trunk, inputs + tuple(x for x in layers if x.name not in needed)
