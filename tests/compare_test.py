"""Tests of ondevice/verification: what holds, what does not, by hand."""

import math

import numpy as np
import pytest

from ondevice.verification import check, compare, reference


def _runs(single, double, initial):
    """Reference runs of one variable `w` after one step and after two."""
    states = [
        {"w": np.array(value, np.float32)} for value in (initial, single, single)
    ]
    wide = [{"w": np.array(value, np.float64)} for value in (initial, double, double)]
    losses = np.array([1.0, 0.5])
    return compare.Runs(
        reference.Trajectory(0.1, losses, dict(enumerate(states))),
        reference.Trajectory(0.1, losses, dict(enumerate(wide))),
    )


def test_parity_is_relative_to_the_largest_output():
    assert compare.parity(np.array([1.0, -4.0]), np.array([1.5, -5.0])) == 0.2


def test_parity_of_other_shapes_is_no_number():
    assert math.isnan(compare.parity(np.zeros(3), np.zeros((3, 1))))


def test_a_step_is_measured_in_bounds():
    # The change is 1, so the bound 1e-4, and two units in the last place of 2.
    runs = _runs([2.0, 1.0], [2.0, 1.0], [1.0, 1.0])
    got = {"w": np.array([2.0 + 3e-4, 1.0], np.float32)}
    errors, compared = compare.first_step_errors(got, runs, "sgd")
    ulp = float(np.spacing(np.float32(2.0)))
    assert compared == 1.0
    assert errors["w"] == pytest.approx(3e-4 / (1e-4 + 2 * ulp), rel=1e-3)


@pytest.mark.parametrize("got", [{}, {"w": np.zeros(3, np.float32)}])
def test_a_variable_that_is_missing_or_misshapen_fails(got):
    runs = _runs([2.0, 1.0], [2.0, 1.0], [1.0, 1.0])
    assert math.isnan(compare.first_step_errors(got, runs, "sgd")[0]["w"])
    assert math.isnan(compare.long_run_errors(got, runs, 2)["w"])


def test_a_long_run_allows_ten_times_what_float32_loses():
    runs = _runs([2.0, 1.0], [2.01, 1.0], [1.0, 1.0])
    near = {"w": np.array([2.09, 1.0], np.float32)}
    far = {"w": np.array([2.2, 1.0], np.float32)}
    assert compare.long_run_errors(near, runs, 2)["w"] < 1
    assert compare.long_run_errors(far, runs, 2)["w"] > 1


def test_adams_weights_are_compared_above_the_noise_alone():
    def run(dtype, gradient, weight):
        state = {
            "w": np.array(weight, dtype),
            "w/m": np.array(gradient, dtype),
            "w/v": np.array(np.square(gradient), dtype),
        }
        first = {name: np.zeros(2, dtype) for name in state}
        return reference.Trajectory(0.1, np.ones(1), {0: first, 1: state})

    # The second gradient is noise of 1e-7: its sign, and Adam's step, are anyone's.
    runs = compare.Runs(
        run(np.float32, [1.0, 1e-7], [-0.1, -0.1]),
        run(np.float64, [1.0, -1e-7], [-0.1, 0.1]),
    )
    got = {
        "w": np.array([-0.1, 0.1], np.float32),
        "w/m": np.array([1.0, -1e-7], np.float32),
        "w/v": np.array([1.0, 1e-14], np.float32),
    }
    errors, compared = compare.first_step_errors(got, runs, "adam")
    assert max(errors.values()) <= 1.0
    assert compared == pytest.approx(5 / 6)
    got["w"][0] = -0.11
    assert compare.first_step_errors(got, runs, "adam")[0]["w"] > 1


@pytest.mark.parametrize(
    "figure, holds", [(0.0, True), (1.0, True), (1.01, False), (math.nan, False)]
)
def test_a_check_holds_up_to_its_bound(figure, holds):
    found = check.Check("train", "name", "", figure, 1.0)
    assert found.holds is holds
    assert found.as_json()["holds"] is holds
    if math.isnan(figure):
        assert found.as_json()["figure"] is None
