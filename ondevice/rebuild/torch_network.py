"""Layers -> PyTorch module: the same network, for those who train it there.

    model = torch_network.build(spec, layers)
    model.load_state_dict(torch.load("palm_full.pth", weights_only=True))
    model.classifier_8 = torch.nn.Conv2d(128, 2 * 7, 1)  # 2 anchors, 7 classes
    model.classifier_16 = torch.nn.Conv2d(256, 6 * 7, 1)
    regressors, classificators = model(images)

Images are [batch, 3, S, S] float32 in the detector's input range, channels first, as
PyTorch has them. A class head may be replaced by one of A * K channels, the K classes
of an anchor side by side: the logits are then K for each anchor.

The vendor's files pad as TensorFlow does, which PyTorch does not: with stride 2 one row
more behind than before, so (0, 1) for 3x3 windows and (1, 2) for 5x5 ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ondevice.rebuild import specs, topology, torch_names


class Outputs(NamedTuple):
    """What the network gives.

    Attributes:
      regressors: [batch, N, C], pixels of the input relative to the anchor.
      classificators: [batch, N, K], logits.
    """

    regressors: torch.Tensor
    classificators: torch.Tensor


class Detector(nn.Module):
    """A detector, drawn from its layers.

    Attributes:
      spec: Says, for one, the side of the square input in pixels and the values that
        its pixels 0 and 255 map to.
    """

    def __init__(
        self, spec: specs.DetectorSpec, layers: tuple[topology.Layer, ...]
    ) -> None:
        super().__init__()
        self.spec = spec
        self._layers = layers
        self._paths = torch_names.paths(spec.name, layers)
        # Sizes are the network's and not read from tensors: an exporter that traces the
        # module would write down how those are computed.
        self._shapes = {layer.name: layer.shape for layer in layers}
        for layer in layers:
            if layer.name in self._paths:
                channels = self._shapes[layer.inputs[0]][2]
                biased = layer.bias or torch_names.biased(spec.name)
                made = _module(layer, channels, biased)
                _put(self, self._paths[layer.name], made)

    def forward(self, image: torch.Tensor) -> Outputs:
        tensors = self.run({self._layers[0].name: image})
        return Outputs(tensors[topology.REGRESSORS], tensors[topology.SCORES])

    def run(self, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Computes every layer that can be computed from what others gave.

        So what a frozen trunk makes of an image is computed once: with T of
        `trunks.trunk_features`, `run({"image": images})[T]` are its features, and
        `run({T: features})` has the outputs again.

        Args:
          given: Layer's name -> its output, [batch, channels, height, width].

        Returns:
          Layer's name -> its output, those given among them.
        """
        tensors = dict(given)
        for layer in self._layers:
            known = tensors.keys() >= set(layer.inputs)
            if layer.name in tensors or not layer.inputs or not known:
                continue
            read = [tensors[name] for name in layer.inputs]
            shape = self._shapes[layer.inputs[0]]
            if layer.name in self._paths:
                # Looked up anew, since heads may have been replaced.
                module = self.get_submodule(self._paths[layer.name])
                tensors[layer.name] = module(_padded(layer, read[0], shape[0]))
            else:
                tensors[layer.name] = _computed(layer, read, shape)
        return tensors


def build(
    spec: specs.DetectorSpec, layers: tuple[topology.Layer, ...] | None = None
) -> Detector:
    """Draws the module, its weights random.

    Args:
      spec: The detector.
      layers: The network, where it is not the vendor's: with plain heads for more
        classes than one.
    """
    return Detector(spec, topology.draw(spec) if layers is None else layers)


def _module(layer: topology.Layer, channels: int, biased: bool) -> nn.Module:
    """The module of a layer that has weights; padding apart, see `_padded`."""
    if layer.kind == "conv":
        return nn.Conv2d(channels, layer.shape[2], layer.kernel, layer.stride)
    if layer.kind == "depthwise":
        return nn.Conv2d(
            channels, channels, layer.kernel, layer.stride, groups=channels, bias=biased
        )
    if layer.kind == "transpose_conv":
        return nn.ConvTranspose2d(
            channels, layer.shape[2], layer.kernel, layer.stride
        )
    if layer.kind == "prelu":
        return nn.PReLU(channels)
    raise ValueError(f"No PyTorch module is known for the kind {layer.kind!r}.")


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Adds a module below others, which are made where they are not there."""
    *above, name = path.split(".")
    for step in above:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(name, module)


def _padded(layer: topology.Layer, x: torch.Tensor, side: int) -> torch.Tensor:
    """Pads [batch, channels, side, side] as SAME does: the odd row goes behind."""
    if layer.kind not in ("conv", "depthwise") or layer.padding == "valid":
        return x
    before, after = same_padding(side, layer.kernel, layer.stride)
    return functional.pad(x, (before, after, before, after)) if after else x


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Rows before and after, for a window over an axis under SAME.

    Source: https://www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding".
    """
    steps = -(-size // stride)
    missing = max((steps - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def _computed(
    layer: topology.Layer, read: list[torch.Tensor], shape: tuple[int, ...]
) -> torch.Tensor:
    """The output of a layer that has no weights, from tensors, the first of `shape`."""
    x = read[0]
    if layer.kind == "relu":
        return functional.relu(x)
    if layer.kind == "add":
        return x + read[1]
    if layer.kind == "max_pool":
        return functional.max_pool2d(x, layer.kernel, layer.stride)
    if layer.kind == "channel_pad":
        # Pairs from the last axis on: width, height, channels.
        return functional.pad(x, (0, 0, 0, 0, 0, layer.shape[2] - shape[2]))
    if layer.kind == "spatial_pad":
        return functional.pad(x, (layer.kernel,) * 4)
    if layer.kind == "depth_to_space":
        # TensorFlow has the channels of a cell innermost, pixel_shuffle outermost.
        side, (_, channels, height, width) = layer.kernel, x.shape
        x = x.reshape(-1, side, side, channels // side**2, height, width)
        x = x.permute(0, 3, 4, 1, 5, 2)
        return x.reshape(-1, x.shape[1], height * side, width * side)
    if layer.kind == "upsample":
        # Half-pixel centres.
        return functional.interpolate(
            x, scale_factor=2, mode="bilinear", align_corners=False
        )
    if layer.kind == "reshape":
        # The width follows from the head, which may have been replaced.
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], layer.shape[0], -1)
    if layer.kind == "concat":
        return torch.cat(read, dim=1)
    raise ValueError(f"No PyTorch operation is known for the kind {layer.kind!r}.")
