"""A data set with labels: read, and drawn by a detector where there are none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable

from absl import logging

from ondevice.device import data, image_cache, labelling, opening, samples

# Opens the detector that draws labels; only called where a picture has none.
Labeller = Callable[[], contextlib.AbstractContextManager[opening.Opened]]

# A message names at most this many pictures.
_NAMED = 3


def load(
    path: str | os.PathLike[str],
    classes: tuple[str, ...],
    labeller: Labeller,
    cache: image_cache.ImageCache,
    directory: pathlib.Path | None = None,
    progress: Callable = lambda items, what: items,
    chosen: bool = False,
) -> samples.Dataset:
    """Reads a data set and labels what has no labels.

    Args:
      path: As `data.load` takes it.
      classes: Names by index.
      labeller: Opens the detector that draws the labels.
      cache: Keeps the decoded pictures.
      directory: Where drawn labels are kept.
      progress: Wraps an iterable, and is told what it goes through.
      chosen: Whether the user chose the labeller, whatever it was trained on.

    Returns:
      The data set; pictures in which no hand was found have no labels.

    Raises:
      ValueError: As `data.load`, or as the labeller when it opens.
    """
    name = os.fspath(path)
    dataset = data.load(path, classes, cache, lambda items: progress(items, "images"))
    bare = sum(sample.labels is None for sample in dataset.samples)
    if not bare:
        return dataset
    with labeller() as opened:
        logging.info("%s: drawing the boxes of %d images.", name, bare)
        if opened.trained and not chosen:
            logging.warning(
                "They are drawn by weights that may have been trained on. "
                "--labels_from=FILE names the fresh file or the vendor's."
            )
        dataset, missing = labelling.label_images(
            dataset,
            opened.detector,
            cache=cache,
            directory=directory,
            progress=lambda items: progress(items, "labels"),
        )
    if missing:
        named = ", ".join(map(str, missing[:_NAMED]))
        logging.warning(
            "%s: no hand was found in %d of %d images: %s%s.", name, len(missing),
            len(dataset), named, " and others" if len(missing) > _NAMED else "",
        )  # fmt: skip
    return dataset


def digest(dataset: samples.Dataset) -> str:
    """Hex SHA-256 over the names of pictures and folders, classes and labels."""
    found = hashlib.sha256()
    for sample in dataset.samples:
        place = "/".join(sample.path.parts[-2:])
        found.update(repr((place, sample.class_index, sample.labels)).encode())
    return found.hexdigest()
