"""What a call costs beside the vendor's file: inference, infer, features."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import tempfile
from collections.abc import Hashable, Iterator, Sequence

from checkpoints import manifest as manifests
from ondevice import sources
from ondevice.measuring import bounds, classes, contest, timing, worker
from signatures import contract

SECTION = "infer"

_VENDOR = "vendor's file"


def measure(
    folders: Sequence[pathlib.Path],
    source: str,
    runtimes: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    progress: contest.Progress,
) -> contest.Found:
    """Measures the calls of files beside the vendor's that they were made of.

    Args:
      folders: With model.tflite and, perhaps, inference.tflite; one that was made for
        a runtime is measured in that.
      source: The vendor's file, where the model's own word for it is none: the name of
        one or a path.
      runtimes: Names of installed runtimes.
      threads: Numbers of threads.
      rounds: Calls of each.
      progress: Wraps the rounds; is given a description.

    Raises:
      ValueError: If a file is damaged.
      OSError: If one cannot be read.
    """
    found = contest.Found()
    for folder in folders:
        manifest = classes.manifest_of(folder)
        fast_in = [r for r in runtimes if manifest.target in (manifests.ANY, r)]
        with _vendor(manifest, source, found) as vendor:
            for runtime, number in itertools.product(fast_in, threads):
                where = f"{runtime}, {contest.threads_said(number)}"
                said = f"{SECTION}: {_described(manifest)}, {where}"
                results = contest.hold(
                    SECTION,
                    _tasks(folder, manifest, vendor, runtime, number),
                    rounds,
                    lambda turns: progress(turns, said),
                    found,
                )
                _compare(said, manifest, results, number, found)
    return found


@contextlib.contextmanager
def _vendor(
    manifest: manifests.Manifest, source: str, found: contest.Found
) -> Iterator[pathlib.Path | None]:
    """A file with what a model was made of; None, and a note, where it is not known."""
    name, digest = manifest.source["name"], manifest.source["sha256"]
    refusals = []
    for place in dict.fromkeys((name, source)):
        try:
            located = sources.locate(place)
        except sources.SourceError as error:
            refusals.append(str(error))
            continue
        if located.sha256 == digest:
            with tempfile.TemporaryDirectory() as directory:
                path = pathlib.Path(directory) / "vendor.tflite"
                path.write_bytes(located.data)
                yield path
            return
        refusals.append(f"the digest of {place} is {located.sha256}, not {digest}")
    found.lacks({"contender": _VENDOR, "source": name}, "; ".join(refusals))
    yield None


def _described(manifest: manifests.Manifest) -> str:
    many = len(manifest.classes)
    ending = "es" if many > 1 else ""
    made_for = "" if manifest.target == manifests.ANY else f" for {manifest.target}"
    return f"{manifest.spec} {manifest.trainable}{made_for}, {many} class{ending}"


def _tasks(
    folder: pathlib.Path,
    manifest: manifests.Manifest,
    vendor: pathlib.Path | None,
    runtime: str,
    threads: int,
) -> dict[Hashable, worker.Task]:
    """By what is called."""
    calls: dict[str, tuple[pathlib.Path, str | None]] = {}
    if vendor is not None:
        calls[_VENDOR] = (vendor, None)
    if (folder / classes.INFERENCE).is_file():
        calls[classes.INFERENCE] = (folder / classes.INFERENCE, None)
    for signature in manifest.signatures:
        if signature.key in (contract.INFER, contract.FEATURES):
            calls[signature.key] = (folder / classes.MODEL, signature.key)
    return {
        name: worker.Task(
            "files",
            {
                "file": str(path),
                "runtime": runtime,
                "threads": threads,
                "signature": key,
            },
            {
                "contender": name,
                "runtime": runtime,
                "threads": threads,
                "classes": len(manifest.classes) if name != _VENDOR else 1,
                "trainable": manifest.trainable,
            },
        )
        for name, (path, key) in calls.items()
    }


def _compare(
    said: str,
    manifest: manifests.Manifest,
    results: dict[Hashable, contest.Result],
    threads: int,
    found: contest.Found,
) -> None:
    """Each over the vendor's, which has one class: more of them are another matter."""
    keys = {signature.key for signature in manifest.signatures}
    # Where the trunk trains, features run on weights that change.
    frozen = contract.TRAIN_FEATURES in keys
    limits: dict[Hashable, float] = {}
    if len(manifest.classes) == 1:
        limits[classes.INFERENCE] = bounds.INFERENCE
        limits[contract.INFER] = bounds.INFER_FROZEN if frozen else bounds.INFER
    if frozen:
        limits[contract.FEATURES] = bounds.FEATURES
    if _VENDOR not in results:
        return
    for name, result in results.items():
        if name != _VENDOR:
            found.ratios[f"{said}, {name} over the vendor's"] = timing.ratio(
                result.times,
                results[_VENDOR].times,
                limits.get(name),
                bounds.judged(threads),
            )
