"""What came out of the runtimes against what must: the lines of the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from ondevice.verification import check, inputs

Arrays = Mapping[str, np.ndarray]

# Adam divides the gradient by its running size, and so its error too: weights are
# compared where that size is this many times the rounding error of the first moment, as
# float32 against float64 shows it, or more.
ABOVE_NOISE = 3e4


@dataclasses.dataclass(frozen=True)
class Step:
    """One training step of the reference, in both precisions, from one state.

    Attributes:
      before: Every variable by name.
      single: After the step in float32.
      double: After the step in float64.
      loss: Before the step, in float64.
    """

    before: Arrays
    single: Arrays
    double: Arrays
    loss: float


def parity(got: np.ndarray, expected: np.ndarray) -> float:
    """max|got - expected| / max|expected|; not a number where a shape differs."""
    if got.shape != expected.shape:
        return float("nan")
    difference = np.abs(got.astype(np.float64) - expected)
    return float(difference.max() / max(np.abs(expected).max(), 1e-30))


def rebuilt(
    outputs: Mapping[str, Arrays], vendor: Mapping[str, Arrays], runtime: str
) -> list[check.Check]:
    """The Keras model against the vendor's file.

    Args:
      outputs: Kind of probe -> output layer -> [n, ...], of the Keras model.
      vendor: The same of the vendor's file.
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
            parity(got[name], expected),
            check.PARITY,
        )
        for kind, got in outputs.items()
        if kind != inputs.FRAMED
        for name, expected in vendor[kind].items()
    ]


def layer_by_layer(
    unlike: Mapping[str, float],
    outputs: Mapping[str, Arrays],
    vendor: Mapping[str, Arrays],
    runtime: str,
) -> check.Check:
    """The Keras model against a vendor's file that rounds its activations.

    Args:
      unlike: Layer -> 1 - correlation, each from what the file's operator read.
      outputs: Kind of probe -> output layer -> [n, ...], of the Keras model.
      vendor: The same of the vendor's file.
      runtime: That ran the vendor's file.

    Returns:
      The check of the worst layer. Its note tells what rounding makes of the whole.
    """
    worst = max(unlike, key=lambda name: (np.isnan(unlike[name]), unlike[name]))
    whole = [
        f"{name} {np.corrcoef(got[name].ravel(), expected.ravel())[0, 1]:.5f}"
        for kind, got in outputs.items()
        if kind == inputs.PHOTOGRAPHS
        for name, expected in vendor[kind].items()
    ]
    return check.Check(
        "rebuild",
        f"{len(unlike)} layers of the Keras model against the vendor's file, which "
        "rounds its activations, from what it read, 1 - correlation",
        runtime,
        unlike[worst],
        check.UNLIKENESS,
        f"worst {worst}; correlation of whole networks, one rounded and one not: "
        f"{', '.join(whole) or 'no photograph'}",
    )


def fresh(
    arrays: Arrays,
    expected: Mapping[str, Arrays],
    whose: str,
    runtime: str,
    note: str = "",
) -> list[check.Check]:
    """The trainable file and the frozen one against what they are to do.

    With several classes the best class's logit is compared with the vendor's.

    Args:
      arrays: What the runtime kept.
      expected: Kind of probe -> output layer -> [n, ...].
      whose: Whose outputs these are.
      runtime: That ran the files.
      note: Why it is theirs.
    """
    checks = []
    for kind, wanted in expected.items():
        for name, layer, index in (
            ("regressors", "regressors", 0),
            ("classificators", "scores", 1),
        ):
            for file, value in (
                ("model.tflite", arrays[f"infer/{kind}/{name}"]),
                ("inference.tflite", arrays[f"inference/{kind}/{index}"]),
            ):
                if layer == "scores":
                    value = value.max(-1, keepdims=True)
                checks.append(
                    check.Check(
                        "convert",
                        f"{file} against {whose}, {name}, {kind}",
                        runtime,
                        parity(value, wanted[layer]),
                        check.PARITY,
                        note,
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


def state(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The variables that a runtime kept under a prefix, `first/0` for one."""
    kept = {n: v for n, v in arrays.items() if n.startswith(f"{prefix}/")}
    return {name.removeprefix(f"{prefix}/"): value for name, value in kept.items()}


def step_errors(
    got: Arrays, step: Step, optimizer: str
) -> tuple[dict[str, float], float]:
    """The error of every variable after one step, as a share of its bound.

    Args:
      got: Variable -> value in the file after the step.
      step: The reference's step from the same state.
      optimizer: Its name.

    Returns:
      Variable -> max of |got - float64 reference| / (1e-4 of its largest change + 2
      units in the last place); and the share of elements that were compared, which is
      less than 1 for Adam's weights alone.
    """
    errors, compared = {}, [np.zeros(0, bool)]
    for name, value in step.double.items():
        if name not in got or got[name].shape != value.shape:
            errors[name] = float("nan")
            continue
        change = np.abs(value - step.before[name]).max()
        ulp = np.spacing(np.abs(got[name]).astype(np.float32)).astype(np.float64)
        error = np.abs(got[name] - value) / (1e-4 * change + 2.0 * ulp)
        keep = np.ones(value.shape, bool)
        if optimizer.startswith("adam") and f"{name}/m" in step.double:
            moments = step.single[f"{name}/m"], step.double[f"{name}/m"]
            noise = np.abs(moments[0] - moments[1]).max()
            keep = np.sqrt(step.double[f"{name}/v"]) >= ABOVE_NOISE * noise
        compared.append(keep.ravel())
        errors[name] = float(error[keep].max(initial=0.0))
    kept = np.concatenate(compared)
    return errors, float(kept.mean()) if kept.size else 0.0


def _best(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Variable -> its least error; where one is not a number, that."""
    return {n: float(np.min([errors[n] for errors in found])) for n in found[0]}


def training(
    arrays: Arrays,
    facts: Mapping[str, Any],
    firsts: Sequence[Step],
    on_features: Step,
    long_run: Mapping[int, Step],
    optimizer: str,
    runtime: str,
) -> tuple[list[check.Check], dict[str, float]]:
    """Steps against `tf.GradientTape` and Keras' optimizer; the loss's own slope.

    A PReLU's input within rounding of zero takes one slope in one arithmetic and the
    other in the next. Whether one matters is chance, batch by batch and step by step;
    an error in a gradient, a slot or a step is there in all of them. So a variable's
    error is the least of three batches, and in the long run of the steps compared.

    Args:
      arrays: What the runtime kept.
      facts: What it found.
      firsts: From the fresh state, one for each batch.
      on_features: From the fresh state, on the batch of all images, of the weights
        that train on its features.
      long_run: Step -> from the runtime's own state before it.
      optimizer: Its name.
      runtime: Its name.

    Returns:
      The checks, and the error of every variable after one step.
    """
    checks: list[check.Check] = []

    def compared(what: str, errors: Mapping[str, float], note: str) -> None:
        worst = max(errors, key=lambda name: (np.isnan(errors[name]), errors[name]))
        note = f"{len(errors)} variables, worst {worst}; {note}"
        checks.append(
            check.Check("train", what, runtime, errors[worst], check.TRAINING, note)
        )

    pairs = [
        step_errors(state(arrays, f"first/{i}"), step, optimizer)
        for i, step in enumerate(firsts)
    ]
    first = _best([errors for errors, _ in pairs])
    share = sum(share for _, share in pairs) / len(pairs)
    compared(
        "one step against tf.GradientTape, error over bound",
        first,
        f"{share:.1%} of the elements stand above rounding noise and were compared",
    )
    cached = state(arrays, "on_features")
    if cached:
        errors, share = step_errors(cached, on_features, optimizer)
        compared(
            "one step on cached features against tf.GradientTape, error over bound",
            errors,
            f"{share:.1%} of the elements compared",
        )
    found = [
        step_errors(state(arrays, f"after/{number}"), step, optimizer)[0]
        for number, step in long_run.items()
    ]
    numbers = ", ".join(map(str, long_run))
    compared(
        f"steps {numbers} of {max(long_run)} against tf.GradientTape from the same "
        "state, error over bound",
        _best(found),
        "the best of these steps for each variable",
    )
    losses = np.array([step.loss for step in long_run.values()])
    got = arrays["losses"][[number - 1 for number in long_run]]
    checks.append(
        check.Check(
            "train",
            f"loss before steps {numbers}, relative",
            runtime,
            float(np.abs(got / losses - 1).max()),
            check.LOSS,
        )
    )
    slopes = np.abs(np.array(facts["slopes"]) - 1.0)
    checks.append(
        check.Check(
            "train",
            "slope of the loss along the gradient by finite difference, relative",
            runtime,
            float(slopes.min()),
            check.SLOPE,
            f"of the batches: {', '.join(f'{slope:.2g}' for slope in slopes)}",
        )
    )
    return checks, first


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
