"""Spec -> layers: the network as a list of nodes, in the order of execution.

The Keras model is drawn from this list, the vendor's graph is matched against it, and
the table of weights is generated from it. Layers are numbered as Keras does on
creation, as in the vendor's files (`conv2d`, `conv2d_1`, ..., `depthwise_conv2d`, ...,
`p_re_lu` or `activation`, ...).

A block is: depthwise k x k -> 1x1 convolution -> add the shortcut -> activation; in a
double one there is first another pair, and its activation. The shortcut of a stride-2
block is a 2x2 max-pool; zero channels are appended where they grow. After a lateral
there is no activation.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

from checkpoints import manifest as manifests
from ondevice.rebuild import specs

# Groups: what a layer belongs to when a part of the network is trained.
STEM, UP, BOX_HEAD, SCORE_HEAD, CLASS_HEAD, GLUE = (
    "stem", "up", "box_head", "score_head", "class_head", "glue",
)  # fmt: skip
BLOCK = "block:"  # followed by the block's number, from the input on

# Multiple of the learning rate at which a new class branch learns: it has everything
# to learn, beside a network that was trained and whose BatchNorm is folded away. Adam
# moves every weight by the rate whatever its gradient, and small steps there are large
# ones here. BUILD_NOTES.md has what was measured.
CLASS_RATE = 100.0

# Outputs of the network, the vendor's two and the class logits beside them.
REGRESSORS, SCORES, CLASS_LOGITS = "regressors", "scores", "class_logits"


class ChoiceError(ValueError):
    """A choice of what to train that is none."""

    exit_status = 2  # of a command that was given it: a wrong flag


@dataclasses.dataclass(frozen=True)
class Layer:
    """One node.

    Attributes:
      name: Unique; the checkpoint's names start with it.
      kind: conv, depthwise, transpose_conv, prelu, relu, add, max_pool, channel_pad,
        spatial_pad, upsample, depth_to_space, reshape, concat or input.
      inputs: Names of the layers it reads.
      shape: Output shape for one image, without the batch.
      group: Part of the network, see above.
      kernel: Side of the window, for the convolutions and max_pool; cells that
        spatial_pad adds on each side; side of the square that depth_to_space lays out.
      stride: Step of the window.
      padding: Of the convolutions: same, or valid behind a spatial_pad.
      bias: Whether a depthwise layer has one; the other convolutions always have.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    group: str
    kernel: int = 1
    stride: int = 1
    padding: str = "same"
    bias: bool = False

    @property
    def window(self) -> tuple[int | str, ...]:
        """What tells two layers of a kind apart, beside their shapes."""
        apart = () if self.padding == "same" else (self.padding,)
        return (self.kernel, self.stride, *apart)


class _Drawing:
    """Collects layers and numbers them."""

    def __init__(self, spec: specs.DetectorSpec) -> None:
        self.layers: dict[str, Layer] = {}
        self._spec = spec
        self._count: collections.Counter[str] = collections.Counter()

    def add(
        self,
        kind: str,
        inputs: tuple[Layer, ...],
        shape: tuple[int, ...],
        group: str,
        name: str = "",
        **window: Any,
    ) -> Layer:
        if not name:
            stem = KERAS_NAMES[kind]
            number = self._count[stem]
            self._count[stem] += 1
            name = f"{stem}_{number}" if number else stem
        layer = Layer(name, kind, tuple(i.name for i in inputs), shape, group, **window)
        self.layers[name] = layer
        return layer

    def conv(
        self, x: Layer, channels: int, group: str, name: str = "", **window: int
    ) -> Layer:
        side = x.shape[0] // window.get("stride", 1)
        x, padding = self.padded(x, group, **window)
        shape = (side, side, channels)
        return self.add("conv", (x,), shape, group, name, padding=padding, **window)

    def depthwise(self, x: Layer, stride: int, group: str) -> Layer:
        side = x.shape[0] // stride
        window: dict[str, Any] = {"kernel": self._spec.kernel, "stride": stride}
        x, padding = self.padded(x, group, **window)
        return self.add(
            "depthwise", (x,), (side, side, x.shape[2]), group,
            padding=padding, bias=self._spec.depthwise_bias, **window,
        )  # fmt: skip

    def padded(
        self, x: Layer, group: str, kernel: int = 1, stride: int = 1
    ) -> tuple[Layer, str]:
        """What a window reads, and its padding.

        With a stride of 1 the two ways of padding are one.
        """
        if not self._spec.symmetric_padding or stride == 1:
            return x, "same"
        added = kernel // 2
        side = x.shape[0] + 2 * added
        shape = (side, side, x.shape[2])
        return self.add("spatial_pad", (x,), shape, group, kernel=added), "valid"

    def upsample(self, x: Layer, group: str) -> Layer:
        side = 2 * x.shape[0]
        return self.add("upsample", (x,), (side, side, x.shape[2]), group)

    def activation(self, x: Layer, group: str) -> Layer:
        return self.add(self._spec.activation, (x,), x.shape, group)

    def block(self, x: Layer, block: specs.Block, group: str = "") -> Layer:
        if not group:
            group = f"{BLOCK}{self._count['block']}"
            self._count["block"] += 1
        y = self.depthwise(x, block.stride, group)
        if block.inner:
            y = self.activation(self.conv(y, block.inner, group), group)
            y = self.depthwise(y, 1, group)
        y = self.conv(y, block.channels, group)
        if not block.shortcut:
            return self.activation(y, group)
        if block.stride == 2:
            pooled = (*y.shape[:2], x.shape[2])
            x = self.add("max_pool", (x,), pooled, group, kernel=2, stride=2)
        if block.channels > x.shape[2]:
            x = self.add("channel_pad", (x,), y.shape, group)
        return self.activation(self.add("add", (y, x), y.shape, group), group)

    def head(self, x: Layer, channels: int, group: str, name: str) -> Layer:
        if not self._spec.subpixel_heads or group == CLASS_HEAD:
            return self.conv(x, channels, group, name)
        # Four cells' values as channels of the one between them.
        y = self.depthwise(self.conv(x, 4 * channels, group, name), 2, group)
        shape = (*x.shape[:2], channels)
        return self.add("depth_to_space", (y,), shape, group, kernel=2)

    def decode(self, x: Layer, lateral: Layer, decoder: specs.Decoder) -> Layer:
        channels = decoder.channels
        if decoder.kind == specs.RESIZE_FIRST:
            x = self.conv(self.upsample(x, GLUE), channels, UP)
            x = self.activation(x, UP)
        elif decoder.kind == specs.TRANSPOSE:
            shape = (*lateral.shape[:2], channels)
            x = self.add("transpose_conv", (x,), shape, UP, kernel=2, stride=2)
            x = self.activation(x, UP)
        else:
            x, lateral = (self.conv(each, channels, UP) for each in (x, lateral))
            x, lateral = (self.activation(each, UP) for each in (x, lateral))
            x = self.upsample(x, GLUE)
        x = self.add("add", (x, lateral), x.shape, GLUE)
        for block in decoder.blocks:
            x = self.block(x, block)
        return x


# Kind -> what Keras calls its layers, before the number.
KERAS_NAMES = {
    "conv": "conv2d",
    "depthwise": "depthwise_conv2d",
    "transpose_conv": "conv2d_transpose",
    "prelu": "p_re_lu",
    "relu": "activation",
    "add": "add",
    "max_pool": "max_pooling2d",
    "channel_pad": "channel_padding",
    "spatial_pad": "zero_padding2d",
    "upsample": "up_sampling2d",
    "depth_to_space": "depth_to_space",
    "dense": "dense",  # which no detector has
}


def draw(
    spec: specs.DetectorSpec, classes: int = 1, heads: str = manifests.SCORE_AND_CLASSES
) -> tuple[Layer, ...]:
    """Draws the network.

    Args:
      spec: The detector.
      classes: With 1 the network is the vendor's.
      heads: What it has with more of them, one of `manifest.HEADS`: beside the vendor's
        score K class logits for every anchor, from a branch of its own; or, plain, K
        scores for every anchor in place of the vendor's.

    Returns:
      The layers in order of execution. The outputs are called `REGRESSORS`, `SCORES`
      and, with more than one class and heads that are not plain, `CLASS_LOGITS`.
    """
    net = _Drawing(spec)
    size = spec.input_size
    x = net.add("input", (), (size, size, 3), GLUE, name="image")
    x = net.conv(x, spec.stem_channels, STEM, kernel=spec.stem_kernel, stride=2)
    x = net.activation(x, STEM)
    stages = {}
    for stride, stage in zip(spec.stage_strides, spec.stages, strict=True):
        for block in stage:
            x = net.block(x, block)
        stages[stride] = x
    grids = dict(stages)
    for stride, decoder in zip(spec.decoder_strides, spec.decoders, strict=True):
        grids[stride] = x = net.decode(x, stages[stride], decoder)
    plain = heads == manifests.PLAIN
    outputs = [
        (REGRESSORS, "regressor", BOX_HEAD, spec.coordinates),
        (SCORES, "classifier", SCORE_HEAD, classes if plain else 1),
    ]
    if classes > 1 and not plain:
        outputs.append((CLASS_LOGITS, "class", CLASS_HEAD, classes))
    for output, prefix, group, width in outputs:
        if group == CLASS_HEAD:
            grids = _class_branch(net, spec, stages, grids)
        rows = []
        for head in spec.heads:
            name = f"{prefix}_{head.stride}"
            y = net.head(grids[head.stride], head.anchors * width, group, name)
            shape = (y.shape[0] * y.shape[1] * head.anchors, width)
            name = f"{name}_rows" if len(spec.heads) > 1 else output
            rows.append(net.add("reshape", (y,), shape, GLUE, name=name))
        if len(rows) > 1:
            net.add("concat", tuple(rows), (spec.anchors, width), GLUE, name=output)
    return tuple(net.layers.values())


def _class_branch(
    net: _Drawing,
    spec: specs.DetectorSpec,
    stages: dict[int, Layer],
    grids: dict[int, Layer],
) -> dict[int, Layer]:
    """What tells classes apart: residual blocks beside the network.

    The grids that the other heads read tell where a palm is, and blur the fingers; the
    encoder still has them. So the branch begins at one of its stages, and takes a grid
    in where it has become as coarse. A hand covers many cells of that grid: it is fine
    enough for a class, and costs the least. Finer heads read it enlarged.

    Args:
      net: Takes the layers up.
      spec: The detector.
      stages: Stride -> output of a stage of the encoder.
      grids: Stride -> what the other heads read.

    Returns:
      Stride -> what the class heads read.
    """
    channels = spec.class_channels

    def halved(x: Layer, name: str) -> Layer:
        x = net.depthwise(x, 2, CLASS_HEAD)
        return net.conv(x, channels, CLASS_HEAD, name=name)

    x = net.activation(halved(stages[spec.class_stride], "class_fine"), CLASS_HEAD)
    x = net.block(x, specs.Block(channels), CLASS_HEAD)
    stride = 4 * spec.class_stride
    seen = net.conv(grids[stride], channels, CLASS_HEAD, name="class_grid")
    x = net.add("add", (halved(x, "class_coarse"), seen), seen.shape, CLASS_HEAD)
    x = net.activation(x, CLASS_HEAD)
    for _ in range(spec.class_blocks):
        x = net.block(x, specs.Block(channels), CLASS_HEAD)
    found = {stride: x}
    while stride > spec.heads[0].stride:
        stride //= 2
        found[stride] = x = net.upsample(x, CLASS_HEAD)
    return found


def variables(layers: tuple[Layer, ...]) -> dict[str, tuple[int, ...]]:
    """Every weight, `<layer>/<attribute>` -> shape in Keras' layout."""
    by_name = {layer.name: layer for layer in layers}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if layer.kind not in ("conv", "depthwise", "transpose_conv", "prelu"):
            continue
        channels, k = by_name[layer.inputs[0]].shape[2], layer.kernel
        if layer.kind == "conv":
            shapes[f"{layer.name}/kernel"] = (k, k, channels, layer.shape[2])
            shapes[f"{layer.name}/bias"] = (layer.shape[2],)
        elif layer.kind == "transpose_conv":
            shapes[f"{layer.name}/kernel"] = (k, k, layer.shape[2], channels)
            shapes[f"{layer.name}/bias"] = (layer.shape[2],)
        elif layer.kind == "depthwise":
            shapes[f"{layer.name}/kernel"] = (k, k, channels, 1)
            if layer.bias:
                shapes[f"{layer.name}/bias"] = (channels,)
        else:
            shapes[f"{layer.name}/alpha"] = (1, 1, channels)
    return shapes


def rates(layers: tuple[Layer, ...], trained: tuple[str, ...]) -> dict[str, float]:
    """How fast each weight learns, in multiples of the learning rate.

    Args:
      layers: The network.
      trained: Names of weights.

    Returns:
      Name -> multiple, for those whose multiple is not 1.
    """
    new = set(class_weights(layers))
    return {name: CLASS_RATE for name in trained if name in new}


def class_weights(layers: tuple[Layer, ...]) -> tuple[str, ...]:
    """Names of the weights of new class heads; none with one class."""
    heads = {layer.name for layer in layers if layer.group == CLASS_HEAD}
    return tuple(n for n in variables(layers) if n.split("/")[0] in heads)


def trained_variables(layers: tuple[Layer, ...], choice: str) -> tuple[str, ...]:
    """Which weights `--trainable=choice` trains.

    Args:
      layers: The network.
      choice: `all`; `heads`, class and box heads; `classifier`, class heads;
        `blocks:N`, the last N residual blocks and the heads; `bias`, every bias, PReLU
        slopes included, and class heads that are new.

    Returns:
      Names in the network's order.

    Raises:
      ChoiceError: If the choice is none of these, or N does not count blocks.
    """
    heads = (BOX_HEAD, SCORE_HEAD, CLASS_HEAD)
    blocks = [g for g in dict.fromkeys(x.group for x in layers) if g.startswith(BLOCK)]
    groups: tuple[str, ...] = ()
    if choice == "heads":
        groups = heads
    elif choice == "classifier":
        groups = (SCORE_HEAD, CLASS_HEAD)
    elif choice.startswith("blocks:") and choice[7:].isdecimal():
        count = int(choice[7:])
        if not 1 <= count <= len(blocks):
            raise ChoiceError(
                f"--trainable=blocks:N must have N from 1 to {len(blocks)}, the "
                f"residual blocks of the network. Received: {choice!r}."
            )
        groups = (*heads, *blocks[-count:])
    elif choice not in ("all", "bias"):
        raise ChoiceError(
            "--trainable must be one of all, heads, classifier, blocks:N, bias. "
            f"Received: {choice!r}."
        )
    group_of = {layer.name: layer.group for layer in layers}
    chosen = []
    for name in variables(layers):
        layer, attribute = name.split("/")
        group = group_of[layer]
        if choice == "bias":
            keep = attribute in ("bias", "alpha") or group == CLASS_HEAD
        else:
            keep = choice == "all" or group in groups
        if keep:
            chosen.append(name)
    return tuple(chosen)
