"""The detectors as data: everything that tells one network from another.

The layers, the Keras model and the table of weights are all drawn from a spec, so they
cannot disagree. Sizes are those of MediaPipe's files; the weights' own precision
(float16 or float32) is read from the file and is no part of a spec.

Source: the operators of palm_detection_{full,lite}.tflite in the mediapipe 0.10.21
wheel and of mediapipe/modules/palm_detection/palm_detection.tflite at tag 0.8.0.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """Residual blocks at one resolution.

    Attributes:
      channels: Output channels of every block.
      blocks: How many blocks; the first one has `stride`.
      stride: 1, or 2 to halve the resolution first.
    """

    channels: int
    blocks: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Upsampling by two, a 1x1 convolution, the lateral, then residual blocks.

    Attributes:
      channels: Channels of the 1x1 convolution and of the blocks.
      lateral: Index of the stage whose output is added.
      blocks: How many residual blocks follow.
    """

    channels: int
    lateral: int
    blocks: int


@dataclasses.dataclass(frozen=True)
class Head:
    """Class and box heads on one grid.

    Attributes:
      stride: Pixels of the input to a cell; part of the layers' names.
      anchors: Anchors to a cell.
      source: Index of the decoder whose output the heads read.
    """

    stride: int
    anchors: int
    source: int


@dataclasses.dataclass(frozen=True)
class DetectorSpec:
    """One detector.

    Attributes:
      name: Name in `PRESETS`.
      input_size: Side of the square RGB input in pixels.
      input_range: (low, high) that the pixel values 0 and 255 map to.
      stem_channels: Channels of the first convolution, which has stride 2.
      kernel: Side of the stem's and every depthwise kernel.
      stages: From the stem on.
      decoders: From the coarsest grid up.
      heads: Finest grid first, the order of the anchors.
      keypoints: Keypoints of a detection.
      outputs: The vendor's names of the two outputs, regressors first.
      input_name: The vendor's name of the input.
      class_channels: Channels of the class branch, which files with more than one class
        have beside what the vendor's have.
      class_blocks: Its residual blocks on the coarsest grid.
    """

    name: str
    input_size: int
    input_range: tuple[float, float]
    stem_channels: int
    kernel: int
    stages: tuple[Stage, ...]
    decoders: tuple[Decoder, ...]
    heads: tuple[Head, ...]
    keypoints: int
    outputs: tuple[str, str]
    input_name: str
    class_channels: int = 64
    class_blocks: int = 3

    def __post_init__(self) -> None:
        stride = 2
        for stage in self.stages:
            stride *= stage.stride
        finest = stride // 2 ** len(self.decoders)
        if self.heads[0].stride != finest:
            raise ValueError(
                "The first head must be on the finest grid that the decoders reach, "
                f"stride {finest}. Received: stride {self.heads[0].stride}."
            )
        if self.decoders[self.heads[0].source].lateral < 1 or len(self.heads) != 2:
            raise ValueError(
                "There must be two heads, and a stage before the finest one's lateral, "
                f"where the class branch begins. Received: {self.heads}, lateral "
                f"{self.decoders[self.heads[0].source].lateral}."
            )
        if self.input_size % stride:
            raise ValueError(
                f"input_size must be a multiple of {stride}. "
                f"Received: {self.input_size}."
            )

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
        kernel=5,
        stages=(
            Stage(32, blocks, 1),
            Stage(64, blocks + 1, 2),
            Stage(128, blocks + 1, 2),
            Stage(256, blocks + 1, 2),
            Stage(256, blocks + 1, 2),
        ),
        decoders=(Decoder(256, 3, 2), Decoder(128, 2, 2)),
        heads=(Head(8, 2, 1), Head(16, 6, 0)),
        keypoints=7,
        outputs=outputs,
        input_name=input_name,
    )


_IDENTITY = ("Identity", "Identity_1")
_NAMED = ("regressors", "classificators")

PRESETS = {
    spec.name: spec
    for spec in (
        _palm("palm_full", 192, 0.0, 4, _IDENTITY, "input_1"),
        _palm("palm_lite", 192, 0.0, 3, _IDENTITY, "input_1"),
        _palm("palm_128", 128, -1.0, 3, _NAMED, "input"),
    )
}
