"""SSD anchors of the palm and face detectors, as data and as arrays.

Anchors are centres (x right, y down) normalised to the square input; decoding takes
their width and height as 1 (`fixed_anchor_size`). Each has, besides, the scale that the
SSD rule gives it: nothing decodes with it, but the shipped heads have specialised by
it, so training targets are matched on it (targets.py).

Order: layers of equal stride share one grid; the grids follow each other as the strides
do, a grid row by row, a cell's anchors together, in the order of the layers.
Source: mediapipe/calculators/tflite/ssd_anchors_calculator.cc.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

# Guards against a manifest that asks for a grid nobody can hold.
_MAX_INPUT_SIZE = 4096
_MAX_LAYERS = 64


def _is_integer(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    # A NaN fails both comparisons.
    return type(value) in (int, float) and low <= value <= high  # type: ignore


@dataclasses.dataclass(frozen=True)
class AnchorSpec:
    """Parameters of the anchors of one detector.

    Attributes:
      input_size: Side of the square input image in pixels.
      strides: Stride of each layer in pixels, not falling; equal strides share a grid.
      min_scale: Scale of the first layer, a share of the input's side.
      max_scale: Scale of the last layer, a share of the input's side.
      interpolated_scale_aspect_ratio: Aspect ratio of the second anchor of a layer,
        whose scale lies between the layer's and the next one's; 0 leaves it out.
      anchor_offset: Place of the centre in its cell, in cells; the same for x and y.
    """

    input_size: int
    strides: tuple[int, ...]
    min_scale: float
    max_scale: float = 0.75
    interpolated_scale_aspect_ratio: float = 1.0
    anchor_offset: float = 0.5

    def __post_init__(self) -> None:
        """Refuses contradictions.

        Raises:
          ValueError: If a field is of the wrong type or outside its range; the error
            names every such field.
        """
        faults = []
        if not _is_integer(self.input_size, 1, _MAX_INPUT_SIZE):
            faults.append(f"`input_size` must be an integer in 1..{_MAX_INPUT_SIZE}")
        if (
            not isinstance(self.strides, tuple)
            or not 1 <= len(self.strides) <= _MAX_LAYERS
            or not all(_is_integer(s, 1, _MAX_INPUT_SIZE) for s in self.strides)
            or list(self.strides) != sorted(self.strides)
        ):
            faults.append(
                f"`strides` must be a tuple of 1 to {_MAX_LAYERS} positive integers "
                "that do not fall"
            )
        for name, low, high in (
            ("min_scale", 0.0, 1.0),
            ("max_scale", 0.0, 1.0),
            ("interpolated_scale_aspect_ratio", 0.0, 100.0),
            ("anchor_offset", 0.0, 1.0),
        ):
            if not _is_number(getattr(self, name), low, high):
                faults.append(f"`{name}` must be a number in [{low:g}, {high:g}]")
        if not faults and not 0 < self.min_scale <= self.max_scale:
            faults.append("`min_scale` must be positive and at most `max_scale`")
        if faults:
            raise ValueError(f"{'; '.join(faults)}. Received: {self}.")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return {**dataclasses.asdict(self), "strides": list(self.strides)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> AnchorSpec:
        """Reads what `to_dict` wrote; every field must be there, and no other.

        Raises:
          ValueError: If a field is missing, surplus, of the wrong type or range.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"Anchors must be a mapping. Received: {fields!r}.")
        known = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != known:
            raise ValueError(
                f"Anchors must have the fields {sorted(known)}. "
                f"Received: {sorted(map(str, fields))}."
            )
        strides = fields["strides"]
        return cls(
            **{
                **fields,
                "strides": tuple(strides) if isinstance(strides, list) else strides,
            }
        )


_FULL_RANGE = AnchorSpec(192, (4,), 0.1484375, interpolated_scale_aspect_ratio=0.0)

# Source: the anchor options of MediaPipe's graphs (ARCHITECTURES.md, section 3).
PRESETS: Mapping[str, AnchorSpec] = types.MappingProxyType(
    {
        "palm_256": AnchorSpec(256, (8, 16, 32, 32, 32), 0.1171875),
        "palm_128": AnchorSpec(128, (8, 16, 16, 16), 0.1484375),
        "palm_lite": AnchorSpec(192, (8, 16, 16, 16), 0.1484375),
        "palm_full": AnchorSpec(192, (8, 16, 16, 16), 0.1484375),
        "face_short_range": AnchorSpec(128, (8, 16, 16, 16), 0.1484375),
        "face_back": AnchorSpec(256, (16, 32, 32, 32), 0.15625),
        "face_full_range": _FULL_RANGE,
        "face_full_range_sparse": _FULL_RANGE,
    }
)


def centres(spec: AnchorSpec) -> np.ndarray:
    """Centres of the anchors.

    Returns:
      [N, 2] float32, (x, y) in [0, 1], shares of the input's side.
    """
    grids = []
    for stride, cell_scales in _grids(spec):
        side = math.ceil(spec.input_size / stride)
        line = (np.arange(side) + spec.anchor_offset) / side
        y, x = np.meshgrid(line, line, indexing="ij")
        cells = np.stack([x, y], axis=-1).reshape(-1, 2)
        grids.append(np.repeat(cells, len(cell_scales), axis=0))
    return np.concatenate(grids).astype(np.float32)


def scales(spec: AnchorSpec) -> np.ndarray:
    """SSD scale of each anchor: the side of the square it stands for.

    Returns:
      [N] float32, shares of the input's side, in the order of `centres`.
    """
    grids = [
        np.tile(cell_scales, math.ceil(spec.input_size / stride) ** 2)
        for stride, cell_scales in _grids(spec)
    ]
    return np.concatenate(grids).astype(np.float32)


def layer_scales(spec: AnchorSpec) -> tuple[tuple[float, ...], ...]:
    """Scales of each layer's anchors: its own and, unless left out, the one between.

    The last layer's second anchor lies between its scale and 1.
    """
    layers = len(spec.strides)
    if layers == 1:
        own = [(spec.min_scale + spec.max_scale) / 2]
    else:
        step = (spec.max_scale - spec.min_scale) / (layers - 1)
        own = [spec.min_scale + step * layer for layer in range(layers)]
    if spec.interpolated_scale_aspect_ratio == 0:
        return tuple((scale,) for scale in own)
    following = [*own[1:], 1.0]
    return tuple((a, math.sqrt(a * b)) for a, b in zip(own, following, strict=True))


def _grids(spec: AnchorSpec) -> list[tuple[int, tuple[float, ...]]]:
    """Stride and scales of a cell of each grid, in the order of the outputs."""
    layers = zip(spec.strides, layer_scales(spec), strict=True)
    return [
        (stride, tuple(itertools.chain.from_iterable(scales for _, scales in group)))
        for stride, group in itertools.groupby(layers, key=lambda layer: layer[0])
    ]
