"""Finds out what a folder of data holds, and reads it.

A folder holds, in this order of trial: folders named by class, with pictures in them;
annotations (annotations.py); or, for a detector of one class, pictures, there or in any
folders there. Where classes are ignored it holds annotations, or pictures, there and in
the folders there.
"""

import os
import pathlib
from collections.abc import Sequence

from absl import logging

from ondevice.device import (
    annotations,
    coco_annotations,
    coco_index,
    image_cache,
    images,
    samples,
)

# What the hands of all classes are where classes are ignored.
AS_PALMS = ("palm",)


def load(
    path: str | os.PathLike[str],
    classes: Sequence[str] | None,
    cache: image_cache.ImageCache | None = None,
    progress: samples.Progress = iter,
) -> samples.Dataset:
    """Reads a data set, and decodes every picture once to find the broken ones.

    Folders that are no class, files in them that are no pictures, and folders within a
    class's are left out, with a line in the log for each kind.

    Args:
      path: A folder, or a COCO file.
      classes: Class names by index; None ignores them: every picture and every
        annotated hand is one of `AS_PALMS`.
      cache: Keeps the decoded pictures for later.
      progress: Wraps the pictures while they are decoded.

    Returns:
      The data set; pictures from class folders have no labels yet.

    Raises:
      DataError: If nothing is there, or if anything is wrong with a picture or label;
        the message lists every fault with its file.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise samples.DataError(root, ["It must exist."])
    try:
        found, faults = _find(root, None if classes is None else tuple(classes))
    except OSError as error:
        raise samples.DataError(root, [str(error)]) from error
    if not found and not faults:
        faults = ["It must hold pictures of the classes."]
    found.sort(key=samples.order)
    cache = cache or image_cache.ImageCache(0)
    faults += samples.unreadable(found, cache.read, progress)
    faults += _repetitions(root, found)
    if faults:
        raise samples.DataError(root, faults)
    names = AS_PALMS if classes is None else tuple(classes)
    return samples.Dataset(names, tuple(found))


def _find(
    root: pathlib.Path, classes: tuple[str, ...] | None
) -> tuple[list[samples.Sample], list[str]]:
    if root.is_file():
        return coco_annotations.read(root, classes)
    entries = sorted(root.iterdir())
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    if classes is not None and any(name in folders for name in classes):
        return _class_folders(root, classes, folders, entries)
    pairs = annotations.find_pairs(root)
    if pairs is not None:
        return annotations.read_pairs(*pairs, classes)
    coco = coco_index.find(root)
    if coco is not None:
        return coco_annotations.read(coco, classes)
    if classes is None or len(classes) == 1:
        found = _anywhere(root, classes, folders)
        if found:
            return found, []
    wanted = "images, there or in folders"
    if classes is not None:
        wanted = f"a folder named by a class, one of {list(classes)}"
    return [], [
        f"It must have {wanted}, or annotations. Folders there: {sorted(folders)}."
    ]


def _anywhere(
    root: pathlib.Path,
    classes: tuple[str, ...] | None,
    folders: dict[str, pathlib.Path],
) -> list[samples.Sample]:
    """Pictures of one class whatever their folder, or of all."""
    loose = _pictures(root)
    inside = {name: _pictures(folder) for name, folder in folders.items()}
    names = _shortened([name for name, there in inside.items() if there], 12)
    found = [picture for there in inside.values() for picture in there]
    if classes is None:
        logging.info(
            "%s: all images count as palms: %d there, %d in folders%s.", root,
            len(loose), len(found), f": {names}" if found else "",
        )  # fmt: skip
        found += loose
    elif loose:
        found = loose
    elif found:
        logging.info(
            "%s: no folder is named %s; the images of all count as it: %s.",
            root, classes[0], names,
        )  # fmt: skip
    return [samples.Sample(picture, 0) for picture in found]


def _repetitions(root: pathlib.Path, found: Sequence[samples.Sample]) -> list[str]:
    """What is wrong with equal files: that they are labelled differently."""
    groups = samples.repeated(found)
    faults, equal = [], []
    for group in groups:
        names = ", ".join(str(sample.path) for sample in group)
        if len({(s.class_index, s.labels, s.unlabelled) for s in group}) > 1:
            faults.append(f"{names}: are one picture, and must have the same labels.")
        else:
            equal.append(names)
    if equal:
        logging.warning(
            "%s: %d pictures are there more than once, the first: %s.",
            root, len(equal), equal[0],
        )  # fmt: skip
    return faults


def _class_folders(
    root: pathlib.Path,
    classes: tuple[str, ...],
    folders: dict[str, pathlib.Path],
    entries: list[pathlib.Path],
) -> tuple[list[samples.Sample], list[str]]:
    others = sorted(set(folders) - set(classes))
    if others:
        logging.info("%s: left out, as no class: folders %s.", root, others)
    absent = [name for name in classes if name not in folders]
    if absent:
        logging.warning("%s: no folder for the classes %s.", root, absent)
    loose = sum(_is_picture(entry) for entry in entries)
    if loose:
        logging.info("%s: left out: %d pictures beside the folders.", root, loose)
    found = []
    for index, name in enumerate(classes):
        if name not in folders:
            continue
        inside = list(folders[name].iterdir())
        pictures = [entry for entry in inside if _is_picture(entry)]
        found += [samples.Sample(picture, index) for picture in pictures]
        rest = sorted(entry.name for entry in set(inside) - set(pictures))
        if rest:
            logging.info("%s: left out: %s.", folders[name], _shortened(rest))
        if not pictures:
            logging.warning("%s: holds no pictures.", folders[name])
    return found, []


def _pictures(folder: pathlib.Path) -> list[pathlib.Path]:
    return [entry for entry in sorted(folder.iterdir()) if _is_picture(entry)]


def _is_picture(path: pathlib.Path) -> bool:
    return (
        path.suffix.lower() in images.SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )


def _shortened(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
