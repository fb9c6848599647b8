"""Exporting, step by step: read, convert or patch, compare, measure, write.

What `python -m ondevice.export` does once its flags are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging

from checkpoints import atomic
from checkpoints import manifest as manifests
from ondevice import commands
from ondevice import precision as precisions
from ondevice.device import (
    calibration,
    exports,
    fidelity,
    image_cache,
    labelled,
    opening,
    runtimes,
    session,
    trial,
)

# Takes the two files, running, and finds out what the second has lost.
Measure = Callable[[session.Session, session.Session], fidelity.Fidelity]

# The largest difference on noise and in a black frame, relative. A patched trainable
# file computes what the model does, to the bit; another graph rounds otherwise.
_SAME, _PARITY = 0.0, 5e-6


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What to export; see the flags for the meaning of each."""

    model: str | None
    output: str | None
    checkpoint: str | None = None
    kind: str = "trainable"
    method: str = "patch"
    dtype: str = "float32"
    template: str | None = None
    activations: str | None = None
    calibration: str | None = None
    calibration_frame: tuple[float, float] = (0.4, 1.0)
    data: str | None = None
    share: float = 1.0
    labels_from: str | None = None
    max_loss: float = 0.01
    force: bool = False
    target: str | None = None

    def __post_init__(self) -> None:
        if self.dtype != "float32" and (self.kind, self.method) != (
            "inference",
            "reconvert",
        ):
            raise commands.UsageError(
                f"--dtype={self.dtype} must go with --kind=inference "
                f"--method=reconvert. Received: --kind={self.kind} "
                f"--method={self.method}."
            )
        if self.target is not None and (self.kind, self.method) != (
            "trainable",
            "reconvert",
        ):
            raise commands.UsageError(
                f"--target={self.target} must go with --kind=trainable "
                f"--method=reconvert. Received: --kind={self.kind} "
                f"--method={self.method}."
            )
        self._check_activations()
        read = ("checkpoint", "template", "calibration", "data", "labels_from")
        given = {f"--{name}": getattr(self, name) for name in read}
        inputs = {name: path for name, path in given.items() if path is not None}
        commands.new_file(self.output, {"--model": self.model, **inputs})
        output = os.path.realpath(self.output or "")
        beside = os.path.join(os.path.dirname(self.model or ""), exports.TEMPLATE_NAME)
        if os.path.realpath(beside) == output and os.path.exists(output):
            raise commands.UsageError(
                f"--output must be another file than {exports.TEMPLATE_NAME} beside "
                "--model, which every inference file is made from. "
                f"Received: {self.output!r}."
            )
        if self.calibration is not None and not os.path.isdir(self.calibration):
            raise commands.UsageError(
                f"--calibration must be a folder. Received: {self.calibration!r}."
            )

    def _check_activations(self) -> None:
        given = self.activations is not None or self.calibration is not None
        if given and self.dtype != "int8":
            raise commands.UsageError(
                "--activations and --calibration must go with --dtype=int8. "
                f"Received: --dtype={self.dtype}."
            )
        integer = self.activations in (None, "int8")
        if self.calibration is not None and not integer:
            raise commands.UsageError(
                "--calibration must go with --activations=int8. "
                f"Received: --activations={self.activations}."
            )
        if self.activations == "int8" and self.calibration is None:
            raise commands.UsageError(
                "--activations=int8 must go with --calibration=FOLDER, images that "
                "show their ranges. Received: no --calibration."
            )

    @property
    def bound(self) -> float:
        """Of the difference; none where weights are rounded."""
        if self.dtype != "float32":
            return math.inf
        patched = (self.kind, self.method) == ("trainable", "patch")
        return _SAME if patched else _PARITY


def export(config: ExportConfig) -> dict[str, Any]:
    """Makes the file, proves it, and writes it.

    Args:
      config: What to export.

    Returns:
      The JSON object of the command.

    Raises:
      ExportError: If the files do not belong together, the new file's outputs are not
        the model's or it lost too much; nothing is written.
      UserError: If tensorflow is missing where it is needed.
      ValueError: If a file is malformed, the checkpoint of another model, or images
        cannot be used.
      OSError: If a file cannot be read or written.
    """
    started = time.monotonic()
    if config.method == "reconvert":
        commands.require_tensorflow("--method=reconvert")
    source = exports.Source.read(str(config.model), config.template)
    _require_detector(config, source)
    trial.require(source.file, runtimes.AUTO, str(config.model))
    if (config.kind, config.method) == ("inference", "patch"):  # What it is made of.
        template = source.template()[0]
        trial.require(template, runtimes.AUTO, str(source.template_path))
    state = _state(config, source)
    precision = _precision(config, source)
    measure = _measure(config, source, precision)
    if config.method == "reconvert":
        # TensorFlow's start-up notes say nothing about the export.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from ondevice import reconvert

        logging.info("Converting; this takes as long as a build does.")
        data = reconvert.reconvert(
            source.manifest,
            state,
            source.template,
            config.kind,
            precision,
            config.target,
        )
    else:
        data = source.patched(state, config.kind)
    with _running(config, source, state, data) as files:
        difference = _compare(config, state, source.manifest.ops, *files)
        found = measure(*files) if measure else None
    _require(config, found)
    atomic.write(str(config.output), [data])
    trial.record(data)
    logging.info("%s: %d bytes, %s.", config.output, len(data), config.kind)
    return {
        "output": config.output,
        "kind": config.kind,
        "method": config.method,
        "dtype": config.dtype,
        "bytes": len(data),
        "seconds": round(time.monotonic() - started, 3),
        "max_difference": difference,
        "accuracy": found and found.figures,
    }


def _require_detector(config: ExportConfig, source: exports.Source) -> None:
    """Refuses what a Keras model's file cannot be asked for.

    Raises:
      ExportError: If it takes a detector, or the Keras model itself.
    """
    if source.manifest.spec != manifests.KERAS:
        return
    if config.method == "reconvert":
        raise exports.ExportError(
            "A Keras model must be converted anew where it is built: by "
            "ondevice.convert.write_inference(module, path, checkpoint). "
            f"Received: --method=reconvert; {config.model}."
        )
    if config.data is not None:
        raise exports.ExportError(
            f"--data must go with a detector. Received: {config.model}, a Keras model."
        )


def _state(config: ExportConfig, source: exports.Source) -> dict[str, np.ndarray]:
    """Every variable, from the checkpoint or else from the model."""
    if config.checkpoint is None:
        return source.own_state()
    return source.checkpoint(config.checkpoint)


def _precision(config: ExportConfig, source: exports.Source) -> precisions.Precision:
    """What the file is to store and compute with; reads the calibration images."""
    if config.calibration is None:
        return precisions.Precision(config.dtype, config.activations or "float32")
    images = calibration.read(
        calibration.find(config.calibration),
        config.calibration_frame,
        source.manifest.input_size,
        source.manifest.input_range,
        lambda items: commands.progress(items, "calibration"),
    )
    return precisions.Precision(config.dtype, "int8", images)


def _measure(
    config: ExportConfig, source: exports.Source, precision: precisions.Precision
) -> Measure | None:
    """What finds out the loss; reads and labels --data, before the long work."""
    if config.data is None and not precision.images:
        if config.dtype != "float32":
            logging.warning(
                "What %s costs is not measured. --data=DIR, labelled images, measures "
                "it before the file is written.", config.dtype,
            )  # fmt: skip
        return None
    if config.data is None:
        logging.info("Without --data the detections are compared, not the accuracy.")
        return lambda first, second: fidelity.agreement(
            opening.of_session(first),
            opening.of_session(second),
            precision.images,
            lambda items: commands.progress(items, "images"),
        )
    cache = image_cache.ImageCache()
    (dataset,) = labelled.load(
        [config.data],
        source.manifest.classes,
        functools.partial(
            opening.open_labeller, config.labels_from, str(config.model)
        ),
        cache,
        # Where training and evaluation keep labels, too.
        pathlib.Path(config.checkpoint).parent if config.checkpoint else None,
        commands.progress,
        chosen=config.labels_from is not None,
    )
    return lambda first, second: fidelity.measured(
        opening.of_session(first),
        opening.of_session(second),
        dataset,
        config.share,
        cache,
        lambda items: commands.progress(items, "images"),
    )


@contextlib.contextmanager
def _running(
    config: ExportConfig,
    source: exports.Source,
    state: Mapping[str, np.ndarray],
    data: bytes,
) -> Iterator[tuple[session.Session, session.Session]]:
    """The model that holds the state, and the new file, each in an interpreter."""
    with session.Session(source.file.data) as model, session.Session(data) as exported:
        if source.manifest.ops != "select":
            model.load_state(state)
        elif config.checkpoint is not None:
            model.restore(config.checkpoint)
        yield model, exported


def _compare(
    config: ExportConfig,
    state: Mapping[str, np.ndarray],
    ops: str,
    model: session.Session,
    exported: session.Session,
) -> float:
    """Compares the outputs, and a trainable file's variables.

    Returns:
      The largest difference of an output over that output's largest number.

    Raises:
      ExportError: If it is above the bound, or a variable is not the state's, bit for
        bit.
    """
    found = fidelity.difference(model, exported)
    differing: list[str] = []
    # A file built with --ops=select tells no variable, only saves.
    if config.kind == "trainable" and ops != "select":
        got = exported.state()
        differing = [n for n in state if got[n].tobytes() != state[n].tobytes()]
    if math.isinf(config.bound) and not math.isfinite(found):
        raise exports.ExportError(
            "The exported file must give finite outputs of the model's shapes. "
            f"Received: {found}; nothing was written."
        )
    if differing or not math.isfinite(found) or found > config.bound:
        raise exports.ExportError(
            "The exported file must hold the weights, and give the model's outputs "
            f"within {config.bound} on noise and in a black frame. Received: "
            f"{found:.3g}; variables that differ: {differing[:8]}; nothing was written."
        )
    return found


def _require(config: ExportConfig, found: fidelity.Fidelity | None) -> None:
    """Refuses a file that has lost too much, unless it is forced.

    Raises:
      ExportError: Telling the figures of both.
    """
    lost = found.lost(config.max_loss) if found else {}
    if found is None or not lost:
        return
    message = (
        f"The exported file must lose at most --max_loss={config.max_loss} of "
        f"{' and '.join(lost)}. Received: {found.described()}"
    )
    if not config.force:
        raise exports.ExportError(f"{message}; nothing was written. --force writes it.")
    logging.warning("%s; written all the same, as --force says.", message)
