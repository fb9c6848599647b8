"""Tests of what can be opened, and of which file draws labels by default."""

from __future__ import annotations

import dataclasses
import hashlib

import keras
import numpy as np
import pytest

from checkpoints import manifest as manifests
from checkpoints import patch, tflite_file, weights
from ondevice import convert
from ondevice.detection import anchors
from ondevice.device import detectors, exports, opening, runtimes
from ondevice.rebuild import specs
from signatures import trainable
from tests import shared_data, tiny_builds, tiny_detector


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


@pytest.mark.parametrize(
    ("name", "subject", "keypoints", "min_score"),
    [
        ("palm_detection_builtin_256_integer_quant", "palm", 7, 0.5),
        ("face_detection_short_range", "face", 6, 0.5),
        ("face_detection_front", "face", 6, 0.75),
        ("face_detection_back", "face", 6, 0.65),
        ("face_detection_full_range", "face", 6, 0.6),
    ],
)
def test_a_vendors_file_is_opened_with_what_mediapipe_asks_of_it(
    name, subject, keypoints, min_score
):
    path = shared_data.shared("models", f"{name}.tflite")
    with opening.open_detector(path, threads=1) as opened:
        assert opened.classes == (subject,)
        assert opened.detector.min_score == min_score
        size = opened.detector.spec.input_size
        regressors, logits = opened.detector.infer(np.zeros((1, size, size, 3), "f4"))
        centres = anchors.centres(opened.detector.spec)
    assert regressors.shape == (1, len(centres), 4 + 2 * keypoints)
    assert logits.shape == (1, len(centres), 1)


@pytest.mark.parametrize(
    "runtime, given, trainable, frozen",
    [
        ("ai_edge_litert", None, 3, 3),
        ("ai_edge_litert", 2, 2, 2),
        ("tflite_runtime", None, None, 3),
        ("tflite_runtime", 2, 2, 2),
    ],
)
def test_a_trainable_file_has_one_thread_where_more_are_slower(
    runtime, given, trainable, frozen, model, monkeypatch
):
    monkeypatch.setattr(opening.os, "sched_getaffinity", lambda _: {0, 1, 2})
    create, seen = runtimes.create, []

    def spy(data, runtime, threads):
        seen.append(threads)
        return create(data, runtime, threads)

    monkeypatch.setattr(runtimes, "create", spy)
    for path in (model, model.with_name(exports.TEMPLATE_NAME)):
        with opening.open_detector(path, None, runtime, given):
            pass
    assert seen == [trainable, frozen]


def test_a_build_has_the_lowest_score_of_its_vendors_file(model, monkeypatch):
    source = manifests.of_file(tflite_file.read(model)).source
    monkeypatch.setitem(specs.OTHER_SCORES, source["sha256"], 0.75)
    for name in (model.name, exports.TEMPLATE_NAME):
        with opening.open_detector(model.with_name(name)) as opened:
            assert opened.detector.min_score == 0.75


def test_a_detection_below_the_detectors_own_score_is_none():
    spec = anchors.AnchorSpec(16, (8,), 0.4, 0.4, 0.0)
    logits = np.full((1, 4, 1), -9.0, np.float32)
    logits[0, 1] = 0.5  # a score of 0.62
    regressors = np.full((1, 4, 4), 8.0, np.float32)
    detector = detectors.Detector(lambda _: (regressors, logits), spec, (0.0, 1.0))
    pixels = np.zeros((16, 16, 3), np.uint8)
    assert len(detector.detect(pixels)) == 1
    strict = dataclasses.replace(detector, min_score=0.65)
    assert strict.detect(pixels) == ()
    assert len(strict.detect(pixels, min_score=0.6)) == 1
