"""A data set as records: pictures, their classes, and hands where they are labelled."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ondevice.detection import targets
from ondevice.device import images

# A message lists at most this many faults, and counts the rest.
_LISTED = 1000
# Characters of one; what it quotes may be anything.
LONGEST = 600

_CHECKING_THREADS = 2

# Wraps an iterable of known length to show progress: `lambda items: tqdm.tqdm(items)`.
Progress = Callable[[Sequence], Iterable]


class DataError(ValueError):
    """A data set that cannot be used; the message lists every fault with its file.

    Attributes:
      where: What cannot be used.
      faults: What is wrong, one by one.
      lines: The message, a line for each fault unless there is but one.
    """

    def __init__(self, where: object, faults: Sequence[str]) -> None:
        self.where = where
        listed = [_shortened(" ".join(f.split())) for f in faults[:_LISTED]]
        if len(faults) > _LISTED:
            listed.append(f"and {len(faults) - _LISTED} more.")
        head = f"{where} cannot be used as data:"
        self.lines = [head, *(f"  {fault}" for fault in listed)]
        if len(listed) == 1:
            self.lines = [f"{head} {listed[0]}"]
        self.faults = tuple(faults)
        super().__init__("\n".join(self.lines))

    @classmethod
    def of_all(cls, errors: Sequence[DataError]) -> DataError:
        """One error that lists the faults of several."""
        where = " and ".join(str(error.where) for error in errors)
        return cls(where, [fault for error in errors for fault in error.faults])


def _shortened(fault: str) -> str:
    """A fault without the middle of what it quotes, where that is endless."""
    half = LONGEST // 2
    return fault if len(fault) <= LONGEST else f"{fault[:half]} ... {fault[-half:]}"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One picture.

    Attributes:
      path: The file.
      class_index: Class of the picture, from its folder; None where labels say it.
      labels: Hands in units of the picture's width and height; () is a picture known
        to hold none; None where nobody has labelled it yet.
      unlabelled: Boxes in the same units in which there may be hands besides `labels`.
      drawn: Whether a detector drew the labels.
    """

    path: pathlib.Path
    class_index: int | None
    labels: tuple[targets.Label, ...] | None = None
    unlabelled: tuple[targets.Box, ...] = ()
    drawn: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Pictures in the order of the numbers in their names, then of their names.

    Attributes:
      classes: Class names by index.
      samples: In `order`.
    """

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def labelled(self) -> Dataset:
        """The samples that have labels, empty ones included."""
        kept = tuple(s for s in self.samples if s.labels is not None)
        return dataclasses.replace(self, samples=kept)


def numbers(path: pathlib.Path) -> tuple[int, ...]:
    """The numbers in a file's name, from left to right: img_1118.jpg -> (1118,)."""
    # A number of more digits than any camera counts is taken by its first.
    return tuple(int(digits) for digits in re.findall(r"[0-9]{1,18}", path.stem))


def order(sample: Sample) -> tuple[tuple[int, ...], str, str]:
    """Sort key: numbers in the name, then the name, then the folder."""
    return numbers(sample.path), sample.path.name, str(sample.path.parent)


def split(dataset: Dataset, share: float = 0.1) -> tuple[Dataset, Dataset]:
    """Holds out the last files in the order of their numbers.

    Every class is cut at one number, so that photographs of one person, who follow each
    other in the numbers, do not stand on both sides: files with the number of the first
    one that is held out are held out with it, unless that more than doubles their
    count.

    Args:
      dataset: Two pictures or more.
      share: Of the files to hold out, in (0, 1).

    Returns:
      (to train on, held out), both in the order of the data set.

    Raises:
      DataError: If there are fewer than two pictures.
    """
    if len(dataset) < 2:
        raise DataError(
            "A single picture", ["It must be two or more to hold some out."]
        )
    ordered = sorted(dataset.samples, key=order)
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    cut = len(ordered) - count
    first = numbers(ordered[cut].path)
    same = next(i for i, s in enumerate(ordered) if numbers(s.path) == first)
    if same > 0 and len(ordered) - same <= 2 * count:
        cut = same
    return (
        dataclasses.replace(dataset, samples=tuple(ordered[:cut])),
        dataclasses.replace(dataset, samples=tuple(ordered[cut:])),
    )


def repeated(samples: Sequence[Sample]) -> list[tuple[Sample, ...]]:
    """The samples whose files are equal to the byte and not empty, in groups.

    Raises:
      OSError: If a file cannot be read.
    """
    by_size: dict[int, list[Sample]] = {}
    for sample in samples:
        by_size.setdefault(sample.path.stat().st_size, []).append(sample)
    groups: dict[bytes, list[Sample]] = {}
    for size, several in by_size.items():
        if size and len(several) > 1:  # Files of different sizes need not be read.
            for sample in several:
                digest = hashlib.sha256(sample.path.read_bytes()).digest()
                groups.setdefault(digest, []).append(sample)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def common(first: Sequence[Sample], second: Sequence[Sample]) -> list[pathlib.Path]:
    """The files of the second that are equal to one of the first.

    Raises:
      OSError: If a file cannot be read.
    """
    ours = {id(sample) for sample in first}
    return [
        sample.path
        for group in repeated([*first, *second])
        if any(id(sample) in ours for sample in group)
        for sample in group
        if id(sample) not in ours
    ]


def unreadable(
    samples: Sequence[Sample],
    read: Callable[[pathlib.Path], np.ndarray] = images.read,
    progress: Progress = iter,
) -> list[str]:
    """Decodes every picture, two at a time.

    Returns:
      What is wrong, for each that is broken, in the order of the samples.
    """

    def fault(sample: Sample) -> str | None:
        try:
            read(sample.path)
        except images.ImageError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(_CHECKING_THREADS) as pool:
        # A future each, not their results: a large picture is dropped once decoded.
        futures = [pool.submit(fault, sample) for sample in samples]
        results = [future.result() for future in progress(futures)]
    return [result for result in results if result is not None]
