"""Tests of the observations, on the tiny detector: each verdict can go either way."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest

from ondevice.device import runtimes
from ondevice.observing import (
    causes,
    files,
    overview,
    palm,
    paths,
    runs,
    subject,
    workflows,
)
from signatures import trainable
from tests import tiny_detector

RUNTIME = "ai_edge_litert"


@pytest.fixture(scope="module", name="observed")
def _observed():
    with tiny_detector.known():
        made = palm.make(tiny_detector.ported(), 0)
        made.model(subject.Variant())  # While its spec is known.
        yield dataclasses.replace(made, rate=1e-3)


@pytest.fixture(scope="module", name="study")
def _study(observed, tmp_path_factory):
    """Claim d with no kernel to try: the two runs that others are held against."""
    study = causes.Causes(observed, 6, tmp_path_factory.mktemp("d"), RUNTIME)
    study._uninterrupted()
    study._properly()
    return study


def verdict(study, experiment):
    getattr(study, experiment)()
    return study.verdicts[-1]


@pytest.mark.parametrize(
    "fault, expected",
    [
        (subject.RIGHT, trainable.Trainable),
        (subject.TWICE, trainable.Trainable),
        (subject.REVERSED, palm._Reversed),
        (subject.COLLIDING, palm._Colliding),
    ],
)
def test_the_module_of_a_fault(fault, expected):
    recipe = tiny_detector.recipe()
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    assert palm._Recipe(**fields, fault=fault).module_type is expected


class TestFiles:
    def test_claims_a_to_c_hold(self, observed, tmp_path):
        found = files.observe(observed, RUNTIME, tmp_path)
        assert [each.key for each in found] == ["a", "b", "c"]
        assert all(each.holds for each in found), found

    def test_a_checkpoint_that_misses_a_slot_is_no_restored_model(
        self, observed, tmp_path
    ):
        real = runs.session.Session.restore

        def forgetful(self, path):
            real(self, path)
            state = self.state()
            name = next(iter(observed.weights))
            self.load_state({**state, name: np.zeros_like(state[name])})

        with mock.patch.object(runs.session.Session, "restore", forgetful):
            found = {v.key: v for v in files.observe(observed, RUNTIME, tmp_path)}
        assert found["a"].holds and found["b"].holds and not found["c"].holds

    def test_a_file_that_training_changes_is_seen(self, observed, tmp_path):
        real = runs.train

        def writes(running, *arguments):
            (tmp_path / f"{observed.name}.tflite").open("ab").write(b"x")
            return real(running, *arguments)

        with mock.patch.object(runs, "train", writes):
            found = {v.key: v for v in files.observe(observed, RUNTIME, tmp_path)}
        assert not found["a"].holds


class TestCauses:
    def test_restored_as_it_should_be(self, study):
        assert study.verdicts[0].key == "d.restored" and study.verdicts[0].holds
        labels = {curve.label: curve for curve in study.curves}
        assert labels["restored"].losses == labels["not stopped"].losses[6:]

    def test_a_restoration_that_loses_something_is_seen(
        self, observed, study, tmp_path
    ):
        other = causes.Causes(observed, 6, tmp_path, RUNTIME)
        other._uninterrupted()
        real = runs.session.Session.restore

        def forgetful(self, path):
            real(self, path)
            self.load_state({**self.state(), "step": np.array(0, np.int32)})

        with mock.patch.object(runs.session.Session, "restore", forgetful):
            other._properly()
        assert not other.verdicts[-1].holds

    def test_order_does_not_matter(self, study):
        assert not verdict(study, "_order").holds

    def test_names_that_collide(self, study):
        found = verdict(study, "_names")
        assert found.evidence["variables_with_another's_values"] > 10
        unique = mock.patch.object(runs, "keras_name", lambda name: name)
        with unique:
            found = verdict(study, "_names")
        assert found.evidence["variables_with_another's_values"] == 0
        assert not found.holds

    def test_a_rate_that_does_not_suit(self, study):
        assert verdict(study, "_baked").holds
        with mock.patch.object(causes, "_BAKED", (1.0,)):
            found = verdict(study, "_baked")
        assert found.evidence["share_of_the_learning_that_is_left"] == {
            "times 1": pytest.approx(1.0)
        }
        assert not found.holds


@pytest.fixture(scope="module", name="small")
def _small():
    return overview.make(0)


class TestOverview:
    def test_claims_a_to_c_hold(self, small, tmp_path):
        found = files.observe(small, RUNTIME, tmp_path)
        assert all(each.holds for each in found), found

    def test_both_workflows_end_at_one_model(self, small, tmp_path):
        model = small.model(subject.Variant())
        found = workflows.observe(small, model, RUNTIME, tmp_path)
        assert found.holds, found.evidence
        costs = found.evidence["costs"]
        assert costs["patch"]["peak_megabytes"] < costs["guide"]["peak_megabytes"]

    def test_the_official_recipe_runs_on_tensorflow_alone(self, small, tmp_path):
        found = paths.observe(small, "select", tmp_path).evidence["runtimes"]
        assert set(found) == set(runtimes.installed())
        flex = found.pop(runtimes.FLEX)
        assert flex["goes_on_bit_for_bit"]
        assert flex["losses"][-1] < flex["losses"][0]
        assert all("Flex delegate" in each["message"] for each in found.values())

    def test_causes(self, small, tmp_path):
        study = causes.Causes(small, 10, tmp_path, RUNTIME)
        for what, run in study.experiments():
            if what != "converged":
                run()
        held = {each.key: each.holds for each in study.verdicts}
        assert held.pop("d.restored") and held.pop("d.rate") and held.pop("d.frozen")
        assert held.pop("d.kernel") == ("tflite_runtime" in runtimes.installed())
        assert held.pop("d.swapped") and held.pop("d.softmax")
        assert not any(held.values()), held
        for key in ("d.swapped", "d.softmax"):
            (loss,) = (each for each in study.verdicts if each.key == key)
            small, large = loss.evidence["share_of_the_learning_that_is_left"].values()
            assert large < 0 < 0.5 < small, loss.evidence
        (names,) = (each for each in study.verdicts if each.key == "d.names")
        message = names.evidence["tf.raw_ops.Save"]
        assert "name bias" in message and "Mismatching shapes" in message
        (kernel,) = (each for each in study.verdicts if each.key == "d.kernel")
        key = "error_of_a_slot_after_3_steps_over_its_largest_number"
        errors = kernel.evidence[key]
        assert set(errors) == set(runtimes.installed())
        assert errors[RUNTIME] < 1e-5 < 0.1 < errors.get("tflite_runtime", 1.0)


def test_collided_takes_the_last_of_one_name_and_shape():
    state = {
        "a/kernel": np.zeros(2), "b/kernel": np.ones(2), "c/kernel": np.ones(3),
        "c/kernel/m": np.full(3, 2.0),
    }  # fmt: skip
    found = runs.collided(state)
    assert found["a/kernel"].tolist() == [1, 1] and found["c/kernel"].shape == (3,)
    assert found["c/kernel/m"].tolist() == [2, 2, 2]
