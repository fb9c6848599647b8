"""Runs the files of a build in one runtime, in a process of its own.

    python -m ondevice.verification.exercise JOB_DIRECTORY RUNTIME

reads `vendor.tflite`, `model.tflite`, `inference.tflite`, `probes.npz`, `batch.npz`,
`job.json` and, if it is there, `layers.tflite` from the directory, and writes
`RUNTIME.npz` (arrays) and `RUNTIME.json` there. Nothing is judged here: what came out
goes back. Where the runtime crashes, the process ends, and the build reports that.
Imports no tensorflow unless that is the runtime.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import patch, tflite_file
from ondevice.device import runtimes
from ondevice.verification import inputs as proof_inputs
from ondevice.verification import runners
from signatures import contract

Arrays = runners.Arrays

# The vendor's file; and the same, giving out every tensor that it computes.
VENDOR, LAYERS = "vendor.tflite", "layers.tflite"

# The last steps of the long run are done again from a checkpoint.
RESUMED_STEPS = 2

# Batches of one image each, on each of which one step is taken from the fresh file.
BATCHES = 3


def checked_steps(steps: int) -> list[int]:
    """The steps of the long run that are compared, the state before them with it."""
    wanted = (2, steps // 5, 2 * steps // 5, 7 * steps // 10, steps)
    return sorted({max(2, step) for step in wanted})


@dataclasses.dataclass(frozen=True)
class Job:
    """What a build hands over.

    Attributes:
      directory: Where the files lie.
      rate: Learning rate.
      rates: Multiple of it that a weight learns at, by name, where it is not 1.
      steps: Steps of the long run.
      shares: Of the loss, by which a finite difference changes it on each batch of one
        image: large beside rounding, small beside curvature and the next kinks.
    """

    directory: pathlib.Path
    rate: float
    rates: Mapping[str, float]
    steps: int
    shares: Sequence[float]

    def has(self, name: str) -> bool:
        return (self.directory / name).is_file()

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def arrays(self, name: str) -> Arrays:
        with np.load(self.directory / name, allow_pickle=False) as stored:
            return dict(stored)


class _Exercise:
    """Everything that is run; `arrays` and `facts` collect what came out."""

    def __init__(self, job: Job, runtime: str) -> None:
        self._job, self._runtime = job, runtime
        self._model = job.read("model.tflite")
        manifest = manifests.of_file(tflite_file.parse(self._model))
        assert manifest is not None  # the build embedded it
        self._manifest = manifest
        self._batch = job.arrays("batch.npz")
        self._rate = np.float32(job.rate)
        # A batch of one image: fewer kinks that a step could come to lie on.
        long_batch = job.arrays("batch_0.npz")
        self._long_inputs = {**long_batch, "learning_rate": self._rate}
        self.arrays: Arrays = {}
        self.facts: dict[str, Any] = {}

    def run(self) -> None:
        self._forward()
        fresh = self._orders()
        self._first_steps()
        trained, state = self._train()
        self._resume(state)
        self._patched(trained, state)
        self._slopes(fresh)

    def _fresh(self, data: bytes | None = None) -> runners.Runner:
        kind = runners.PathRunner if self._manifest.ops == "select" else runners.Runner
        return kind(data or self._model, self._runtime)

    def _forward(self) -> None:
        """The vendor's file, the trainable one and the frozen one on the probes."""
        frozen = self._fresh(self._job.read("inference.tflite"))
        model = self._fresh()
        probes = self._job.arrays("probes.npz")
        for kind, images in probes.items():
            self._keep(f"inference/{kind}", frozen.plain(images))
            self._keep(f"infer/{kind}", model.infer(images))
        vendor = self._vendor()
        if vendor is None:
            return
        for kind, images in probes.items():
            self._keep(f"vendor/{kind}", vendor.plain(images))
        if self._job.has(LAYERS):
            layers = self._fresh(self._job.read(LAYERS))
            self._keep("layers", layers.plain(proof_inputs.first(probes)))

    def _vendor(self) -> runners.Runner | None:
        """The vendor's file; None where this runtime lacks an operator of its own."""
        data = self._job.read(VENDOR)
        self.facts["vendor_refused"] = ""
        try:
            return self._fresh(data)
        except runtimes.RuntimeFailure:
            custom = tflite_file.parse(data).custom()
            if not custom:
                raise
            self.facts["vendor_refused"] = f"custom operators {', '.join(custom)}"
            return None

    def _inputs(self, state: Arrays) -> dict[str, dict[str, Any]]:
        """Inputs for every signature, restore's being what save gave."""
        version = np.int32(contract.FORMAT_VERSION)
        train = {**self._batch, "learning_rate": self._rate}
        image = {"image": self._batch["image"][:1]}
        inputs: dict[str, dict[str, Any]] = {
            contract.TRAIN: train,
            contract.EVALUATE: dict(self._batch),
            contract.INFER: image,
            contract.SAVE: {"format_version": version},
            contract.RESTORE: state,
        }
        keys = [signature.key for signature in self._manifest.signatures]
        for on_features in set(keys) & set(contract.ON_FEATURES):
            batch = [
                self._fresh_features({"image": one[None]})
                for one in self._batch["image"]
            ]
            features = {n: np.concatenate([b[n] for b in batch]) for n in batch[0]}
            inputs[contract.FEATURES] = image
            targets = {k: v for k, v in train.items() if k != "image"}
            inputs[on_features] = {**features, **targets}
        return {key: inputs[key] for key in keys}

    def _fresh_features(self, image: Arrays) -> Arrays:
        if not hasattr(self, "_features"):
            self._features = self._fresh()
        return self._features.call(contract.FEATURES, image)

    def _save(self, runner: runners.Runner) -> Arrays:
        version = np.int32(contract.FORMAT_VERSION)
        return runner.call(contract.SAVE, {"format_version": version})

    def _orders(self) -> Arrays:
        """Each signature as the first call, and each pair of two.

        A call that does not move weights must leave every later result as it was; a
        step must be seen by every later one.
        """
        state = self._save(self._fresh())
        inputs = self._inputs(state)
        faults: list[str] = []
        first: dict[str, Arrays] = {}
        tried = len(inputs)
        for key in inputs:
            with _noted(faults, f"{key} first"):
                first[key] = self._fresh().call(key, inputs[key])
        stepped: dict[str, dict[str, Arrays]] = {}
        for before in first:
            for key in first:
                if key == before:
                    continue
                tried += 1
                with _noted(faults, f"{key} after {before}"):
                    runner = self._fresh()
                    runner.call(before, inputs[before])
                    got = runner.call(key, inputs[key])
                    if before in contract.STEPS:
                        stepped.setdefault(before, {})[key] = got
                    elif not _equal(got, first[key]):
                        faults.append(f"{key} after {before} differs from {key} first")
        for before, results in stepped.items():
            for key, got in results.items():
                # The trunk's features move where the step trains the trunk.
                whole = contract.TRAIN_CLASSES in inputs and before == contract.TRAIN
                moved = key != contract.RESTORE
                moved &= key != contract.FEATURES or whole
                if moved == _equal(got, first[key]):
                    verb = "does not see" if moved else "is changed by"
                    faults.append(f"{key} {verb} the step of {before}")
        for key in set(inputs) & set(contract.ON_FEATURES):
            runner = self._fresh()
            runner.call(key, inputs[key])
            self._keep("on_features", self._save(runner))
        self.facts["orders"] = {
            "combinations": tried,
            "faults": faults,
        }
        return state

    def _first_steps(self) -> None:
        """One step from the fresh file on each batch."""
        for index in range(BATCHES):
            runner = self._fresh()
            batch = self._job.arrays(f"batch_{index}.npz")
            inputs = {**batch, "learning_rate": self._rate}
            outputs = runner.call(contract.TRAIN, inputs)
            self._keep(f"first/{index}", self._save(runner))
            self.arrays[f"first_norm/{index}"] = outputs[contract.GRADIENT_NORM]

    def _train(self) -> tuple[runners.Runner, Arrays]:
        """The long run; keeps the variables before and after the steps compared."""
        runner, losses = self._fresh(), []
        inputs = self._long_inputs
        checked = checked_steps(self._job.steps)
        for step in range(1, self._job.steps + 1):
            if step in checked:
                self._keep(f"before/{step}", self._save(runner))
            losses.append(float(runner.call(contract.TRAIN, inputs)["loss"]))
            if step in checked:
                self._keep(f"after/{step}", self._save(runner))
            if step == self._job.steps - RESUMED_STEPS:
                self._before = self._save(runner)
        self.arrays["losses"] = np.array(losses)
        return runner, self._save(runner)

    def _resume(self, state: Arrays) -> None:
        """A new interpreter, restored shortly before the end, must end the same."""
        runner = self._fresh()
        restored = runner.call(contract.RESTORE, self._before)["restored"]
        inputs = self._long_inputs
        for _ in range(RESUMED_STEPS):
            runner.call(contract.TRAIN, inputs)
        self.facts["restored"] = int(restored)
        self.facts["resumed_differ"] = _differing(self._save(runner), state)

    def _patched(self, trained: runners.Runner, state: Arrays) -> None:
        """The files with the trained weights against the interpreter that trained."""
        variables = {n: v for n, v in state.items() if n != "format_version"}
        patched = patch.patch_trainable(self._model, self._manifest, variables)
        fresh = self._fresh(patched)
        self.facts["patched_state_differs"] = _differing(self._save(fresh), state)
        image = {"image": self._batch["image"][:1]}
        live = trained.call(contract.INFER, image)
        again = fresh.call(contract.INFER, image)
        self.facts["patched_infer_differs"] = _differing(again, live)
        template = self._job.read("inference.tflite")
        described = manifests.of_file(tflite_file.parse(template))
        assert described is not None
        names = [v.name for v in self._manifest.variables if v.role == manifests.WEIGHT]
        weights = {name: variables[name] for name in names}
        frozen = patch.patch_inference(template, described, weights)
        # Not in black frames: the files' kernels differ, and in large even areas their
        # roundings are alike in every cell and add up.
        probes = self._job.arrays("probes.npz")
        shown = [i for kind, i in probes.items() if kind != proof_inputs.FRAMED]
        images = np.concatenate(shown)
        self._keep("trained_infer", trained.infer(images))
        self._keep("trained_inference", self._fresh(frozen).plain(images))

    def _slopes(self, state: Arrays) -> None:
        """The loss along the gradient that one step used, over what the step called it.

        By finite differences, once for each batch of one image: 1 where it is right.
        """
        ratios = []
        for index in range(BATCHES):
            prefix = f"first/{index}/"
            after = {
                name.removeprefix(prefix): value
                for name, value in self.arrays.items()
                if name.startswith(prefix)
            }
            batch = self._job.arrays(f"batch_{index}.npz")
            norm = max(float(self.arrays[f"first_norm/{index}"]), 1e-30)
            gradient = _gradient(
                self._manifest, state, after, float(self._rate), self._job.rates
            )
            squares = sum(np.sum(g * g) for g in gradient.values())
            length = max(float(np.sqrt(squares)), 1e-30)
            runner = self._fresh()
            loss = float(runner.call(contract.EVALUATE, batch)["loss"])
            reach = self._job.shares[index] / 2 * abs(loss) / norm
            measured = expected = 0.0
            for sign in (1.0, -1.0):
                moved = {}
                for name, g in gradient.items():
                    step = sign * reach / length * g
                    moved[name] = (state[name] + step).astype(np.float32)
                    # What float32 lets the weights move, not what was asked for.
                    went = moved[name].astype(np.float64) - state[name]
                    expected += sign * float(np.sum(g * went)) * norm / length
                runner.call(contract.RESTORE, {**state, **moved})
                found = runner.call(contract.EVALUATE, batch)["loss"]
                measured += sign * float(found)
            ratios.append(measured / expected if expected else float("nan"))
        self.facts["slopes"] = ratios

    def _keep(self, prefix: str, state: Arrays) -> None:
        self.arrays.update({f"{prefix}/{name}": v for name, v in state.items()})


@contextlib.contextmanager
def _noted(faults: list[str], what: str) -> Iterator[None]:
    """Turns a failing call into a line of the report."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        faults.append(f"{what}: {str(error).splitlines()[0]}")


def _gradient(
    manifest: manifests.Manifest,
    before: Arrays,
    after: Arrays,
    rate: float,
    rates: Mapping[str, float],
) -> Arrays:
    """The gradient that the first step took, clipping undone or not: its direction.

    From the first moment where there is one, m = (1 - beta_1) * g, from the velocity,
    v = -rate * g, or from the weights' own change; the rate is each weight's own.
    """
    name, settings = manifest.optimizer["name"], manifest.optimizer
    gradient = {}
    for variable in manifest.variables:
        if variable.role != manifests.WEIGHT:
            continue
        key = variable.name
        own_rate = rate * rates.get(key, 1.0)
        if name in ("adam", "adamw"):
            g = after[f"{key}/m"].astype(np.float64) / (1 - settings["beta_1"])
        elif name == "momentum":
            g = -after[f"{key}/velocity"].astype(np.float64) / own_rate
        else:
            g = (before[key].astype(np.float64) - after[key]) / own_rate
        gradient[key] = g
    return gradient


def _equal(one: Arrays, other: Arrays) -> bool:
    return not _differing(one, other)


def _differing(one: Arrays, other: Arrays) -> list[str]:
    """Names whose arrays are not the same to the bit."""
    names = sorted(one.keys() | other.keys())
    return [
        name
        for name in names
        if name not in one
        or name not in other
        or one[name].tobytes() != other[name].tobytes()
    ]


def main(arguments: list[str]) -> int:
    directory, runtime = pathlib.Path(arguments[0]), arguments[1]
    described = json.loads((directory / "job.json").read_text())
    exercise = _Exercise(Job(directory, **described), runtime)
    exercise.run()
    np.savez(directory / f"{runtime}.npz", **exercise.arrays)
    (directory / f"{runtime}.json").write_text(json.dumps(exercise.facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
