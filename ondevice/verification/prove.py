"""Proves a build: every arrow of the chain, in every installed runtime."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import logging

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import fresh
from ondevice.device import runtimes
from ondevice.rebuild import network, topology
from ondevice.verification import (
    check,
    compare,
    exercise,
    inputs,
    reference,
    rounded,
    runners,
    vendors,
)

STEPS = 20

# A gradient is steady where rounding moves no variable's by more than this share of its
# largest element; the bound of one step is 1e-4.
_STEADY = 2e-5
_STEADY_IMAGES = 3
_MOST_CANDIDATES = 30

# Shares of the loss for the finite difference, and how straight the loss must be there,
# by TensorFlow in float64; the bound is 1e-2. The largest is taken: weights that move
# by a few units in the last place lose a twentieth of their effect to rounding, in
# float32 of anyone, where many cells are alike.
_SHARES = (1e-2, 3e-3, 1e-3, 3e-4)
_STRAIGHT = 3e-3

# The only interpreter that carries Flex, TensorFlow's up to 2.19.
_FLEX_RUNTIME = "tensorflow"


@dataclasses.dataclass(frozen=True)
class Proof:
    """What was measured.

    Attributes:
      checks: Line by line.
      losses: `tf.GradientTape` and each runtime -> the loss before each step.
      errors: Runtime -> variable -> error over bound after one step.
    """

    checks: tuple[check.Check, ...]
    losses: Mapping[str, Sequence[float]]
    errors: Mapping[str, Mapping[str, float]]

    @property
    def holds(self) -> bool:
        """Whether every check does, and there is one."""
        return bool(self.checks) and all(c.holds for c in self.checks)


def prove(
    vendor: vendors.Vendor,
    recipe: fresh.Recipe,
    weights: Mapping[str, np.ndarray],
    files: fresh.Files,
    photographs: list[pathlib.Path],
    steps: int = STEPS,
    only: Sequence[str] = (),
) -> Proof:
    """Runs the files and compares.

    Args:
      vendor: The vendor's side.
      recipe: What the files were made by.
      weights: Every weight that they were made from.
      files: The files.
      photographs: Shown beside noise.
      steps: Of the long run; at least three.
      only: Runtimes to run in; none stands for every one installed.

    Returns:
      The checks and what the report draws.
    """
    probes = inputs.probe_images(files.manifest, photographs)
    model = network.build(vendor.found.layers, vendor.found.spec.name)
    network.assign(model, vendor.weights)
    outputs = {kind: _outputs(model, images) for kind, images in probes.items()}
    course = _Course(recipe, weights, files.manifest, photographs, outputs)
    checks = _static(files, recipe)
    found: dict[str, Proof] = {}
    with tempfile.TemporaryDirectory() as directory:
        job = pathlib.Path(directory)
        (job / exercise.VENDOR).write_bytes(vendor.data)
        if vendor.rounds:
            (job / exercise.LAYERS).write_bytes(rounded.exposed(vendor.file))
        (job / "model.tflite").write_bytes(files.model)
        (job / "inference.tflite").write_bytes(files.inference)
        np.savez(job / "probes.npz", **probes)
        np.savez(job / "batch.npz", **course.mixed)
        for index, batch in enumerate(course.batches):
            np.savez(job / f"batch_{index}.npz", **batch)
        described = {
            "rate": course.rate,
            "rates": recipe.rates,
            "steps": steps,
            "shares": course.shares,
        }
        (job / "job.json").write_text(json.dumps(described))
        chosen = only or _runtimes(recipe.ops)
        logging.info("Running the files in %s, side by side.", ", ".join(chosen))
        for runtime, failure in _exercised(job, chosen):
            if failure:
                failed = check.failed_to_run(runtime, failure)
                found[runtime] = Proof((failed,), {}, {})
                continue
            with np.load(job / f"{runtime}.npz", allow_pickle=False) as stored:
                arrays = dict(stored)
            facts = json.loads((job / f"{runtime}.json").read_text())
            refused = facts["vendor_refused"]
            if refused:
                logging.warning(
                    "%s does not run the vendor's file (%s): what was made of it is "
                    "held against the Keras model there.", runtime, refused,
                )  # fmt: skip
            seen = probes, outputs, arrays
            judged = vendors.compared(vendor, model, *seen, refused, runtime)
            judged.append(compare.orders(facts, runtime))
            logging.info("Comparing its training in %s with tf.GradientTape.", runtime)
            trained, parted = compare.training(
                arrays,
                facts,
                course.firsts,
                course.first_on_features,
                course.along(arrays, exercise.checked_steps(steps)),
                recipe.settings.name,
                runtime,
            )
            judged += trained
            judged += compare.kept(arrays, facts, files.manifest, runtime)
            own = {runtime: arrays["losses"].tolist()}, {runtime: parted}
            found[runtime] = Proof(tuple(judged), *own)
    losses: dict[str, Sequence[float]] = {}
    errors: dict[str, Mapping[str, float]] = {}
    for part in (found[runtime] for runtime in chosen):
        checks += part.checks
        losses |= part.losses
        errors |= part.errors
    if losses:
        losses = {"tf.GradientTape": course.losses(steps), **losses}
    return Proof(tuple(checks), losses, errors)


class _Course:
    """The batches that are trained on, and the reference's steps on them.

    Attributes:
      batches: Of one image each; the long run is on the first.
      mixed: Of all the images; the orders of signatures are run on it.
      rate: The learning rate.
      shares: Of the loss, for the finite difference on each of `batches`.
    """

    def __init__(
        self,
        recipe: fresh.Recipe,
        weights: Mapping[str, np.ndarray],
        manifest: manifests.Manifest,
        photographs: list[pathlib.Path],
        outputs: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        self._settings, self._class_weights = recipe.settings, recipe.class_weights
        self._truth = reference.Reference(
            functools.partial(network.build, recipe.layers, recipe.spec.name),
            weights,
            recipe.trained,
            recipe.loss,
            recipe.rates,
        )
        regressors = outputs[inputs.NOISE]["regressors"][0]
        logging.info("Choosing images on which gradients do not hang on rounding.")
        shown = _conditioned(self._truth, manifest, photographs, regressors)

        def batch(chosen: list[np.ndarray]) -> dict[str, np.ndarray]:
            size = recipe.batch_size
            return inputs.training_batch(manifest, chosen, regressors, size)

        count = exercise.BATCHES
        self.batches = [batch([shown[i % len(shown)]]) for i in range(count)]
        self.mixed = batch(shown)
        self.rate = self._truth.rate(self.mixed, self._settings)
        self.shares = [
            self._truth.straight(batch, _SHARES, _STRAIGHT) for batch in self.batches
        ]
        self._fresh = self._truth.fresh_state(self._settings)

    @functools.cached_property
    def firsts(self) -> list[compare.Step]:
        """From the fresh state, on each batch of one image."""
        return [self._step(self._fresh, batch) for batch in self.batches]

    @functools.cached_property
    def first_on_features(self) -> compare.Step:
        """From the fresh state, on the mixed batch, of what trains on its features."""
        return self._step(self._fresh, self.mixed, self._class_weights)

    def along(
        self, arrays: Mapping[str, np.ndarray], numbers: Sequence[int]
    ) -> dict[int, compare.Step]:
        """Step -> the reference's, from the state that a runtime had before it."""
        return {
            number: self._step(
                compare.state(arrays, f"before/{number}"), self.batches[0]
            )
            for number in numbers
        }

    def losses(self, steps: int) -> list[float]:
        """The loss before each step of the reference's own run, in float32."""
        state: Mapping[str, Any] = self._fresh
        found = []
        for number in range(steps):
            loss, after = self._truth.step(
                state, self.batches[0], self._settings, self.rate, "float32"
            )
            state = {**after, "step": np.int32(number + 1)}
            found.append(loss)
        return found

    def _step(
        self,
        before: Mapping[str, np.ndarray],
        batch: Mapping[str, np.ndarray],
        only: Sequence[str] = (),
    ) -> compare.Step:
        settings, rate = self._settings, self.rate
        found = {
            dtype: self._truth.step(before, batch, settings, rate, dtype, only)
            for dtype in ("float32", "float64")
        }
        loss, double = found["float64"]
        return compare.Step(before, found["float32"][1], double, loss)


def _conditioned(
    truth: reference.Reference,
    manifest: manifests.Manifest,
    photographs: list[pathlib.Path],
    regressors: np.ndarray,
) -> list[np.ndarray]:
    """Images at which TensorFlow's own gradient does not hang on rounding.

    Whether it does is TensorFlow's float32 against its float64: nothing of ours has a
    say in the choice.
    """
    tried = []
    for image in itertools.islice(
        inputs.candidates(manifest, photographs), _MOST_CANDIDATES
    ):
        batch = inputs.training_batch(manifest, [image], regressors, 1)
        tried.append((truth.sensitivity(batch), image))
        steady = [one for found, one in tried if found <= _STEADY]
        if len(steady) == _STEADY_IMAGES:
            return steady
    logging.warning(
        "Of %d images only %d have a gradient that rounding leaves alone.",
        len(tried),
        len(steady),
    )
    return steady or [min(tried, key=lambda pair: pair[0])[1]]


def _exercised(
    job: pathlib.Path, chosen: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """(runtime, what went wrong) as each ends; all run side by side."""
    with concurrent.futures.ThreadPoolExecutor(len(chosen) or 1) as pool:
        module = "ondevice.verification.exercise"
        running = {pool.submit(runners.alone, module, job, r): r for r in chosen}
        for done in concurrent.futures.as_completed(running):
            yield running[done], done.result()


def _outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Output layer -> [n, ...], an image at a time as the interpreters run them."""
    parts: list[dict[str, Any]] = [model(image[None]) for image in images]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _runtimes(ops: str) -> tuple[str, ...]:
    installed = runtimes.installed()
    if ops == "builtin":
        return installed
    return tuple(name for name in installed if name == _FLEX_RUNTIME)


def _static(files: fresh.Files, recipe: fresh.Recipe) -> list[check.Check]:
    """What the files show without being run."""
    checks = []
    for name, data in (
        ("model.tflite", files.model),
        ("inference.tflite", files.inference),
    ):
        file = tflite_file.parse(data)
        foreign = [*file.flex(), *file.custom()]
        dynamic = [
            tensor.name
            for graph in file.subgraphs
            for tensor in graph.tensors
            if -1 in tensor.shape_signature
        ]
        if recipe.ops == "builtin" or name == "inference.tflite":
            checks.append(
                check.Check(
                    "convert",
                    f"Flex and custom operators in {name}",
                    "",
                    float(len(foreign)),
                    check.NONE,
                    ", ".join(foreign[:3]),
                )
            )
            checks.append(
                check.Check(
                    "convert",
                    f"tensors of dynamic shape in {name}",
                    "",
                    float(len(dynamic)),
                    check.NONE,
                    ", ".join(dynamic[:3]),
                )
            )
    expected = set(topology.variables(recipe.layers))
    held = {v.name for v in files.manifest.variables} | {
        c.variable for c in files.constants
    }
    checks.append(
        check.Check(
            "rebuild",
            f"weights of {len(expected)} that neither file names",
            "",
            float(len(expected - held)),
            check.NONE,
        )
    )
    return checks
