"""Tests of features that are computed once, and of training on them."""

from __future__ import annotations

import dataclasses
import errno
import logging as standard_logging
from unittest import mock

import numpy as np
import pytest

from ondevice.device import data, kept, phases, runs, session, training
from tests import small_data

SETTINGS = runs.Settings(
    epochs=4, learning_rate=1e-3, seed=3, frame=(0.5, 0.9), variants=2
)


@pytest.fixture(scope="module", name="model")
def _model(tiny_model):
    """A file whose trunk is frozen."""
    return tiny_model("momentum")


@pytest.fixture(name="opened")
def _opened(model):
    with session.Session(model, "ai_edge_litert", 1) as opened:
        yield opened


@pytest.fixture(scope="module", name="sets")
def _sets(tmp_path_factory):
    root = small_data.annotated(tmp_path_factory.mktemp("data") / "hands", 10)
    found = data.load(root, ("a", "b"))
    return (
        dataclasses.replace(found, samples=found.samples[:7]),
        dataclasses.replace(found, samples=found.samples[7:]),
    )


@pytest.fixture(autouse=True)
def unplotted():
    with mock.patch.object(training.plot.Plot, "offer", return_value=True):
        yield


class Images:
    """Makes images, and counts them."""

    def __init__(self, opened: session.Session) -> None:
        side = opened.manifest.input_size
        random = np.random.default_rng(0)
        self.images = random.random((3, side, side, 3), np.float32)
        self.made = 0

    def __getitem__(self, index):
        def make():
            self.made += 1
            return self.images[index]

        return make


def equal(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, second[name])


class TestKept:
    def test_gives_what_the_session_gives_and_computes_it_once(self, opened, tmp_path):
        cache, images = kept.Kept(opened.features_of, tmp_path), Images(opened)
        for _ in range(3):
            for index in range(3):
                found = cache((0, index), images[index])
                expected = opened.features(images.images[index][np.newaxis])
                rounded = {n: a[0].astype(np.float16) for n, a in expected.items()}
                equal(found, {n: a.astype(np.float32) for n, a in rounded.items()})
        assert images.made == 3
        assert not list(tmp_path.iterdir())

    def test_variants_are_told_apart(self, opened, tmp_path):
        cache, images = kept.Kept(opened.features_of, tmp_path), Images(opened)
        first = cache((0, 0), images[0])
        second = cache((1, 0), images[1])
        assert any((first[name] != second[name]).any() for name in first)
        equal(cache((0, 0), images[2]), first)

    def test_what_does_not_fit_is_computed_again(self, opened, tmp_path):
        probe, images = kept.Kept(opened.features_of, tmp_path), Images(opened)
        probe((0, 0), images[0])
        bound = 2 * probe.bytes
        cache, images = kept.Kept(opened.features_of, tmp_path, bound), Images(opened)
        for _ in range(2):
            found = [cache((0, i), images[i]) for i in range(3)]
        assert cache.bytes == bound and images.made == 4
        equal(found[2], probe((9, 9), images[2]))

    def test_a_full_disk_costs_no_run(self, opened, tmp_path, caplog):
        cache, images = kept.Kept(opened.features_of, tmp_path), Images(opened)
        before = cache((0, 0), images[0])
        full = OSError(errno.ENOSPC, "No space left on device")
        with (
            mock.patch.object(cache, "_file", mock.Mock(**{"write.side_effect": full})),
            caplog.at_level(standard_logging.WARNING, logger="absl"),
        ):
            equal(cache((0, 1), images[0]), before)
            equal(cache((0, 2), images[0]), before)
        assert caplog.text.count("No space left") == 1 and images.made == 3
        equal(cache((0, 0), images[1]), before)


class TestTraining:
    def begin(self, model, sets, directory, settings=SETTINGS):
        directory.mkdir(exist_ok=True)
        opened = session.Session(model, "ai_edge_litert", 1)
        resumed = None
        if (directory / training.LATEST).exists():
            resumed = runs.resumption(opened.restore(directory / training.LATEST))
        return training.Training(opened, *sets, directory, settings, None, resumed)

    def test_the_trunk_sees_each_variant_once(self, model, sets, tmp_path):
        run = self.begin(model, sets, tmp_path)
        with mock.patch.object(
            session.Session, "features", autospec=True, wraps=None,
            side_effect=session.Session.features,
        ) as computed:  # fmt: skip
            state = run.run()
        assert computed.call_count == 2 * len(sets[0].samples)
        assert state.epoch == 4 and state.steps == 4 * run.epoch_steps

    def test_equals_training_on_the_images(self, model, sets, tmp_path):
        """The same placings through `train`: up to float16's rounding the same."""
        run = self.begin(model, sets, tmp_path / "features")
        run.run()
        on_images = phases.Phase("train", 0, SETTINGS.epochs, phases.FEATURES_RATE)
        with mock.patch.object(phases, "plan", return_value=(on_images,)):
            other = self.begin(model, sets, tmp_path / "images")
        whole = other._batches
        whole._augmentation = run._batches._augmentation
        other.run()
        state = run._session.state()
        start = session.Session(model, "ai_edge_litert", 1).state()
        found = other._session.state()
        names = [name for name in found if name != "step"]
        change = np.concatenate([(found[n] - start[n]).ravel() for n in names])
        error = np.concatenate([(found[n] - state[n]).ravel() for n in names])
        assert 0 < np.linalg.norm(error) < 2e-2 * np.linalg.norm(change)

    def test_a_resumed_run_is_the_same(self, model, sets, tmp_path):
        self.begin(model, sets, tmp_path / "whole").run()
        part = self.begin(model, sets, tmp_path / "part")

        def stop(items, what, total):
            for place, item in enumerate(items):
                if what.startswith("epoch 3") and place == 2:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            part.run(stop)
        self.begin(model, sets, tmp_path / "part").run()
        for name in (training.LATEST, training.BEST, training.METRICS):
            whole, parts = (tmp_path / run / name for run in ("whole", "part"))
            assert whole.read_bytes() == parts.read_bytes(), name
