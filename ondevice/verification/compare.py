"""What came out of the runtimes against what must: the lines of the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from ondevice.verification import check, inputs
from ondevice.verification.reference import Trajectory

Arrays = Mapping[str, np.ndarray]

# Adam divides the gradient by its size, and so its error too: weights are compared
# where the gradient is this many times its rounding error (float32 against float64) or
# more.
ABOVE_NOISE = 3e4

# Over many steps rounding errors grow, in TensorFlow's float32 as in ours; ours may be
# this many times TensorFlow's own distance from its float64 beyond the bound.
GROWTH = 10.0


@dataclasses.dataclass(frozen=True)
class Runs:
    """The reference in both precisions."""

    single: Trajectory
    double: Trajectory


def parity(got: np.ndarray, expected: np.ndarray) -> float:
    """max|got - expected| / max|expected|; not a number where a shape differs."""
    if got.shape != expected.shape:
        return float("nan")
    difference = np.abs(got.astype(np.float64) - expected)
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def rebuilt(
    outputs: Mapping[str, Arrays],
    vendor: Arrays,
    places: Mapping[str, int],
    runtime: str,
) -> list[check.Check]:
    """The Keras model against the vendor's file.

    Args:
      outputs: Kind of probe -> output layer -> [n, ...], of the Keras model.
      vendor: `vendor/<kind>/<place>` -> [n, ...], of the vendor's file.
      places: Output layer -> its place among the vendor's outputs.
      runtime: That ran the vendor's file.

    Returns:
      A check for each output on each kind, but for the framed ones: in a large black
      area every cell makes the same rounding errors, and there the vendor's file is
      further from itself between two sets of kernels than the bound. The files that
      are converted run on the vendor's kernels, and keep the bound there too.
    """
    return [
        check.Check(
            "rebuild",
            f"Keras model against the vendor's file, {name}, {kind}",
            runtime,
            parity(got[name], vendor[f"vendor/{kind}/{place}"]),
            check.PARITY,
        )
        for kind, got in outputs.items()
        if kind != inputs.FRAMED
        for name, place in places.items()
    ]


def fresh(
    arrays: Arrays, kinds: list[str], places: Mapping[str, int], runtime: str
) -> list[check.Check]:
    """The trainable file and the frozen one against the vendor's.

    With several classes the best class's logit is compared with the palm's.
    """
    checks = []
    for kind in kinds:
        for name, layer, index in (
            ("regressors", "regressors", 0),
            ("classificators", "scores", 1),
        ):
            expected = arrays[f"vendor/{kind}/{places[layer]}"]
            for file, value in (
                ("model.tflite", arrays[f"infer/{kind}/{name}"]),
                ("inference.tflite", arrays[f"inference/{kind}/{index}"]),
            ):
                if layer == "scores":
                    value = value.max(-1, keepdims=True)
                checks.append(
                    check.Check(
                        "convert",
                        f"{file} against the vendor's file, {name}, {kind}",
                        runtime,
                        parity(value, expected),
                        check.PARITY,
                    )
                )
    return checks


def orders(facts: Mapping[str, Any], runtime: str) -> check.Check:
    """Every signature first, every order of two."""
    found = facts["orders"]
    return check.Check(
        "convert",
        f"{found['combinations']} orders of signatures, wrong or failed",
        runtime,
        float(len(found["faults"])),
        check.NONE,
        "; ".join(found["faults"][:3]),
    )


def state(arrays: Arrays, step: int) -> dict[str, np.ndarray]:
    """The variables that a runtime had after `step` steps."""
    prefix = f"state/{step}/"
    kept = {n: v for n, v in arrays.items() if n.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in kept.items()}


def first_step_errors(
    got: Arrays, runs: Runs, optimizer: str
) -> tuple[dict[str, float], float]:
    """The error of every variable after one step, as a share of its bound.

    Args:
      got: Variable -> value in the file.
      runs: The reference.
      optimizer: Its name.

    Returns:
      Variable -> max of |got - float32 reference| / (1e-4 of its largest change + 2
      units in the last place); and the share of elements that were compared, which is
      less than 1 for Adam's weights alone.
    """
    expected, initial = runs.single.states[1], runs.single.states[0]
    errors, compared = {}, []
    for name, value in expected.items():
        if name not in got or got[name].shape != value.shape:
            errors[name] = float("nan")
            continue
        error = np.abs(got[name].astype(np.float64) - value)
        error /= _bound(value, initial[name])
        keep = np.ones(value.shape, bool)
        if optimizer.startswith("adam") and f"{name}/m" in expected:
            gradient = runs.double.states[1][f"{name}/m"]
            noise = np.abs(gradient - expected[f"{name}/m"]).max()
            keep = np.abs(gradient) >= ABOVE_NOISE * noise
        compared.append(keep)
        errors[name] = float(error[keep].max(initial=0.0))
    kept = np.concatenate([np.zeros(0, bool), *(keep.ravel() for keep in compared)])
    return errors, float(kept.mean()) if kept.size else 0.0


def long_run_errors(got: Arrays, runs: Runs, step: int) -> dict[str, float]:
    """The error of every variable after many steps, as a share of what rounding allows.

    Returns:
      Variable -> max|got - float64 reference| / (the bound of one step + `GROWTH` times
      the float32 reference's own distance from the float64 one).
    """
    single, double = runs.single.states[step], runs.double.states[step]
    errors = {}
    for name, value in double.items():
        if name not in got or got[name].shape != value.shape:
            errors[name] = float("nan")
            continue
        own = np.abs(single[name] - value).max()
        allowed = _bound(single[name], runs.single.states[0][name]).max()
        error = np.abs(got[name] - value).max()
        errors[name] = float(error / (allowed + GROWTH * own))
    return errors


def own_errors(runs: Runs, step: int) -> float:
    """How many bounds TensorFlow's float32 is from its float64; the worst variable."""
    single, double = runs.single.states[step], runs.double.states[step]
    initial = runs.single.states[0]
    return max(
        float((np.abs(single[n] - double[n]) / _bound(single[n], initial[n])).max())
        for n in single
    )


def _bound(value: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """1e-4 of the variable's largest change plus two units in the last place."""
    change = np.abs(value.astype(np.float64) - initial).max()
    ulp = np.spacing(np.abs(value).astype(np.float32)).astype(np.float64)
    return 1e-4 * change + 2.0 * ulp


def _worst(errors: Mapping[str, float]) -> str:
    return max(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))


def training(
    arrays: Arrays,
    facts: Mapping[str, Any],
    runs: Runs,
    manifest: manifests.Manifest,
    runtime: str,
) -> list[check.Check]:
    """Steps against `tf.GradientTape` and Keras' optimizer; the loss's own slope."""
    optimizer = manifest.optimizer["name"]
    steps = max(runs.single.states)
    checks = []
    firsts = {"": state(arrays, 1)}
    prefix = "train_features/"
    cached = {n.removeprefix(prefix): v for n, v in arrays.items() if prefix in n}
    if cached:
        firsts[" on cached features"] = cached
    for kind, got in firsts.items():
        errors, compared = first_step_errors(got, runs, optimizer)
        worst = _worst(errors)
        checks.append(
            check.Check(
                "train",
                f"one step{kind} against tf.GradientTape, error over bound",
                runtime,
                errors[worst],
                check.TRAINING,
                f"{len(errors)} variables, worst {worst}; {compared:.1%} of the "
                "elements stand above rounding noise and were compared",
            )
        )
    errors = long_run_errors(state(arrays, steps), runs, steps)
    worst = _worst(errors)
    checks.append(
        check.Check(
            "train",
            f"{steps} steps against tf.GradientTape in float64, error over what "
            "rounding allows",
            runtime,
            errors[worst],
            check.TRAINING,
            f"worst {worst}; TensorFlow's own float32 is {own_errors(runs, steps):.3g} "
            "times one step's bound away",
        )
    )
    exact, single = runs.double.losses, runs.single.losses
    # Now and then two runs that have drifted apart cross: the drift so far counts.
    own = np.maximum.accumulate(np.abs(single - exact))
    allowed = 1e-4 * np.abs(exact) + GROWTH * own
    error = np.abs(arrays["losses"] - exact) / allowed
    checks.append(
        check.Check(
            "train",
            f"loss before each of {steps} steps, error over what rounding allows",
            runtime,
            float(error.max()),
            check.TRAINING,
        )
    )
    slope = facts["slope"] / max(float(arrays["norms"][0]), 1e-30)
    checks.append(
        check.Check(
            "train",
            "slope of the loss along the gradient by finite difference, relative",
            runtime,
            abs(slope - 1.0),
            check.SLOPE,
        )
    )
    return checks


def kept(
    arrays: Arrays,
    facts: Mapping[str, Any],
    manifest: manifests.Manifest,
    runtime: str,
) -> list[check.Check]:
    """Checkpoint and export."""
    count = len(manifest.variables)
    checks = [
        check.Check(
            "checkpoint",
            "tensors that restore did not take",
            runtime,
            float(abs(facts["restored"] - count)),
            check.NONE,
        ),
        check.Check(
            "checkpoint",
            "variables that differ after save, new interpreter, restore, more steps",
            runtime,
            float(len(facts["resumed_differ"])),
            check.NONE,
            ", ".join(facts["resumed_differ"][:3]),
        ),
        check.Check(
            "export",
            "variables and outputs of the patched trainable file that differ in a bit",
            runtime,
            float(
                len(facts["patched_state_differs"])
                + len(facts["patched_infer_differs"])
            ),
            check.NONE,
            ", ".join(facts["patched_state_differs"][:3]),
        ),
    ]
    for place, name in enumerate(("regressors", "classificators")):
        checks.append(
            check.Check(
                "export",
                f"patched inference.tflite against the trained interpreter, {name}",
                runtime,
                parity(
                    arrays[f"trained_inference/{place}"],
                    arrays[f"trained_infer/{name}"],
                ),
                check.PARITY,
            )
        )
    return checks
