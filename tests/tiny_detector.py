"""Tiny detectors of every kind, and a vendor's file of each, for quick tests."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import tensorflow as tf

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import convert, fresh, sources, vendor
from ondevice.detection import anchors
from ondevice.device import session
from ondevice.measuring import step_inputs
from ondevice.rebuild import network, porting, recognition, specs, topology
from signatures import contract, losses, optimizers, stateless

SPEC = specs.DetectorSpec(
    name="palm_tiny",
    input_size=32,
    input_range=(0.0, 1.0),
    stem_channels=4,
    stem_kernel=5,
    kernel=5,
    activation="prelu",
    stages=(
        (specs.Block(4),),
        (specs.Block(6, stride=2),),
        (specs.Block(8, stride=2), specs.Block(8)),
        (specs.Block(8, stride=2),),
    ),
    decoders=(
        specs.Decoder(specs.RESIZE_FIRST, 8, (specs.Block(8),)),
        specs.Decoder(specs.RESIZE_FIRST, 6, (specs.Block(6),)),
    ),
    heads=(specs.Head(4, 2), specs.Head(8, 6)),
    keypoints=7,
    outputs=("Identity", "Identity_1"),
    input_name="input_1",
    subject="palm",
    class_stride=2,
    class_channels=6,
    class_blocks=1,
)
# As the original palm detector: transpose convolutions, ReLU, heads of three strides.
HOURGLASS = dataclasses.replace(
    SPEC,
    name="palm_tiny_hourglass",
    input_range=(-1.0, 1.0),
    stem_kernel=3,
    kernel=3,
    activation="relu",
    decoders=(
        specs.Decoder(specs.TRANSPOSE, 8, (specs.Block(8),)),
        specs.Decoder(specs.TRANSPOSE, 6, (specs.Block(6),)),
    ),
    heads=(specs.Head(4, 2), specs.Head(8, 2), specs.Head(16, 6)),
    class_stride=4,
)
# As the faces' are: double blocks, one without shortcut, laterals with a convolution of
# their own, and one head.
FACES = dataclasses.replace(
    HOURGLASS,
    name="face_tiny",
    stages=(
        (specs.Block(4, inner=2),),
        (specs.Block(6, stride=2, inner=3), specs.Block(7, inner=3)),
        (specs.Block(8, stride=2, inner=4),),
        (specs.Block(8, stride=2, shortcut=False),),
    ),
    decoders=(
        specs.Decoder(specs.RESIZE_LAST, 6, (specs.Block(6, inner=3),)),
        specs.Decoder(specs.RESIZE_LAST, 5, (specs.Block(5, inner=3),)),
    ),
    heads=(specs.Head(4, 1),),
    keypoints=6,
    subject="face",
    class_stride=2,
)
# As the sparse face detector: symmetric padding, biased depthwise convolutions, a stage
# that begins without shortcut, heads whose channels become cells.
SUBPIXEL = dataclasses.replace(
    FACES,
    name="face_tiny_subpixel",
    stages=(
        (specs.Block(4, inner=2),),
        (specs.Block(6, stride=2, inner=3, shortcut=False), specs.Block(6, inner=3)),
        (specs.Block(8, stride=2, inner=4, shortcut=False),),
        (specs.Block(8, stride=2, inner=4, shortcut=False),),
    ),
    symmetric_padding=True,
    depthwise_bias=True,
    subpixel_heads=True,
)
ALL = {spec.name: spec for spec in (SPEC, HOURGLASS, FACES, SUBPIXEL)}
ANCHORS = {
    SPEC.name: anchors.AnchorSpec(32, (4, 8, 8, 8), 0.1484375),
    HOURGLASS.name: anchors.AnchorSpec(32, (4, 8, 16, 16, 16), 0.1171875),
    **dict.fromkeys(
        (FACES.name, SUBPIXEL.name),
        anchors.AnchorSpec(32, (4,), 0.1484375, interpolated_scale_aspect_ratio=0.0),
    ),
}


@contextlib.contextmanager
def known() -> Iterator[None]:
    """Makes the tiny detectors known ones."""
    with mock.patch.object(specs, "PRESETS", {**specs.PRESETS, **ALL}):
        with mock.patch.object(anchors, "PRESETS", {**anchors.PRESETS, **ANCHORS}):
            yield


def weights(
    seed: int = 0, classes: int = 1, spec: specs.DetectorSpec = SPEC
) -> dict[str, np.ndarray]:
    """Random weights at which the network's outputs stay of order one."""
    random = np.random.default_rng(seed)
    values = {}
    for name, shape in topology.variables(topology.draw(spec, classes)).items():
        fan_in = int(np.prod(shape[:-1])) if len(shape) == 4 else 4
        if name.startswith("depthwise") and len(shape) == 4:
            fan_in = shape[0] * shape[1]
        value = random.standard_normal(shape) / fan_in**0.5
        values[name] = value.astype(np.float32)
    return values


@functools.cache
def vendor_file(seed: int = 0, spec: specs.DetectorSpec = SPEC) -> bytes:
    """A frozen file of a tiny detector, one class."""
    model = stateless.Stateless(network.build(topology.draw(spec), spec.name))

    def outputs(values, image):
        found = model(values, image)
        return found["regressors"], found["scores"]

    shape = (1, spec.input_size, spec.input_size, 3)
    image = tf.TensorSpec(shape, name=spec.input_name)
    # Conversion puts probes where the weights belong; write the real ones over them.
    from checkpoints import patch

    values = weights(seed, spec=spec)
    data, constants = convert.inference(outputs, [image], values, spec.outputs)
    return patch.patch(
        data,
        {
            c.buffer: values[c.variable].transpose(c.permutation).reshape(c.shape)
            for c in constants
        },
    )


@functools.cache
def ported() -> vendor.Ported:
    """The vendor's file, recognised and read."""
    data = vendor_file()
    with known():
        file = tflite_file.parse(data)
        found = recognition.recognise(file)
        source = sources.Source("tiny", data, hashlib.sha256(data).hexdigest())
        return vendor.Ported(source, file, found, porting.port(file, found))


def recipe(**changes) -> fresh.Recipe:
    """A recipe for the tiny detector."""
    chosen = {
        "spec": SPEC,
        "classes": ("palm",),
        "trainable": "all",
        "settings": optimizers.Settings("sgd", 0.0),
        "losses": losses.LossWeights(),
        "batch_size": 2,
        "ops": "builtin",
        "source": {"name": "tiny", "sha256": "0" * 64},
    }
    return fresh.Recipe(**{**chosen, **changes})


@functools.cache
def with_adam(target: str) -> bytes:
    """A trainable file: every weight, Adam, two images a step."""
    with known():
        made = recipe(target=target, settings=optimizers.Settings("adam"))
        return fresh.make_trainable(made, weights(3), {})[0]


def three_steps(
    data: bytes, runtime: str, learning_rate: float
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Trains a fresh file on one batch: the losses, and the variables at the end."""
    manifest = manifests.of_file(tflite_file.parse(data))
    arrays = step_inputs.of_signature(manifest, contract.TRAIN)
    arrays["learning_rate"] = np.float32(learning_rate)
    with session.Session(data, runtime, threads=1) as opened:
        found = [opened.train(**arrays).loss for _ in range(3)]
        return found, opened.state()
