"""What came out of the runtimes against what must: the lines of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from ondevice.verification import check
from ondevice.verification.reference import Trajectory

Arrays = Mapping[str, np.ndarray]

# Where the root mean square gradient of a weight is below this share of its variable's
# largest, its sign is rounding noise, of which Adam makes a whole step.
NOISE_SHARE = 1e-2


def parity(got: np.ndarray, expected: np.ndarray) -> float:
    """max|got - expected| / max|expected|; not a number where a shape differs."""
    if got.shape != expected.shape:
        return float("nan")
    difference = np.abs(got.astype(np.float64) - expected)
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def rebuilt(
    outputs: Mapping[str, Arrays], vendor: Arrays, places: Mapping[str, int], runtime: str
) -> list[check.Check]:
    """The Keras model against the vendor's file.

    Args:
      outputs: Kind of probe -> output layer -> [n, ...], of the Keras model.
      vendor: `vendor/<kind>/<place>` -> [n, ...], of the vendor's file.
      places: Output layer -> its place among the vendor's outputs.
      runtime: That ran the vendor's file.
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


def variable_errors(
    got: Arrays, trajectory: Trajectory, step: int, optimizer: str
) -> dict[str, float]:
    """The error of every variable after `step` steps, as a share of its bound.

    Args:
      got: Variable -> value in the file.
      trajectory: The reference.
      step: A key of its states.
      optimizer: Its name.

    Returns:
      Variable -> max of error / (1e-4 of the largest change + 2 units in the last place).
      Adam's weights are compared where the gradient stands above rounding noise.
    """
    expected, initial = trajectory.states[step], trajectory.states[0]
    errors = {}
    for name, value in expected.items():
        if name not in got or got[name].shape != value.shape:
            errors[name] = float("nan")
            continue
        wide = value.astype(np.float64)
        change = np.abs(wide - initial[name]).max()
        bound = 1e-4 * change + 2.0 * np.spacing(np.abs(value)).astype(np.float64)
        error = np.abs(got[name].astype(np.float64) - wide) / bound
        if optimizer.startswith("adam") and f"{name}/v" in expected:
            size = np.sqrt(expected[f"{name}/v"])
            error = error[size >= NOISE_SHARE * max(float(size.max()), 1e-30)]
        errors[name] = float(error.max(initial=0.0))
    return errors


def state(arrays: Arrays, step: int) -> dict[str, np.ndarray]:
    """The variables that a runtime had after `step` steps."""
    prefix = f"state/{step}/"
    return {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}


def training(
    arrays: Arrays,
    facts: Mapping[str, Any],
    trajectory: Trajectory,
    manifest: manifests.Manifest,
    runtime: str,
) -> list[check.Check]:
    """Steps against `tf.GradientTape` and Keras' optimizer; the loss's own slope."""
    checks = []
    optimizer = manifest.optimizer["name"]
    for step in sorted(trajectory.states.keys() - {0}):
        errors = variable_errors(state(arrays, step), trajectory, step, optimizer)
        worst = max(errors, key=lambda n: (np.isnan(errors[n]), errors[n]))
        checks.append(
            check.Check(
                "train",
                f"{step} steps against tf.GradientTape, {len(errors)} variables, "
                "error over bound",
                runtime,
                errors[worst],
                check.TRAINING,
                f"worst: {worst}",
            )
        )
        if step == 1 and any(n.startswith("train_features/") for n in arrays):
            cached = {
                n.removeprefix("train_features/"): v
                for n, v in arrays.items()
                if n.startswith("train_features/")
            }
            errors = variable_errors(cached, trajectory, 1, optimizer)
            checks.append(
                check.Check(
                    "train",
                    "1 step on cached features against tf.GradientTape, error over bound",
                    runtime,
                    max(errors.values()),
                    check.TRAINING,
                )
            )
    relative = np.abs(arrays["losses"] / trajectory.losses - 1)
    checks.append(
        check.Check(
            "train",
            f"loss before each of {len(relative)} steps, relative",
            runtime,
            float(relative.max()),
            1e-4,
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
                len(facts["patched_state_differs"]) + len(facts["patched_infer_differs"])
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
