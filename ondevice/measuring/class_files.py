"""Files with several numbers of classes, made once and kept (the build side)."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from checkpoints import atomic
from checkpoints import manifest as manifests
from ondevice import fresh, vendor
from ondevice.measuring import classes as layout
from ondevice.rebuild import porting
from signatures import losses, optimizers

# Tells which code made a folder's files: a change of the network must not be measured
# on yesterday's files.
_MADE_BY = "made_by.txt"
_MAKERS = (
    "checkpoints/*.py",
    "signatures/**/*.py",
    "ondevice/rebuild/*.py",
    "ondevice/convert.py",
    "ondevice/converter.py",
    "ondevice/rewrite.py",
    "ondevice/detection/anchors.py",
    "ondevice/measuring/class_files.py",
    "ondevice/fresh.py",
)
_ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Case:
    """A trainable file.

    Attributes:
      classes: How many.
      trainable: What trains.
      batch: Images in a training step.
      ops: `builtin` or `select`.
      target: Runtimes that it is to be fast in, one of `manifest.TARGETS`.
    """

    classes: int = 1
    trainable: str = "all"
    batch: int = 8
    ops: str = "builtin"
    target: str = manifests.ANY


def recipe(ported: vendor.Ported, classes: int) -> fresh.Recipe:
    """What `ondevice.build` makes without flags, but for the number of classes."""
    return fresh.Recipe(
        spec=ported.found.spec,
        classes=tuple(f"class_{k}" for k in range(classes)),
        trainable="all",
        settings=optimizers.Settings("adam", 1.0),
        losses=losses.LossWeights(),
        batch_size=8,
        ops="builtin",
        source={"name": ported.source.name, "sha256": ported.source.sha256},
    )


def make(ported: vendor.Ported, classes: int, directory: pathlib.Path) -> pathlib.Path:
    """Makes both files, unless this code has made them already.

    Args:
      ported: The vendor's detector.
      classes: How many.
      directory: Takes a folder for each source and number of classes.

    Returns:
      The folder that holds them, by the names of `ondevice.build`.
    """
    folder = directory / f"{ported.source.name}-{classes}"
    wanted = recipe(ported, classes)

    def convert() -> dict[str, bytes]:
        files = fresh.make(wanted, _weights(ported, wanted))
        return {layout.MODEL: files.model, layout.INFERENCE: files.inference}

    return _made(folder, ported, convert)


def make_case(
    ported: vendor.Ported, case: Case, directory: pathlib.Path
) -> pathlib.Path:
    """Makes the trainable file of a case, unless this code has made it already.

    Args:
      ported: The vendor's detector.
      case: What to make; the one that `make` makes comes with its inference file.
      directory: Takes a folder for each source and case.

    Returns:
      The folder that holds it.
    """
    if case == Case(case.classes):
        return make(ported, case.classes, directory)
    wanted = dataclasses.replace(
        recipe(ported, case.classes),
        trainable=case.trainable,
        batch_size=case.batch,
        ops=case.ops,
        target=case.target,
    )
    parts = (case.classes, case.trainable, case.batch, case.ops, case.target)
    said = "-".join(map(str, parts)).replace(":", "_")

    def convert() -> dict[str, bytes]:
        weights = _weights(ported, wanted)
        return {layout.MODEL: fresh.make_trainable(wanted, weights, {})[0]}

    return _made(directory / f"{ported.source.name}-{said}", ported, convert)


def _weights(ported: vendor.Ported, wanted: fresh.Recipe) -> dict[str, np.ndarray]:
    return porting.with_classes(dict(ported.weights), wanted.layers)


def _made(
    folder: pathlib.Path,
    ported: vendor.Ported,
    convert: Callable[[], Mapping[str, bytes]],
) -> pathlib.Path:
    """Fills a folder with files by name, unless this code has done so already."""
    stamp = f"{ported.source.sha256} {code_digest()} {tf.__version__}\n"
    note = folder / _MADE_BY
    if note.is_file() and note.read_text() == stamp:
        return folder
    atomic.make_directory(folder)
    logging.info("Making %s, about a minute.", folder)
    files = convert()
    note.unlink(missing_ok=True)
    for name, data in files.items():
        atomic.write(folder / name, [data])
    atomic.write(note, [stamp.encode()])
    return folder


def code_digest(root: pathlib.Path = _ROOT) -> str:
    """Hex SHA-256 of the source code that says what is in a file."""
    digest = hashlib.sha256()
    for pattern in _MAKERS:
        for path in sorted(root.glob(pattern)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
