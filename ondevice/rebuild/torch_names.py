"""Layers -> state dict: which tensor of PyTorch's is which weight of ours.

The table is generated from the same layers as the network. Networks that others have
published in PyTorch have their names there, so that a state dict of theirs can be read
and ours goes into their modules; the others are called `<layer>.weight` and
`<layer>.bias`.

Source: the names are those of blazeface.pth and blazefaceback.pth in
hollance/BlazeFace-PyTorch, and of the modules of ML/blazepalm.py in
vidursatija/BlazePalm. Both give depthwise convolutions a bias, which is zero in the
vendor's files; ours have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from ondevice.rebuild import layout, topology

# Kind of layer -> (our attribute, PyTorch's, axes in Keras, axes in PyTorch). None is a
# bias that no variable holds, in modules that have one, unless the layer has it, too.
ROLES: dict[str, tuple[tuple[str | None, str, str, str], ...]] = {
    "conv": (("kernel", "weight", "HWIO", "OIHW"), ("bias", "bias", "O", "O")),
    "depthwise": (("kernel", "weight", "HWC1", "C1HW"), (None, "bias", "C", "C")),
    "transpose_conv": (
        ("kernel", "weight", "HWOI", "IOHW"),
        ("bias", "bias", "O", "O"),
    ),
    "prelu": (("alpha", "weight", "HWC", "C"),),
}


@dataclasses.dataclass(frozen=True)
class Published:
    """The modules of a network that somebody has published.

    Attributes:
      stem: Path of the first convolution.
      blocks: Path of each residual block, from the input on; in it `convs.0` is the
        depthwise convolution and `convs.1` the 1x1 one.
      heads: (class head, box head) of each grid, finest first.
      ups: Path of each decoder's convolution.
    """

    stem: str
    blocks: tuple[str, ...]
    heads: tuple[tuple[str, str], ...]
    ups: tuple[str, ...] = ()


def _numbered(prefix: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{prefix}.{i}" for i in range(first, last + 1))


_FACE_HEADS = (("classifier_8", "regressor_8"), ("classifier_16", "regressor_16"))
_FACE = Published(
    "backbone1.0",
    (*_numbered("backbone1", 2, 12), *_numbered("backbone2", 0, 4)),
    _FACE_HEADS,
)

# Spec's name -> the names published. The heads of the back model are called by the
# strides of the front's, those of the palm by the side of their grid.
PUBLISHED: Mapping[str, Published] = {
    "face_short_range": _FACE,
    "face_back": Published(
        "backbone.0", (*_numbered("backbone", 2, 32), "final"), _FACE_HEADS
    ),
    "palm_256": Published(
        "backbone1.1",
        (
            *_numbered("backbone1.3.f", 0, 6),
            "backbone1.4",
            *_numbered("backbone1.5.f", 0, 6),
            "backbone1.6",
            *_numbered("backbone1.7.f", 0, 6),
            "backbone2.0",
            *_numbered("backbone2.1.f", 0, 6),
            "backbone3.0",
            *_numbered("backbone3.1.f", 0, 6),
            "scaled16add",
            "scaled32add",
        ),
        (("class_32", "reg_32"), ("class_16", "reg_16"), ("class_8", "reg_8")),
        ("upscale8to16.0", "upscale16to32.0"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of a state dict.

    Attributes:
      name: In the state dict.
      layer: That it belongs to.
      variable: `<layer>/<attribute>`, or None for a bias that no variable holds.
      axes: Of the variable, in Keras' layout.
      torch_axes: Of the tensor.
      shape: Of the tensor.
    """

    name: str
    layer: str
    variable: str | None
    axes: str
    torch_axes: str
    shape: tuple[int, ...]


def paths(name: str, layers: tuple[topology.Layer, ...]) -> dict[str, str]:
    """Layer with weights -> path of its module.

    Args:
      name: Of the spec.
      layers: The network.
    """
    weighted = [layer for layer in layers if layer.kind in ROLES]
    published = PUBLISHED.get(name)
    if published is None:
        return {layer.name: layer.name for layer in weighted}
    blocks = iter(published.blocks)
    inside: dict[str, str] = {}  # group of a block -> its path
    ups = iter(published.ups)
    heads = {
        topology.SCORE_HEAD: iter(pair[0] for pair in published.heads),
        topology.BOX_HEAD: iter(pair[1] for pair in published.heads),
    }
    found = {}
    for layer in weighted:
        if layer.group == topology.STEM:
            found[layer.name] = published.stem
        elif layer.group == topology.UP:
            found[layer.name] = next(ups)
        elif layer.group in heads:
            found[layer.name] = next(heads[layer.group])
        else:
            if layer.group not in inside:
                inside[layer.group] = next(blocks)
            place = 0 if layer.kind == "depthwise" else 1
            found[layer.name] = f"{inside[layer.group]}.convs.{place}"
    return found


def biased(name: str) -> bool:
    """Whether the spec's depthwise modules have a bias, as those published have."""
    return name in PUBLISHED


def table(name: str, layers: tuple[topology.Layer, ...]) -> tuple[Row, ...]:
    """The state dict of a network.

    Args:
      name: Of the spec.
      layers: The network.

    Returns:
      A row for each tensor, in the order of the layers; every variable once.
    """
    path_of = paths(name, layers)
    shapes = topology.variables(layers)
    rows = []
    for layer in layers:
        for attribute, torch_attribute, axes, torch_axes in ROLES.get(layer.kind, ()):
            if attribute is None and layer.bias:
                attribute = "bias"
            variable = f"{layer.name}/{attribute}" if attribute else None
            if variable is None and not biased(name):
                continue
            shape = layer.shape[2:]
            if variable is not None:
                shape = layout.moved_shape(shapes[variable], axes, torch_axes)
            rows.append(
                Row(
                    f"{path_of[layer.name]}.{torch_attribute}",
                    layer.name,
                    variable,
                    axes,
                    torch_axes,
                    shape,
                )
            )
    held = [row.variable for row in rows if row.variable is not None]
    assert sorted(held) == sorted(shapes), "a kind of layer is not in ROLES"
    return tuple(rows)
