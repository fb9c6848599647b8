"""Builds of the tiny detector that several tests share, made once a process."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from checkpoints import manifest as manifests
from ondevice import fresh
from ondevice.device import trial
from signatures import optimizers
from tests import tiny_detector

CLASSES = ("fist", "open")


def made(recipe: fresh.Recipe, weights: Mapping[str, np.ndarray]) -> fresh.Files:
    """A build's files, on record as a build's are, so that no command tries them."""
    files = fresh.make(recipe, weights)
    trial.record(files.model, files.inference)
    return files


def heads_recipe() -> fresh.Recipe:
    """Two classes on a frozen trunk, Adam with clipping: two slots a weight."""
    return tiny_detector.recipe(
        classes=CLASSES,
        trainable="heads",
        settings=optimizers.Settings("adam", 1.0),
    )


@functools.cache
def heads() -> fresh.Files:
    """The files of `heads_recipe`."""
    with tiny_detector.known():
        return made(heads_recipe(), tiny_detector.weights(1, len(CLASSES)))


@functools.cache
def whole() -> fresh.Files:
    """One class, every weight trains, momentum."""
    recipe = tiny_detector.recipe(settings=optimizers.Settings("momentum", 0.0))
    with tiny_detector.known():
        return made(recipe, tiny_detector.weights(2))


def new_classes_recipe() -> fresh.Recipe:
    """Two classes, every weight trains, Adam with clipping."""
    return tiny_detector.recipe(
        classes=CLASSES, settings=optimizers.Settings("adam", 1.0)
    )


@functools.cache
def new_classes() -> fresh.Files:
    """The files of `new_classes_recipe`."""
    with tiny_detector.known():
        return made(new_classes_recipe(), tiny_detector.weights(4, len(CLASSES)))


@functools.cache
def select(ops: str = "select") -> fresh.Files:
    """One class, heads alone, Adam, under --ops=select; or the same otherwise."""
    recipe = tiny_detector.recipe(
        trainable="heads", settings=optimizers.Settings("adam", 1.0), ops=ops
    )
    with tiny_detector.known():
        return made(recipe, tiny_detector.weights(3))


def batch(manifest: manifests.Manifest, seed: int = 0) -> dict[str, np.ndarray]:
    """What `train` takes but for the learning rate."""
    random = np.random.default_rng(seed)
    arrays = {
        spec.name: random.random(spec.shape, np.float32)
        for spec in manifest.signature("evaluate").inputs
    }
    arrays["class_targets"] = (arrays["class_targets"] < 0.05).astype(np.float32)
    arrays["box_targets"] = 32 * arrays["box_targets"] - 16
    return arrays
