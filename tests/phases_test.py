"""Tests of the phases of a run: class heads alone at first, then all that trains."""

from __future__ import annotations

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest

from checkpoints import store
from ondevice.device import data, phases, runs, session, training
from tests import small_data, tiny_builds

SETTINGS = runs.Settings(
    epochs=4, head_epochs=2, learning_rate=1e-3, seed=2, frame=(0.5, 0.9), variants=2
)
PICTURES = 7


@pytest.fixture(scope="module", name="sets")
def _sets(tmp_path_factory):
    root = small_data.annotated(
        tmp_path_factory.mktemp("data") / "hands", 10, names=tiny_builds.CLASSES
    )
    found = data.load(root, tiny_builds.CLASSES)
    return (
        dataclasses.replace(found, samples=found.samples[:PICTURES]),
        dataclasses.replace(found, samples=found.samples[PICTURES:]),
    )


@pytest.fixture(scope="module", autouse=True)
def unplotted():
    with mock.patch.object(training.plot.Plot, "offer", return_value=True):
        yield


@pytest.fixture(scope="module", name="begin")
def _begin(sets):
    """Makes a run in a directory, from its checkpoint where there is one."""
    opened = []

    def begin(directory, settings=SETTINGS):
        directory.mkdir(exist_ok=True)
        files = tiny_builds.new_classes()
        opened.append(session.Session(files.model, "ai_edge_litert", 1))
        resumed = None
        if (directory / training.LATEST).exists():
            resumed = runs.resumption(opened[-1].restore(directory / training.LATEST))
        return training.Training(
            opened[-1], *sets, directory, settings, None, resumed
        )

    yield begin
    for each in opened:
        each.close()


@pytest.fixture(scope="module", name="whole")
def _whole(begin, tmp_path_factory):
    """A run that was never stopped; not to be written to."""
    directory = tmp_path_factory.mktemp("whole")
    begin(directory).run()
    return directory


def weights(directory):
    tensors, _ = store.load_file(directory / training.LATEST)
    return tensors


def lines(directory, kind):
    found = map(json.loads, (directory / training.METRICS).read_text().splitlines())
    return [line for line in found if line["kind"] == kind]


class TestPlan:
    def kinds(self, keys, epochs=5, head_epochs=2):
        planned = phases.plan(keys, epochs, head_epochs)
        return [(phase.key, phase.first, phase.last) for phase in planned]

    def test_class_heads_first(self):
        keys = ("train", "features", "train_classes")
        assert self.kinds(keys) == [("train_classes", 0, 2), ("train", 2, 5)]
        assert self.kinds(keys, head_epochs=0) == [("train", 0, 5)]
        assert self.kinds(keys, epochs=2) == [("train_classes", 0, 2)]
        assert self.kinds(keys, epochs=1) == [("train_classes", 0, 1)]

    def test_where_there_is_nothing_to_train_first(self):
        assert self.kinds(("train", "infer")) == [("train", 0, 5)]
        keys = ("train", "features", "train_features")
        assert self.kinds(keys) == [("train_features", 0, 5)]


class TestTraining:
    def test_class_heads_alone_then_all(self, begin, whole, tmp_path):
        names = set(tiny_builds.new_classes_recipe().trained)
        class_weights = set(tiny_builds.new_classes_recipe().class_weights)
        heads = dataclasses.replace(SETTINGS, epochs=2)
        with mock.patch.object(
            session.Session, "features", autospec=True,
            side_effect=session.Session.features,
        ) as computed:  # fmt: skip
            begin(tmp_path / "heads", heads).run()
        assert computed.call_count == 2 * PICTURES  # Once for each place.
        with session.Session(tiny_builds.new_classes().model) as opened:
            start = opened.state()
        half, end = weights(tmp_path / "heads"), weights(whole)
        moved = {n for n in names if not np.array_equal(half[n], start[n])}
        assert moved == class_weights
        later = {n for n in names if not np.array_equal(end[n], half[n])}
        assert later == names

    def test_the_optimizer_begins_anew(self, begin, whole, tmp_path):
        _, header = store.load_file(whole / training.LATEST)
        run = runs.resumption(header)
        assert run.state.steps == 4 * 4 and header.step == 2 * 4

    def test_each_phase_has_its_schedule(self, whole):
        found = lines(whole, "step")
        rates = {line["step"]: line["learning_rate"] for line in found}
        assert rates[1] == pytest.approx(4e-3 / 4)  # The first of four to warm up.
        # The second of four to warm up, and of eight that fall.
        assert rates[10] == pytest.approx(1e-3 * 2 / 4 * 0.951, rel=1e-3)

    def test_a_phase_is_judged_by_its_own_epochs(self, whole):
        best = [line["best"] for line in lines(whole, "epoch")]
        assert best[0] and best[2]
        _, header = store.load_file(whole / training.BEST)
        assert header.epoch > 2

    @pytest.mark.parametrize("stopped", [(2, 1), (2, 4), (3, 1), (3, 3)])
    def test_a_resumed_run_is_the_same(self, begin, whole, tmp_path, stopped):
        def stop(items, what, total):
            for place, item in enumerate(items, 1):
                if what.startswith(f"epoch {stopped[0]}/") and place == stopped[1]:
                    raise KeyboardInterrupt
                yield item

        with pytest.raises(KeyboardInterrupt):
            begin(tmp_path).run(stop)
        begin(tmp_path).run()
        for name in (training.LATEST, training.BEST, training.METRICS):
            assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name

    def test_more_epochs_go_on_as_if_asked_for_at_once(self, begin, whole, tmp_path):
        constant = dataclasses.replace(SETTINGS, schedule="constant")
        begin(tmp_path / "once", constant).run()
        for epochs in (1, 2, 4):
            settings = dataclasses.replace(constant, epochs=epochs)
            begin(tmp_path / "thrice", settings).run()
        once, thrice = weights(tmp_path / "once"), weights(tmp_path / "thrice")
        for name, value in once.items():
            np.testing.assert_array_equal(thrice[name], value, err_msg=name)

    def test_patience_waits_for_all_that_trains(self):
        settings = dataclasses.replace(SETTINGS, epochs=9, head_epochs=5, patience=2)
        state = runs.State(epoch=5, best={"epoch": 1})
        assert runs.ended(settings, state) is None
        state = runs.State(epoch=8, best={"epoch": 6})
        assert runs.ended(settings, state) == runs.PATIENCE
