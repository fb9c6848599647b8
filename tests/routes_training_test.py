"""Tests of docs/routes/training.py: the same steps on three routes."""

from __future__ import annotations

import numpy as np
import pytest

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from docs.routes import converting, training
from ondevice import fresh
from ondevice.rebuild import state_dicts, topology
from signatures import optimizers
from tests import tiny_detector

CLASSES = ("a", "b", "c")
RATE = 1e-2


@pytest.fixture(name="known", autouse=True)
def _known():
    with tiny_detector.known():
        yield


def _job(trainable):
    return training.Job(
        spec="palm_tiny",
        classes=CLASSES,
        trainable=trainable,
        data="",
        vendor="",
        epochs=1,
        places=1,
        rate=RATE,
    )


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """A job of which the class heads train, and the start of every route."""
    folder = tmp_path_factory.mktemp("job")
    with tiny_detector.known():
        job = _job("classifier")
        random = np.random.default_rng(0)
        weights = {
            name: (random.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5)
            for name, shape in topology.variables(job.layers).items()
        }
        weights = {name: value.astype(np.float32) for name, value in weights.items()}
        state = state_dicts.of_weights(job.spec, job.layers, weights)
        (folder / "start.pth").write_bytes(state_dicts.dump(state))
        recipe = tiny_detector.recipe(
            classes=CLASSES,
            trainable="classifier",
            heads=manifests.PLAIN,
            batch_size=training.BATCH,
            settings=optimizers.Settings("adam", 1.0),
        )
        fresh.make(recipe, weights).write(folder / "start", True)
    return folder


def _targets(random):
    anchors = tiny_detector.SPEC.anchors
    held = random.random((training.BATCH, anchors)) < 0.1
    chosen = random.integers(0, len(CLASSES), held.shape)
    boxes = random.standard_normal((training.BATCH, anchors, 18))
    return {
        "class_targets": np.eye(len(CLASSES), dtype="f4")[chosen] * held[..., None],
        "box_targets": boxes.astype(np.float32),
        "anchor_weights": np.ones(held.shape, np.float32),
        "sample_weights": np.ones(training.BATCH, np.float32),
    }


def _losses(route, folder, job, images, targets):
    """What four steps on the same pictures lose, and the names of what they read."""
    trainer = training.ROUTES[route](job, folder)
    if job.features:
        each = [trainer.features_of(image) for image in images]
        read = {name: np.stack([one[name] for one in each]) for name in each[0]}
    else:
        read = {"image": images}
    found = [trainer.step({**read, **targets}, RATE) for _ in range(4)]
    trainer.save()
    return found


def test_three_routes_take_the_same_steps(folder):
    random = np.random.default_rng(1)
    images = random.random((training.BATCH, 32, 32, 3), np.float32)
    targets, job = _targets(random), _job("classifier")
    found = {
        route: _losses(route, folder, job, images, targets)
        for route in training.ROUTES
    }
    first, last = found["tflite"][0], found["tflite"][-1]
    assert last < 0.98 * first
    for losses in found.values():
        np.testing.assert_allclose(losses, found["tflite"], rtol=1e-5)
    learnt = _learnt(folder, job)
    before = training.start(job, folder)
    assert learnt["pytorch"].keys() == learnt["tensorflow"].keys() == before.keys()
    for name, value in before.items():
        ours, theirs = learnt["pytorch"][name], learnt["tensorflow"][name]
        if name in job.trained:
            moved = np.abs(ours - value).max()
            assert moved > RATE
            assert np.abs(ours - theirs).max() < 0.05 * moved
        else:
            np.testing.assert_array_equal(ours, value)
            np.testing.assert_array_equal(theirs, value)


def _learnt(folder, job):
    path = folder / training.STATE_DICT
    state = state_dicts.load(path.read_bytes(), str(path))
    with np.load(folder / training.WEIGHTS) as stored:
        return {
            "pytorch": state_dicts.to_weights(job.spec, job.layers, state),
            "tensorflow": dict(stored),
        }


def test_where_all_of_it_trains_steps_read_images(folder):
    random = np.random.default_rng(2)
    images = random.random((training.BATCH, 32, 32, 3), np.float32)
    targets, job = _targets(random), _job("all")
    assert not job.features
    found = [
        _losses(route, folder, job, images, targets)
        for route in ("pytorch", "tensorflow")
    ]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_plain_heads_add_no_operator_to_the_vendors(folder):
    vendor = tflite_file.parse(tiny_detector.vendor_file())
    file = tflite_file.read(folder / "start" / "inference.tflite")
    found = converting.census(file, vendor)
    assert found["more"] == found["fewer"] == {}
    assert found["transposes"] == 0
