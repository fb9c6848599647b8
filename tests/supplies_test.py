"""Tests of what steps are fed: trunk features, by as many threads as there are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ondevice.device import data, image_cache, runs, session, supplies
from tests import small_data, tiny_builds

SETTINGS = runs.Settings(frame=(0.5, 0.9), variants=2, seed=3)
FEATURES = "feature_0"


@pytest.fixture(scope="module", name="hands")
def _hands(tmp_path_factory):
    root = small_data.annotated(
        tmp_path_factory.mktemp("data") / "hands", 9, names=tiny_builds.CLASSES
    )
    return data.load(root, tiny_builds.CLASSES)


def opened(threads):
    return session.Session(tiny_builds.new_classes().model, "ai_edge_litert", threads)


def batches(of, hands, directory):
    made = supplies.Supplies(of, directory, SETTINGS, image_cache.ImageCache())
    return made.to_train(hands, on_features=True)


def test_threads_change_no_bit(hands, tmp_path):
    with opened(1) as one, opened(4) as four:
        pairs = zip(
            batches(one, hands, tmp_path).epoch(1),
            batches(four, hands, tmp_path).epoch(1),
            strict=True,
        )
        for ours, others in pairs:
            for name in ours:
                np.testing.assert_array_equal(ours[name], others[name], err_msg=name)


def test_the_trunk_has_the_weights_of_now(hands, tmp_path):
    with opened(2) as moved:
        before = next(batches(moved, hands, tmp_path).epoch(0))[FEATURES]
        state = moved.state()
        name = next(n for n in state if n.endswith("/kernel"))
        moved.load_state({**state, name: 2 * state[name]})
        after = next(batches(moved, hands, tmp_path).epoch(0))[FEATURES]
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()


def test_a_closed_session_is_not_needed_for_features(hands, tmp_path):
    with opened(1) as closed:
        made = batches(closed, hands, tmp_path)
        closed.close()
        assert next(made.epoch(0))[FEATURES].any()


def test_places_come_again_after_so_many_epochs(hands, tmp_path):
    few = dataclasses.replace(hands, samples=hands.samples[:1])
    with opened(1) as one:
        made = batches(one, few, tmp_path)
        shown = [next(made.epoch(e))[FEATURES] for e in range(3)]
    np.testing.assert_array_equal(shown[0], shown[2])
    assert (shown[0] != shown[1]).any()
