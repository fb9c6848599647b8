"""Opens what can detect: files of ours, with or without a checkpoint, and vendor's."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator

import numpy as np
from absl import logging

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice.detection import anchors, decoding
from ondevice.device import detectors, exports, runtimes, session, trial
from ondevice.rebuild import recognition, specs

# More threads than these only wait for each other in networks of this size.
_MOST_THREADS = 4


@dataclasses.dataclass(frozen=True)
class Opened:
    """A detector and what it detects.

    Attributes:
      detector: Runs as long as it is open.
      classes: Names by index.
      trained: Whether its weights may be others than the vendor's: labels drawn by it
        would flatter it.
    """

    detector: detectors.Detector
    classes: tuple[str, ...]
    trained: bool


def thread_count(threads: int | None) -> int:
    """What --threads stands for: all cores up to a few where it is not given."""
    if threads is not None:
        return threads
    available = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # A container may have fewer than the machine.
        available = len(os.sched_getaffinity(0))
    return max(1, min(_MOST_THREADS, available))


def session_threads(threads: int | None, runtime: str) -> int | None:
    """What --threads stands for where a trainable file runs.

    Where it is not given tflite-runtime 2.14 takes one: in a training step its threads
    wait for each other, two take three times as long (BUILD_NOTES.md, Known limits).

    Raises:
      RuntimeChoiceError: As `runtimes.choose`.
    """
    if threads is None and runtimes.choose(runtime) == "tflite_runtime":
        return None
    return thread_count(threads)


def is_trainable(path: str | os.PathLike[str]) -> bool:
    """Whether a file has variables, and so can take a checkpoint up.

    Raises:
      ValueError: If it is damaged.
      OSError: If it cannot be read.
    """
    manifest = manifests.of_file(tflite_file.read(path))
    return manifest is not None and bool(manifest.variables)


def of_session(opened: session.Session, digest: str = "") -> detectors.Detector:
    """The detector that a session runs, with the weights it has at each call.

    Args:
      opened: Stays the caller's to close.
      digest: Of the weights, where they stay what they are.

    Raises:
      SessionError: If it runs no detector, or its anchors are none.
    """
    manifest = opened.manifest
    if manifest.spec == manifests.KERAS:
        raise session.SessionError(
            "The model must be a detector. Received: the file of a Keras model, which "
            "ondevice.device.session.Session runs and trains."
        )
    try:
        spec = anchors.AnchorSpec.from_dict(manifest.anchors)
    except ValueError as error:
        raise session.SessionError(f"The manifest's anchors: {error}") from error
    return detectors.Detector(
        opened.infer,
        spec,
        manifest.input_range,
        digest,
        _min_score(manifest.spec, manifest.source.get("sha256", "")),
    )


@contextlib.contextmanager
def open_detector(
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    runtime: str = runtimes.AUTO,
    threads: int | None = None,
) -> Iterator[Opened]:
    """Opens a file of ours, or a frozen one of the vendor's.

    Args:
      path: Of a .tflite.
      checkpoint: Weights to take up; only a trainable file can.
      runtime: `auto` or a name of `runtimes.NAMES`.
      threads: As `session_threads` and `thread_count` take them.

    Raises:
      ValueError: If the file or the checkpoint is damaged, no detector, or the two do
        not belong together.
      OSError: If one cannot be read.
    """
    file = tflite_file.read(path)
    digest = hashlib.sha256(file.data).hexdigest()
    manifest = manifests.of_file(file)
    if checkpoint is not None and (manifest is None or not manifest.variables):
        raise session.SessionError(
            "A checkpoint must be given with the trainable file that it is of. "
            f"Received: {os.fspath(path)}, which has no variables."
        )
    if manifest is None:
        found = recognition.recognise(file)
        trial.require(file, runtime, os.fspath(path))
        # The one class that Google trained.
        yield Opened(
            _vendor(file, found, digest, runtime, thread_count(threads)),
            (found.spec.subject,),
            trained=False,
        )
        return
    trial.require(file, runtime, os.fspath(path))
    taken: int | None = thread_count(threads)
    if manifest.variables:
        taken = session_threads(threads, runtime)
    with session.Session(path, runtime, taken) as opened:
        trained = manifest.kind == "inference" or _steps(opened) > 0
        trained = trained or _elsewhere(manifest)
        if checkpoint is not None:
            _restore(opened, checkpoint)
            digest, trained = "", True
        yield Opened(of_session(opened, digest), manifest.classes, trained)


@contextlib.contextmanager
def open_labeller(
    labels_from: str | os.PathLike[str] | None,
    model: str | os.PathLike[str],
    runtime: str = runtimes.AUTO,
    threads: int | None = None,
) -> Iterator[Opened]:
    """Opens the detector that draws labels.

    Args:
      labels_from: Of a .tflite that the user chose, or None for the model as built. A
        frozen file beside it that holds the same weights stands for it then: it runs
        more than twice as fast.
      model: Of a .tflite.
      runtime: `auto` or a name of `runtimes.NAMES`.
      threads: As `session_threads` and `thread_count` take them.

    Raises:
      ValueError, OSError: As `open_detector`.
    """
    twin = None if labels_from else _frozen_twin(model)
    chosen = labels_from or (twin.path if twin else model)
    with open_detector(chosen, None, runtime, threads) as opened:
        trained = opened.trained if twin is None else twin.trained
        yield dataclasses.replace(opened, trained=trained)


def _elsewhere(manifest: manifests.Manifest) -> bool:
    """Whether a file was made of weights that were trained in another library."""
    return manifest.heads == manifests.PLAIN


@dataclasses.dataclass(frozen=True)
class _Twin:
    """A frozen file, and whether its weights may be others than the vendor's."""

    path: pathlib.Path
    trained: bool


def _frozen_twin(model: str | os.PathLike[str]) -> _Twin | None:
    """The frozen file beside an untrained model that holds its weights, if it does."""
    try:
        source = exports.Source.read(model, None)
        frozen, described = source.template()
        own, variables = source.own_state(), source.manifest.variables
        shapes = {v.name: v.shape for v in variables if v.role == manifests.WEIGHT}
        there = weights.of_inference(frozen, described, shapes)
    except (ValueError, OSError):  # No such file, or one that is not of this build.
        return None
    steps = [own[v.name] for v in variables if v.role == manifests.STEP]
    if any(map(np.any, steps)):
        return None
    same = all(np.array_equal(own[name], there[name]) for name in shapes)
    return _Twin(source.template_path, _elsewhere(source.manifest)) if same else None


def _restore(opened: session.Session, path: str | os.PathLike[str]) -> None:
    """Takes the weights up; the optimizer does not matter where nothing trains."""
    header = opened.restore(path)
    if header is not None:
        logging.info(
            "%s: %d steps, %d epochs.", os.fspath(path), header.step, header.epoch
        )


def _steps(opened: session.Session) -> int:
    """Optimizer steps behind the weights that the file holds."""
    manifest = opened.manifest
    steps = [v.name for v in manifest.variables if v.role == manifests.STEP]
    if manifest.ops == "select" or not steps:
        return 0
    return int(opened.state()[steps[0]])


def _vendor(
    file: tflite_file.TfliteFile,
    found: recognition.Recognised,
    digest: str,
    runtime: str,
    threads: int,
) -> detectors.Detector:
    """The detector of a frozen file that was recognised."""
    interpreter = runtimes.create(file.data, runtime, threads)
    lock, spec = threading.Lock(), found.spec

    def infer(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with lock:
            outputs = runtimes.run(interpreter, image)
        places = found.outputs
        return outputs[places["regressors"]], outputs[places["scores"]]

    return detectors.Detector(
        infer,
        anchors.PRESETS[spec.name],
        spec.input_range,
        digest,
        _min_score(spec.name, digest),
    )


def _min_score(name: str, sha256: str) -> float:
    """The lowest score of a detection.

    Args:
      name: The detector's; that of a manifest need not be a known one.
      sha256: Of the vendor's file that its weights come from.
    """
    known = specs.PRESETS.get(name)
    usual = known.min_score if known else decoding.MIN_SCORE
    return specs.OTHER_SCORES.get(sha256, usual)
