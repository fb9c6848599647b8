"""How long building and reconverting take, runtime checks apart (the build side)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import fresh, reconvert, vendor
from ondevice.measuring import bounds, class_files, contest, timing
from ondevice.rebuild import porting

SECTION = "build"

_BUILD, _RECONVERT = "build", "reconvert"
_KIND = "inference"


def measure(
    source: str, classes: int, rounds: int, progress: contest.Progress
) -> contest.Found:
    """Measures the way from a vendor's file to both files, and through Keras again.

    Args:
      source: As `sources.locate` takes it.
      classes: How many.
      rounds: Of each.
      progress: Wraps the rounds; is given a description.

    Raises:
      ValueError: If the source cannot be had, or the converter refuses.
    """
    made: dict[str, Any] = {}

    def port(_: Any) -> vendor.Ported:
        return vendor.read(source)

    def convert(ported: vendor.Ported) -> None:
        recipe = class_files.recipe(ported, classes)
        weights = porting.with_classes(dict(ported.weights), recipe.layers)
        made["files"], made["weights"] = fresh.make(recipe, weights), weights

    def reconverted(_: Any) -> None:
        files = made["files"]
        reconvert.reconvert(
            files.manifest, made["weights"], functools.partial(_template, files), _KIND
        )

    stages: dict[str, dict[str, Any]] = {
        _BUILD: {"read and port": port, "convert": convert},
        _RECONVERT: {f"{_KIND}.tflite": reconverted},
    }
    common = {"runtime": "", "threads": "", "classes": classes}
    convert(port(None))  # TensorFlow's first conversion loads much; reconvert needs it.
    times = timing.measure(
        [timing.Contender({"contender": n, **common}, s) for n, s in stages.items()],
        [None],
        rounds,
        warmup=0,
        progress=lambda turns: progress(turns, SECTION),
    )
    found = contest.Found()
    for taken in times:
        found.rows += taken.rows(SECTION)
        if taken.labels["contender"] == _BUILD:
            found.ratios[f"{SECTION}: {source}, build over {bounds.BUILD:g} s"] = (
                timing.ratio(taken, timing.allowed(bounds.BUILD, rounds), 1.0)
            )
    return found


def _template(
    files: fresh.Files,
) -> tuple[tflite_file.TfliteFile, manifests.Manifest]:
    """The inference file, as `reconvert` takes it."""
    manifest = dataclasses.replace(files.manifest, constants=files.constants)
    return tflite_file.parse(files.inference), manifest
