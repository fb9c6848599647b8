"""Tests of ondevice/verification: what holds, what does not, by hand."""

import math

import numpy as np
import pytest

from ondevice.verification import check, compare


def _step(before, single, double):
    """A step of one variable `w`."""
    return compare.Step(
        {"w": np.array(before, np.float32)},
        {"w": np.array(single, np.float32)},
        {"w": np.array(double, np.float64)},
        loss=1.0,
    )


def test_parity_is_relative_to_the_largest_output():
    assert compare.parity(np.array([1.0, -4.0]), np.array([1.5, -5.0])) == 0.2


def test_parity_of_other_shapes_is_no_number():
    assert math.isnan(compare.parity(np.zeros(3), np.zeros((3, 1))))


def test_a_step_is_measured_in_bounds():
    # The change is 1, so the bound 1e-4, and two units in the last place of 2.
    step = _step([1.0, 1.0], [2.0, 1.0], [2.0, 1.0])
    got = {"w": np.array([2.0 + 3e-4, 1.0], np.float32)}
    errors, compared = compare.step_errors(got, step, "sgd")
    ulp = float(np.spacing(np.float32(2.0)))
    assert compared == 1.0
    assert errors["w"] == pytest.approx(3e-4 / (1e-4 + 2 * ulp), rel=1e-3)


@pytest.mark.parametrize("got", [{}, {"w": np.zeros(3, np.float32)}])
def test_a_variable_that_is_missing_or_misshapen_fails(got):
    step = _step([1.0, 1.0], [2.0, 1.0], [2.0, 1.0])
    assert math.isnan(compare.step_errors(got, step, "sgd")[0]["w"])


def _trained(first, after):
    """Checks of a runtime that got `first` on its batches, then `after`."""
    step = _step([1.0], [2.0], [2.0])
    arrays = {f"first/{i}/w": np.array([v], np.float32) for i, v in enumerate(first)}
    for number, value in zip((2, 4), after):
        arrays[f"after/{number}/w"] = np.array([value], np.float32)
    arrays["losses"] = np.ones(4)
    facts, along = {"slopes": [1.0, 1.1]}, {2: step, 4: step}
    checks, errors = compare.training(
        arrays, facts, [step] * 3, step, along, "sgd", "here"
    )
    return [check.holds for check in checks], errors


def test_a_kink_in_one_batch_or_step_is_chance():
    holds, errors = _trained([2.0, 2.1, 2.0], [2.1, 2.0])
    assert holds == [True] * 4
    assert errors["w"] < 1


def test_an_error_in_every_batch_or_step_is_none():
    assert _trained([2.1, 2.1, 2.1], [2.0, 2.0])[0] == [False, True, True, True]
    assert _trained([2.0, 2.0, 2.0], [2.1, 2.1])[0] == [True, False, True, True]


def test_a_variable_that_one_step_lacks_fails():
    holds, errors = _trained([2.0, 2.0], [2.0, 2.0])
    assert holds[0] is False
    assert math.isnan(errors["w"])


def test_adams_weights_are_compared_above_the_noise_alone():
    def state(dtype, gradient, weight):
        return {
            "w": np.array(weight, dtype),
            "w/m": np.array(gradient, dtype),
            "w/v": np.array(np.square(gradient), dtype),
        }

    # The second gradient is noise of 1e-7: its sign, and Adam's step, are anyone's.
    step = compare.Step(
        state(np.float32, [0.0, 0.0], [0.0, 0.0]),
        state(np.float32, [1.0, 1e-7], [-0.1, -0.1]),
        state(np.float64, [1.0, -1e-7], [-0.1, 0.1]),
        loss=1.0,
    )
    got = {
        "w": np.array([-0.1, -0.1], np.float32),
        "w/m": np.array([1.0, -1e-7], np.float32),
        "w/v": np.array([1.0, 1e-14], np.float32),
    }
    errors, compared = compare.step_errors(got, step, "adam")
    assert max(errors.values()) <= 1.0
    assert compared == pytest.approx(5 / 6)
    got["w"][0] = -0.11
    assert compare.step_errors(got, step, "adam")[0]["w"] > 1


@pytest.mark.parametrize(
    "figure, holds", [(0.0, True), (1.0, True), (1.01, False), (math.nan, False)]
)
def test_a_check_holds_up_to_its_bound(figure, holds):
    found = check.Check("train", "name", "", figure, 1.0)
    assert found.holds is holds
    assert found.as_json()["holds"] is holds
    if math.isnan(figure):
        assert found.as_json()["figure"] is None
