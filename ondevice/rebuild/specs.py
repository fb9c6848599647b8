"""The detectors as data: everything that tells one network from another.

The layers, the Keras model and the table of weights are all drawn from a spec, so they
cannot disagree. Sizes are those of MediaPipe's files; the weights' own precision
(int8, float16 or float32) is read from the file and is no part of a spec.

Grids are called by their stride, the pixels of the input to a cell. A decoder adds the
last stage of its stride; a head reads the last grid of its own, a decoder's where there
is one.

Source: the operators of palm_detection_{full,lite}.tflite and
face_detection_{short_range,full_range_sparse}.tflite in the mediapipe 0.10.21 wheel, of
mediapipe/modules/palm_detection/palm_detection.tflite and
mediapipe/models/face_detection_back.tflite at tag 0.8.0, of
mediapipe/modules/face_detection/face_detection_full_range.tflite at v0.8.7, and of an
int8 conversion of mediapipe/models/palm_detection.tflite (v0.6.0 to 0.7.12). Scores:
the graphs beside them.
"""

from __future__ import annotations

import dataclasses
import functools
import math

# How a decoder enlarges the coarser grid before the lateral is added.
RESIZE_FIRST = "resize, 1x1"  # the lateral is the stage's output as it is
TRANSPOSE = "transpose 2x2"  # so it is here
RESIZE_LAST = "1x1, resize"  # the lateral goes through a 1x1 of its own, too


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual block: depthwise k x k, 1x1 convolution, shortcut.

    Attributes:
      channels: Of its output.
      stride: 1, or 2 to halve the resolution.
      inner: In a double block, the channels between its two pairs of depthwise and 1x1
        convolution; 0 for a single one.
      shortcut: Whether it has one.
    """

    channels: int
    stride: int = 1
    inner: int = 0
    shortcut: bool = True


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Upsampling by two, the lateral, then residual blocks.

    Attributes:
      kind: One of the three above.
      channels: Of its 1x1 or transpose convolution and so of the sum.
      blocks: What follows the sum.
    """

    kind: str
    channels: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if self.kind not in (RESIZE_FIRST, TRANSPOSE, RESIZE_LAST):
            raise ValueError(
                "A decoder's kind must be one of "
                f"{(RESIZE_FIRST, TRANSPOSE, RESIZE_LAST)}. Received: {self.kind!r}."
            )


@dataclasses.dataclass(frozen=True)
class Head:
    """Class and box heads on one grid.

    Attributes:
      stride: Of the grid that they read; part of the layers' names.
      anchors: Anchors to a cell.
    """

    stride: int
    anchors: int


@dataclasses.dataclass(frozen=True)
class DetectorSpec:
    """One detector.

    Attributes:
      name: Name in `PRESETS`.
      input_size: Side of the square RGB input in pixels.
      input_range: (low, high) that the pixel values 0 and 255 map to.
      stem_channels: Channels of the first convolution, which has stride 2.
      stem_kernel: Side of its kernel.
      kernel: Side of every depthwise kernel.
      activation: prelu or relu.
      stages: Blocks at one resolution each, from the stem on.
      decoders: From the coarsest grid up.
      heads: Finest grid first, the order of the anchors.
      keypoints: Keypoints of a detection.
      outputs: The vendor's names of the two outputs, regressors first.
      input_name: The vendor's name of the input.
      subject: What the vendor's one class is.
      min_score: Lowest score of a detection in MediaPipe's graphs, but for files of
        `OTHER_SCORES`.
      symmetric_padding: Whether a window of stride 2 has zeros on all sides, as PyTorch
        pads, and not SAME's, which has fewer before than behind.
      depthwise_bias: Whether depthwise convolutions have a bias that trains.
      subpixel_heads: Whether the heads go through a strided depthwise convolution,
        whose channels are laid out as cells.
      class_stride: Stride of the stage where the class branch begins, which files with
        more than one class have beside what the vendor's have.
      class_channels: Its channels.
      class_blocks: Its residual blocks on the grid where it ends, four times as coarse
        as where it begins.
    """

    name: str
    input_size: int
    input_range: tuple[float, float]
    stem_channels: int
    stem_kernel: int
    kernel: int
    activation: str
    stages: tuple[tuple[Block, ...], ...]
    decoders: tuple[Decoder, ...]
    heads: tuple[Head, ...]
    keypoints: int
    outputs: tuple[str, str]
    input_name: str
    subject: str
    min_score: float = 0.5
    symmetric_padding: bool = False
    depthwise_bias: bool = False
    subpixel_heads: bool = False
    class_stride: int = 4
    class_channels: int = 64
    class_blocks: int = 3

    def __post_init__(self) -> None:
        """Refuses what cannot be drawn.

        Raises:
          ValueError: If a head or the class branch has no grid to read, the input does
            not divide into cells or the activation is unknown.
        """
        if self.activation not in ("prelu", "relu"):
            raise ValueError(
                f"activation must be prelu or relu. Received: {self.activation!r}."
            )
        stages, decoded = self.stage_strides, self.decoder_strides
        if self.input_size % stages[-1]:
            raise ValueError(
                f"input_size must be a multiple of {stages[-1]}. "
                f"Received: {self.input_size}."
            )
        strides = [head.stride for head in self.heads]
        grids = {*stages, *decoded}
        if not strides or strides != sorted(set(strides)) or not grids >= set(strides):
            raise ValueError(
                "The heads must be on grids that there are, of strides "
                f"{sorted(grids)}, finest first. Received: strides {strides}."
            )
        ends = 4 * self.class_stride
        if self.class_stride not in stages or ends not in grids or strides[-1] > ends:
            raise ValueError(
                "The class branch must begin at a stage, and end four times as coarse "
                f"on a grid not finer than the heads', {strides[-1]}. Received: "
                f"class_stride {self.class_stride}, stages of strides {stages}."
            )

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Stride of the grid on which each stage ends."""
        halved = [math.prod(block.stride for block in stage) for stage in self.stages]
        return tuple(2 * math.prod(halved[: i + 1]) for i in range(len(halved)))

    @property
    def decoder_strides(self) -> tuple[int, ...]:
        """Stride of each decoder's grid."""
        coarsest = self.stage_strides[-1]
        return tuple(coarsest // 2 ** (i + 1) for i in range(len(self.decoders)))

    @property
    def coordinates(self) -> int:
        """Values that the box head gives for an anchor: a box and the keypoints."""
        return 4 + 2 * self.keypoints

    @property
    def anchors(self) -> int:
        """Anchors in all."""
        return sum(
            head.anchors * (self.input_size // head.stride) ** 2 for head in self.heads
        )


def _single(*channels: int, stride: int = 2) -> tuple[Block, ...]:
    """Single blocks of these channels; the first one has `stride`."""
    return tuple(Block(c, 1 if i else stride) for i, c in enumerate(channels))


def _double(
    *shapes: tuple[int, int], stride: int = 2, shortcut: bool = True
) -> tuple[Block, ...]:
    """Double blocks of these (channels, inner).

    Args:
      *shapes: Of each.
      stride: Of the first one.
      shortcut: Whether the first one has one.
    """
    return tuple(
        Block(c, 1 if i else stride, b, bool(i) or shortcut)
        for i, (c, b) in enumerate(shapes)
    )


def _palm(
    name: str,
    size: int,
    low: float,
    blocks: int,
    outputs: tuple[str, str],
    input_name: str,
) -> DetectorSpec:
    """A palm detector with `blocks` stride-1 blocks in every stage."""
    return DetectorSpec(
        name=name,
        input_size=size,
        input_range=(low, 1.0),
        stem_channels=32,
        stem_kernel=5,
        kernel=5,
        activation="prelu",
        stages=(
            _single(*[32] * blocks, stride=1),
            _single(*[64] * (1 + blocks)),
            _single(*[128] * (1 + blocks)),
            _single(*[256] * (1 + blocks)),
            _single(*[256] * (1 + blocks)),
        ),
        decoders=(
            Decoder(RESIZE_FIRST, 256, _single(256, 256, stride=1)),
            Decoder(RESIZE_FIRST, 128, _single(128, 128, stride=1)),
        ),
        heads=(Head(8, 2), Head(16, 6)),
        keypoints=7,
        outputs=outputs,
        input_name=input_name,
        subject="palm",
    )


_IDENTITY = ("Identity", "Identity_1")
_NAMED = ("regressors", "classificators")

# What the original palm detector and the faces have in common.
_with_relu = functools.partial(
    DetectorSpec,
    input_range=(-1.0, 1.0),
    kernel=3,
    activation="relu",
    outputs=_NAMED,
    input_name="input",
)

PALM_256 = _with_relu(
    name="palm_256",
    input_size=256,
    stem_channels=32,
    stem_kernel=3,
    stages=(
        _single(*[32] * 7, stride=1),
        _single(*[64] * 8),
        _single(*[128] * 8),
        _single(*[256] * 8),
        _single(*[256] * 8),
    ),
    decoders=(
        Decoder(TRANSPOSE, 256, _single(256, stride=1)),
        Decoder(TRANSPOSE, 128, _single(128, stride=1)),
    ),
    heads=(Head(8, 2), Head(16, 2), Head(32, 6)),
    keypoints=7,
    subject="palm",
    class_stride=8,
)

# Short range and the older front, one network with other weights.
FACE_SHORT_RANGE = _with_relu(
    name="face_short_range",
    input_size=128,
    stem_channels=24,
    stem_kernel=5,
    stages=(
        _single(24, 28, stride=1),
        _single(32, 36, 42),
        _single(48, 56, 64, 72, 80, 88),
        _single(96, 96, 96, 96, 96),
    ),
    decoders=(),
    heads=(Head(8, 2), Head(16, 6)),
    keypoints=6,
    subject="face",
)

FACE_BACK = _with_relu(
    name="face_back",
    input_size=256,
    stem_channels=24,
    stem_kernel=5,
    stages=(
        _single(*[24] * 7, stride=1),
        _single(*[24] * 8),
        _single(*[48] * 8),
        _single(*[96] * 8),
        (Block(96, stride=2, shortcut=False),),
    ),
    decoders=(),
    heads=(Head(16, 2), Head(32, 6)),
    keypoints=6,
    subject="face",
    min_score=0.65,
    class_stride=8,
)

FACE_FULL_RANGE = _with_relu(
    name="face_full_range",
    input_size=192,
    stem_channels=32,
    stem_kernel=3,
    stages=(
        _double((32, 8), (32, 8), stride=1),
        _double((48, 12), (48, 12), (64, 16)),
        _double((96, 24), (128, 32), (128, 32)),
        _double((144, 36), (192, 48), (256, 64)),
        _double((384, 96), (384, 96), (384, 96), (384, 96)),
    ),
    decoders=(
        Decoder(RESIZE_LAST, 96, _double((96, 48), (96, 48), stride=1)),
        Decoder(RESIZE_LAST, 64, _double((64, 32), (64, 32), stride=1)),
        Decoder(RESIZE_LAST, 48, _double((48, 24), stride=1)),
    ),
    heads=(Head(4, 1),),
    keypoints=6,
    outputs=("reshaped_regressor_face_4", "reshaped_classifier_face_4"),
    subject="face",
    min_score=0.6,
)

# What MediaPipe's solution loads: another network, pruned, most kernels stored sparse.
FACE_FULL_RANGE_SPARSE = dataclasses.replace(
    FACE_FULL_RANGE,
    name="face_full_range_sparse",
    stages=(
        _double((32, 8), (32, 8), stride=1),
        _double((64, 16), (64, 16), (64, 16), shortcut=False),
        _double((128, 32), (128, 32), (128, 32), shortcut=False),
        _double((192, 48), (192, 48), (192, 48), shortcut=False),
        _double((384, 96), (384, 96), (384, 96), (384, 96), shortcut=False),
    ),
    outputs=_IDENTITY,
    input_name="input_1",
    symmetric_padding=True,
    depthwise_bias=True,
    subpixel_heads=True,
)

PRESETS = {
    spec.name: spec
    for spec in (
        _palm("palm_full", 192, 0.0, 4, _IDENTITY, "input_1"),
        _palm("palm_lite", 192, 0.0, 3, _IDENTITY, "input_1"),
        _palm("palm_128", 128, -1.0, 3, _NAMED, "input"),
        PALM_256,
        FACE_SHORT_RANGE,
        FACE_BACK,
        FACE_FULL_RANGE,
        FACE_FULL_RANGE_SPARSE,
    )
}

# Files whose graphs had another lowest score than their network's, by SHA-256: front,
# short range's network with other weights, in the graphs of v0.6.0 to v0.7.4.
OTHER_SCORES = {
    "a31cce739e9f5b9b08a15ef5ff90c500a46e96bd2c87f329d58a008dfd6c42ff": 0.75,
}
