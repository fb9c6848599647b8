"""What classes cost: infer, decoding and suppression with 1, 7, 20 and 80 of them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice.detection import anchors, decoding, geometry
from ondevice.device import images, session, trial
from ondevice.measuring import timing

SECTION = "classes"

# The files of a folder that `ondevice.build` wrote.
MODEL, INFERENCE = "model.tflite", "inference.tflite"
KINDS = (INFERENCE, MODEL)

# Classes -> what a detection may cost at most, in multiples of one with one class.
BOUNDS = {7: 1.05, 20: 1.1, 80: 1.3}

INFER, DETECT = "infer", "detect"

# Each interpreter is made so many times; `timing` says why.
_OPENINGS = 6

# Wraps what is gone through in a progress bar with a description.
Progress = Callable[[Iterable[int], str], Iterable[int]]

# Shares of the frame at which photographs are shown.
_SHARES = (1.0, 0.7, 0.5)


class NotComparableError(ValueError):
    """Files that cannot be held against each other."""

    exit_status = 2  # Of a command that was given them: a wrong flag.


def manifest_of(folder: pathlib.Path) -> manifests.Manifest:
    """What the trainable file in a folder says of itself.

    Raises:
      NotComparableError: If they have no manifest.
      ValueError: If the file or its manifest is malformed.
      OSError: If it cannot be read.
    """
    manifest = manifests.of_file(tflite_file.read(folder / MODEL))
    if manifest is None:
        raise NotComparableError(
            "A file must have an embedded manifest, as ondevice.build writes it. "
            f"Received: {folder / MODEL}."
        )
    return manifest


def count(folder: pathlib.Path) -> int:
    """How many classes the files in a folder have; errors as of `manifest_of`."""
    return len(manifest_of(folder).classes)


def decoder(
    spec: anchors.AnchorSpec, detect: Callable[..., Any] = decoding.detect
) -> Callable[[tuple[np.ndarray, np.ndarray]], Any]:
    """From what `infer` gives to detections, by `decoding.detect` or its like."""
    centres = anchors.centres(spec)

    def decode(outputs: tuple[np.ndarray, np.ndarray]) -> Any:
        regressors, logits = outputs
        return detect(regressors[0], logits[0], centres, spec.input_size)

    return decode


def pictures(
    paths: Sequence[pathlib.Path], size: int, input_range: tuple[float, float]
) -> list[np.ndarray]:
    """What is detected in: photographs in black frames, or noise without any.

    Args:
      paths: Of photographs.
      size: Side of the input in pixels.
      input_range: What the pixels 0 and 255 map to.

    Returns:
      [1, size, size, 3] float32 images, at least one.

    Raises:
      ImageError: If a photograph cannot be decoded.
    """
    random = np.random.default_rng(0)
    shown = []
    for path in paths:
        pixels = images.read(path)
        height, width = pixels.shape[:2]
        for share in _SHARES:
            placing = geometry.letterbox(width, height, share)
            shown.append(images.place(pixels, placing, size))
    shown = shown or [random.integers(0, 256, (size, size, 3)).astype(np.uint8)]
    return [images.to_input(square, input_range)[np.newaxis] for square in shown]


def measure(
    folders: Mapping[int, pathlib.Path],
    runtimes: Sequence[str],
    threads: Sequence[int],
    photographs: Sequence[pathlib.Path],
    rounds: int,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Measures every file in every runtime.

    Args:
      folders: Number of classes -> where its files lie; 1 among them.
      runtimes: Names of installed runtimes.
      threads: Numbers of threads.
      photographs: To detect in.
      rounds: Calls of each; rounded down to a multiple of the openings, 6 or more.
      progress: Wraps what is gone through; is given a description.

    Returns:
      Rows, and ratios by name.

    Raises:
      NotComparableError: If the files are of different detectors.
      ValueError: If one is damaged, or a runtime does not run it or crashes.
      OSError: If one cannot be read.
    """
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[str, Any]] = {}
    groups = [(k, r, t) for k in KINDS for r in runtimes for t in threads]
    for kind, runtime, number in groups:
        name = f"{kind}, {runtime}, {number} thread{'s' if number > 1 else ''}"
        counts = [count for count in sorted(folders) if count != 1]
        # One class twice: a file against itself shows the noise.
        paths = [folders[count] / kind for count in (1, 1, *counts)]
        for path in paths:
            trial.require(path, runtime, str(path))
        each = max(1, rounds // _OPENINGS)
        again, one, *others = timing.pooled(
            [
                _opened_once(paths, (runtime, number), photographs, each)
                for _ in progress(range(_OPENINGS), name)
            ]
        )
        rows += one.rows(SECTION)
        ratios[f"{SECTION}: {name}, 1 class over itself"] = timing.ratio(again, one)
        judged = timing.CPU if number == 1 else timing.WALL
        for count, found in zip(counts, others):
            rows += found.rows(SECTION)
            ratios[f"{SECTION}: {name}, {count} classes over 1"] = timing.ratio(
                found, one, BOUNDS.get(count), judged
            )
    return rows, ratios


def _opened_once(
    paths: Sequence[pathlib.Path],
    place: tuple[str, int],
    photographs: Sequence[pathlib.Path],
    rounds: int,
) -> list[timing.Times]:
    """The times of files in interpreters made for this."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(session.Session(p, *place)) for p in paths]
        common = _common(opened)
        shown = pictures(photographs, common.input_size, common.input_range)
        contenders = [
            _contender(path.name, place, found) for path, found in zip(paths, opened)
        ]
        return timing.measure(contenders, shown, rounds)


def _contender(
    kind: str, place: tuple[str, int], opened: session.Session
) -> timing.Contender:
    spec = anchors.AnchorSpec.from_dict(opened.manifest.anchors)
    return timing.Contender(
        {
            "contender": kind,
            "runtime": place[0],
            "threads": place[1],
            "classes": len(opened.manifest.classes),
        },
        {INFER: opened.infer, DETECT: decoder(spec)},
    )


def _common(opened: Sequence[session.Session]) -> manifests.Manifest:
    """The manifest of any, where all are of one detector."""
    found = {s.manifest.spec: s.manifest for s in opened}
    if len(found) != 1:
        raise NotComparableError(
            "The files must be of one detector, with other classes. "
            f"Received: {sorted(found)}."
        )
    return next(iter(found.values()))
