"""The palm detector as a subject: three classes of drawn hands."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from ondevice import fresh, vendor
from ondevice.detection import anchors, geometry, targets
from ondevice.device import images
from ondevice.observing import pictures, subject
from ondevice.rebuild import network, porting, specs
from ondevice.verification import reference
from signatures import losses, optimizers, trainable

_BATCH, _BATCHES = 4, 2
# Adam's; new class heads learn at a hundred times it.
_RATE, _GENTLE = 3e-5, 3e-6
# Of the frame's side, so that hands are as large as the detector is used to.
_SHARE = 0.8


class _Reversed(trainable.Trainable):
    """Its gradients pass through REVERSE_V2."""

    def _differentiate(self, function, weights, *args, **options):
        found, gradients = super()._differentiate(function, weights, *args, **options)
        return found, [subject.turned_over(gradient) for gradient in gradients]


class _Colliding(subject.Colliding, trainable.SelectTrainable):
    """Its variables are saved under names that collide."""


@dataclasses.dataclass(frozen=True)
class _Recipe(fresh.Recipe):
    """A recipe that a fault may be built into."""

    fault: str = subject.RIGHT

    @property
    def module_type(self) -> type[trainable.Trainable]:
        """The module, whose steps go wrong where the fault is in them."""
        if self.fault == subject.COLLIDING:
            return _Colliding
        return _Reversed if self.fault == subject.REVERSED else super().module_type

    def loss(self, outputs, **named):
        """The detector's loss, or what the official samples would make of it."""
        if self.fault == subject.TWICE:
            probabilities = subject.softmax(outputs["class_logits"])
            return super().loss({**outputs, "class_logits": probabilities}, **named)
        if self.fault != subject.SWAPPED:
            return super().loss(outputs, **named)
        rest = dataclasses.replace(self.losses, classes=0.0)
        found = losses.detection(
            outputs, **named, input_size=self.spec.input_size, weights=rest
        )
        wanted = named["class_targets"]
        held = tf.reduce_sum(wanted, -1)
        entropy = subject.swapped_entropy(
            subject.softmax(outputs["class_logits"]), wanted
        )
        count = tf.maximum(tf.reduce_sum(held), 1.0)
        class_loss = found["class_loss"] + tf.reduce_sum(held * entropy) / count
        return {
            "loss": class_loss + found["box_loss"],
            "class_loss": class_loss,
            "box_loss": found["box_loss"],
        }


def make(ported: vendor.Ported, seed: int) -> subject.Subject:
    """The detector, every weight of it training, with Adam.

    Args:
      ported: The vendor's.
      seed: Of the pictures.
    """
    located, found = ported.source, ported.found
    right = _Recipe(
        spec=found.spec,
        classes=pictures.CLASSES,
        trainable="all",
        settings=optimizers.Settings("adam", 1.0),
        losses=losses.LossWeights(),
        batch_size=_BATCH,
        ops="builtin",
        source={"name": located.name, "sha256": located.sha256},
    )
    weights = porting.with_classes(dict(ported.weights), right.layers)

    @functools.cache
    def model(variant: subject.Variant) -> bytes:
        recipe = dataclasses.replace(
            right,
            trainable="all" if variant.whole else "classifier",
            ops=variant.ops,
            fault=variant.fault,
        )
        return fresh.make_trainable(recipe, weights, {})[0]

    def reconvert(state: Mapping[str, np.ndarray]) -> bytes:
        learnt = {name: state.get(name, value) for name, value in weights.items()}
        return fresh.make_trainable(right, learnt, state)[0]

    def in_keras() -> reference.Reference:
        return reference.Reference(
            functools.partial(network.build, right.layers, found.spec.name),
            weights,
            right.trained,
            right.loss,
            right.rates,
        )

    random = np.random.default_rng(seed)
    batches = [_batch(found.spec, random) for _ in range(_BATCHES)]
    return subject.Subject(
        name=located.name,
        seed=seed,
        model=model,
        reconvert=reconvert,
        weights={name: weights[name] for name in right.trained},
        keras=in_keras,
        batches=batches,
        rate=_RATE,
        gentle=_GENTLE,
        fast=_RATE,
        probe={"image": batches[0]["image"][:1]},
        settings=right.settings,
    )


def _batch(
    spec: specs.DetectorSpec, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """What `train` takes, but for the rate."""
    matcher = targets.Matcher(
        anchors.PRESETS[spec.name], len(pictures.CLASSES), spec.keypoints
    )
    shown, made = [], []
    for _ in range(_BATCH):
        pixels, label = pictures.hand(random, spec.input_size)
        placing = geometry.letterbox(spec.input_size, spec.input_size, _SHARE)
        square = images.place(pixels, placing, spec.input_size)
        shown.append(images.to_input(square, spec.input_range))
        made.append(matcher.targets([label.mapped(placing)]))
    return {
        "image": np.stack(shown),
        "class_targets": np.stack([each.class_targets for each in made]),
        "box_targets": np.stack([each.box_targets for each in made]),
        "anchor_weights": np.stack([each.anchor_weights for each in made]),
        "sample_weights": np.ones(_BATCH, np.float32),
    }
