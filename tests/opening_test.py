"""Tests of which file draws labels where the user names none."""

from __future__ import annotations

import hashlib

import keras
import numpy as np
import pytest

from checkpoints import manifest as manifests
from checkpoints import patch, tflite_file, weights
from ondevice import convert
from ondevice.device import exports, opening
from signatures import trainable
from tests import tiny_builds, tiny_detector


@pytest.fixture(name="model")
def _model(tmp_path):
    """A fresh build's files, by the names that a build gives them."""
    files = tiny_builds.new_classes()
    path = tmp_path / "model.tflite"
    path.write_bytes(files.model)
    path.with_name(exports.TEMPLATE_NAME).write_bytes(files.inference)
    return path


def labeller(model, labels_from=None):
    """Digest of the file that draws, and whether it may have been trained."""
    with opening.open_labeller(labels_from, model, threads=1) as opened:
        return opened.detector.digest, opened.trained


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def moved(path, **values):
    """A trainable file's variables, some of them at another value."""
    file = tflite_file.read(path)
    described = manifests.of_file(file)
    state = {n: a.copy() for n, a in weights.of_trainable(file, described).items()}
    for name, value in values.items():
        state[name][...] = value
    return file, described, state


def test_the_frozen_file_beside_the_model_draws(model):
    frozen = model.with_name(exports.TEMPLATE_NAME)
    assert labeller(model) == (digest(frozen), False)


def test_it_sees_what_the_model_sees(model):
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    with opening.open_labeller(None, model) as opened:
        frozen = opened.detector.infer(image)
    with opening.open_detector(model) as opened:
        found = opened.detector.infer(image)
    for one, other in zip(found, frozen, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_without_it_the_model_draws(model):
    model.with_name(exports.TEMPLATE_NAME).unlink()
    assert labeller(model) == (digest(model), False)


def test_one_with_other_weights_does_not_draw(model):
    frozen = model.with_name(exports.TEMPLATE_NAME)
    file = tflite_file.read(frozen)
    described = manifests.of_file(file)
    _, own, state = moved(model)
    name = own.variables[0].name
    frozen.write_bytes(patch.patch_inference(file, described, {name: state[name] + 1}))
    assert labeller(model) == (digest(model), False)


def test_one_of_another_build_does_not_draw(model):
    other = tiny_builds.heads().inference
    model.with_name(exports.TEMPLATE_NAME).write_bytes(other)
    assert labeller(model) == (digest(model), False)


def test_a_model_that_was_trained_draws_itself_and_says_so(model):
    model.write_bytes(patch.patch_trainable(*moved(model, step=7)))
    assert labeller(model) == (digest(model), True)


def test_the_file_that_was_named_draws(model):
    frozen = model.with_name(exports.TEMPLATE_NAME)
    assert labeller(model, frozen) == (digest(frozen), True)
    assert labeller(model, model) == (digest(model), False)
    with pytest.raises(ValueError, match="trainable|TFL3|tflite"):
        labeller(__file__)
    with tiny_detector.known():
        assert labeller(frozen) == (digest(frozen), True)


def test_a_keras_model_is_no_detector(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    made = trainable.of_keras(model, "mean_squared_error", batch_size=2)
    convert.write(made, tmp_path)
    for name in ("model.tflite", exports.TEMPLATE_NAME):
        with pytest.raises(ValueError, match="must be a detector.*Keras model"):
            labeller(tmp_path / name)
