"""Files with several numbers of classes, made once and kept (the build side)."""

from __future__ import annotations

import hashlib
import pathlib

import tensorflow as tf
from absl import logging

from checkpoints import atomic
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
    "ondevice/detection/anchors.py",
    "ondevice/measuring/class_files.py",
    "ondevice/fresh.py",
)
_ROOT = pathlib.Path(__file__).resolve().parents[2]


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
    stamp = f"{ported.source.sha256} {code_digest()} {tf.__version__}\n"
    note = folder / _MADE_BY
    if note.is_file() and note.read_text() == stamp:
        return folder
    logging.info("Making the files with %d classes, about a minute.", classes)
    wanted = recipe(ported, classes)
    weights = porting.with_classes(dict(ported.weights), wanted.layers)
    files = fresh.make(wanted, weights)
    folder.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    atomic.write(folder / layout.MODEL, [files.model])
    atomic.write(folder / layout.INFERENCE, [files.inference])
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
