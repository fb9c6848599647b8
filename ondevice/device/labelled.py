"""A data set with labels: read, and drawn by a detector where there are none."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

from absl import logging

from ondevice.device import data, image_cache, labelling, opening, samples

# Opens the detector that draws labels; only called where a picture has none.
Labeller = Callable[[], contextlib.AbstractContextManager[opening.Opened]]

# A message names at most this many pictures.
_NAMED = 3


def load(
    paths: Sequence[str | os.PathLike[str]],
    classes: tuple[str, ...] | None,
    labeller: Labeller,
    cache: image_cache.ImageCache,
    directory: pathlib.Path | None = None,
    progress: Callable = lambda items, what: items,
    chosen: bool = False,
) -> list[samples.Dataset]:
    """Reads data sets and labels what has no labels.

    Args:
      paths: Each as `data.load` takes it.
      classes: Names by index; None ignores them, as `data.load` does.
      labeller: Opens the detector that draws the labels.
      cache: Keeps the decoded pictures.
      directory: Where drawn labels are kept.
      progress: Wraps an iterable, and is told what it goes through.
      chosen: Whether the user chose the labeller, whatever it was trained on.

    Returns:
      A data set for each path; pictures in which nothing was found have no labels.

    Raises:
      ValueError: As `data.load`, with the faults of all the sets, or as the labeller
        when it opens.
    """
    datasets, refused = [], []
    for path in paths:
        try:
            datasets.append(
                data.load(path, classes, cache, lambda items: progress(items, "images"))
            )
        except samples.DataError as error:
            refused.append(error)
    if refused:
        raise samples.DataError.of_all(refused)
    if all(s.labels is not None for dataset in datasets for s in dataset.samples):
        return datasets
    with labeller() as opened:
        if opened.trained and not chosen:
            logging.warning(
                "Boxes are drawn by weights that may have been trained on. "
                "--labels_from=FILE names the fresh file or the vendor's."
            )
        return [
            _drawn(os.fspath(path), dataset, opened, cache, directory, progress)
            for path, dataset in zip(paths, datasets, strict=True)
        ]


def _drawn(
    name: str,
    dataset: samples.Dataset,
    opened: opening.Opened,
    cache: image_cache.ImageCache,
    directory: pathlib.Path | None,
    progress: Callable,
) -> samples.Dataset:
    bare = sum(sample.labels is None for sample in dataset.samples)
    logging.info("%s: drawing the boxes of %d images.", name, bare)
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
            "%s: nothing was found in %d of %d images: %s%s.", name, len(missing),
            len(dataset), named, " and others" if len(missing) > _NAMED else "",
        )  # fmt: skip
    return dataset


def digest(dataset: samples.Dataset) -> str:
    """Hex SHA-256 over the names of pictures and folders, classes and labels."""
    found = hashlib.sha256()
    for sample in dataset.samples:
        place = "/".join(sample.path.parts[-2:])
        fields = (place, sample.class_index, sample.labels, *sample.unlabelled)
        found.update(repr(fields).encode())
    return found.hexdigest()
