"""Checkpoints of either format: recognised, fitted to a model, written, averaged."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import allowance, store, strict_json, tensorflow_v1

ONDEVICE, TENSORFLOW = "ondevice", "tensorflow"
FORMATS = (ONDEVICE, TENSORFLOW)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
      format: One of `FORMATS`.
      tensors: Name -> array.
      header: What it says of itself; None in TensorFlow's format, which has none.
    """

    format: str
    tensors: Mapping[str, np.ndarray]
    header: store.Header | None


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A checkpoint that holds exactly a model's variables.

    Attributes:
      tensors: Name -> array.
      header: Of the model, where the checkpoint had none.
      zeroed: Names of the slots, and the step, that were missing and are zero now.
    """

    tensors: Mapping[str, np.ndarray]
    header: store.Header
    zeroed: tuple[str, ...]


def load_file(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint of either format, told apart by how it begins.

    Args:
      path: Of the file.

    Raises:
      CheckpointError: If it is of neither format, or damaged.
      OSError: If it cannot be read.
    """
    with open(path, "rb") as stream:
        start = stream.read(9)
    # Ours begins with the length of a table in JSON, the other one with the empty key:
    # none of it shared, no bytes. A table of 65,536 bytes begins so, too.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= store.MAX_TABLE:
        return Checkpoint(ONDEVICE, *store.load_file(path))
    if start.startswith(b"\0\0"):
        return Checkpoint(TENSORFLOW, tensorflow_v1.load_file(path), None)
    raise store.CheckpointError(
        f"A checkpoint must be one of ours, or of TensorFlow's first format, as "
        f"tf.raw_ops.Save writes it. Received: {os.fspath(path)}, which begins with "
        f"{start.hex() or 'nothing'}."
    )


def save_file(
    path: str | os.PathLike[str],
    kind: str,
    tensors: Mapping[str, np.ndarray],
    header: store.Header,
) -> int:
    """Writes a checkpoint of a format, and proves that it reads back bit for bit.

    Args:
      path: Of the file; its directory exists.
      kind: One of `FORMATS`.
      tensors: Name -> array, finite.
      header: Left out of TensorFlow's format, which has none.

    Returns:
      Bytes of the file.

    Raises:
      CheckpointError: If a tensor cannot be stored, and nothing was written; or if
        what was written reads back otherwise.
      OSError: If the file cannot be written.
    """
    if kind == TENSORFLOW:
        tensorflow_v1.save_file(path, tensors)
    else:
        store.save_file(path, tensors, header)
    found = load_file(path)
    if kind == TENSORFLOW:
        found = dataclasses.replace(found, header=header)
    differing = [
        name
        for name in sorted({*tensors, *found.tensors})
        if name not in tensors
        or name not in found.tensors
        or found.tensors[name].tobytes() != tensors[name].tobytes()
    ]
    if differing or found.format != kind or found.header != header:
        raise store.CheckpointError(
            "What was written must read back bit for bit. Received: "
            f"{os.fspath(path)}, which differs in {differing[:8] or 'its header'}."
        )
    return pathlib.Path(path).stat().st_size


def fit(
    checkpoint: Checkpoint,
    manifest: manifests.Manifest,
    renames: Sequence[tuple[str, str]] = (),
    zero_slots: bool = False,
) -> Fitted:
    """Makes a checkpoint one of a model, by name, or refuses it whole.

    Args:
      checkpoint: Of either format.
      manifest: Of the model.
      renames: (old, new) names of tensors; one `*` in each stands for what is kept, and
        a name that is told by itself goes before.
      zero_slots: Whether slots and the step may be missing, and are zero then.

    Raises:
      CheckpointError: Naming every fault: renames that find nothing or collide; missing
        or surplus tensors, other shapes or dtypes, numbers that are not finite; another
        model or optimizer, where the checkpoint says which; zeros that would take more
        than three times the checkpoint and a little.
    """
    tensors, faults = _renamed(checkpoint.tensors, renames)
    absent = [
        v
        for v in manifest.variables
        if v.role not in manifests.PARAMETERS and v.name not in tensors
    ]
    if zero_slots:
        # Adam has two slots of each weight's size; a manifest could name terabytes.
        held = sum(array.nbytes for array in tensors.values())
        zeros = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in absent)
        most = allowance.of(held) - held
        if zeros > most:
            faults.append(f"{zeros} bytes of missing slots, more than {most}")
        else:
            tensors |= {v.name: np.zeros(v.shape, v.dtype) for v in absent}
    faults += store.misfits(
        tensors,
        checkpoint.header,
        manifest.variables,
        manifest.fingerprint,
        manifest.optimizer,
    )
    if faults:
        hint = ""
        if absent and not zero_slots:
            hint = (
                f" {len(absent)} of the missing ones are slots of the optimizer or the "
                "step, which --missing_slots=zero sets to zero."
            )
        raise store.CheckpointError(
            "A checkpoint must hold exactly the variables of the model. Received: "
            f"{strict_json.summary(faults)}.{hint}"
        )
    steps = [v.name for v in manifest.variables if v.role == manifests.STEP]
    header = checkpoint.header or store.Header(
        fingerprint=manifest.fingerprint,
        optimizer=manifest.optimizer,
        step=int(tensors[steps[0]]) if steps else 0,
        classes=manifest.classes,
    )
    return Fitted(tensors, header, tuple(sorted(v.name for v in absent)))


def average(
    paths: Sequence[str | os.PathLike[str]],
    shares: Sequence[float],
    manifest: manifests.Manifest | None = None,
) -> Fitted:
    """Returns the mean of the weights of several checkpoints of one model.

    A mean of an optimizer's slots is the state of no run: m and v of Adam would be
    those of gradients that were never taken together, at another step in each run. So
    slots and the step are zero, and training goes on as from a new start.

    Args:
      paths: Of checkpoints of ours.
      shares: Of each in the mean; not negative, and not all 0.
      manifest: Of the model, which tells slots from weights; otherwise names do.

    Raises:
      CheckpointError: If one is damaged or has no header, or is not of the model; or
        naming all in which they differ: model, optimizer, classes, tensors; integers
        among the weights.
      OSError: If one cannot be read.
    """
    total = sum(shares)
    sums: dict[str, np.ndarray] = {}
    first: Checkpoint | None = None
    slots: frozenset[str] = frozenset()
    for path, share in zip(paths, shares, strict=True):
        found = load_file(path)
        first = first or found
        faults = _differences(found, first, slots)
        if faults:
            raise store.CheckpointError(
                "Checkpoints that are averaged must be of one model and hold finite "
                f"weights. Received: {os.fspath(path)} with "
                f"{strict_json.summary(faults)}."
            )
        if found is first:
            slots = _slots(found, path) if manifest is None else _told(found, manifest)
        for name, array in found.tensors.items():
            if name not in slots and array.dtype.kind == "f":
                part = array.astype(np.float64) * (share / total)
                sums[name] = sums[name] + part if name in sums else part
    assert first is not None and first.header is not None
    tensors = {
        name: np.zeros_like(array)
        if name in slots
        else sums[name].astype(array.dtype)
        if name in sums
        else array
        for name, array in first.tensors.items()
    }
    header = store.Header(
        first.header.fingerprint, first.header.optimizer, classes=first.header.classes
    )
    return Fitted(tensors, header, tuple(sorted(slots)))


def _renamed(
    tensors: Mapping[str, np.ndarray], renames: Sequence[tuple[str, str]]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors by their new names, and what is wrong with the renames."""
    patterns = [(old, new) for old, new in renames if "*" in old]
    new = {old: name for old, name in renames if "*" not in old}
    found: dict[str, np.ndarray] = {}
    faults = [f"no tensor {old!r} to rename" for old in new if old not in tensors]
    olds = [old for old, _ in renames]
    twice = [old for old in dict.fromkeys(olds) if olds.count(old) > 1]
    faults += [f"{old!r} renamed twice" for old in twice]
    for old, target in patterns:
        before, _, after = old.partition("*")
        if "*" in after or target.count("*") != 1:
            faults.append(f"{old}={target}, where each must have one *")
            continue
        kept = {
            name: name[len(before) : len(name) - len(after)]
            for name in tensors
            if len(name) >= len(before + after)
            and name.startswith(before)
            and name.endswith(after)
        }
        if not kept:
            faults.append(f"no tensor {old!r} to rename")
        new = {name: target.replace("*", part) for name, part in kept.items()} | new
    for name, array in tensors.items():
        target = new.get(name, name)
        if target in found:
            faults.append(f"two tensors that are {target!r}, one of them {name!r}")
        found[target] = array
    return found, faults


def _slots(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> frozenset[str]:
    """Returns the names of the slots and the step, told by how the format names them.

    Raises:
      CheckpointError: If weights differ in the slots that they have, so that a name may
        be that of a weight.
    """
    names = set(checkpoint.tensors)
    slots: dict[str, set[str]] = {}
    for name in names:
        weight, _, slot = name.rpartition("/")
        if weight in names:
            slots.setdefault(weight, set()).add(slot)
    children = {f"{weight}/{slot}" for weight in slots for slot in slots[weight]}
    kinds = {
        tuple(sorted(slots.get(name, ()))) for name in names - children - {"step"}
    }
    if len(kinds) > 1:
        raise store.CheckpointError(
            "Every weight of a checkpoint that is averaged must have the same slots, "
            "so that these can be told by their names; --model tells them otherwise. "
            f"Received: {os.fspath(path)}, with the slots "
            f"{strict_json.summary([strict_json.shown(k) for k in sorted(kinds)])}."
        )
    return frozenset(children | (names & {"step"}))


def _told(checkpoint: Checkpoint, manifest: manifests.Manifest) -> frozenset[str]:
    """Returns the names of the slots and the step, as the model tells them.

    Raises:
      CheckpointError: If the checkpoint is not the model's.
    """
    fit(checkpoint, manifest)
    parameters = manifests.PARAMETERS
    return frozenset(v.name for v in manifest.variables if v.role not in parameters)


def _differences(
    checkpoint: Checkpoint, first: Checkpoint, slots: frozenset[str]
) -> list[str]:
    """Returns all that keeps a checkpoint from being averaged with the first."""
    if checkpoint.header is None or first.header is None:
        return ["no header, which `convert --to=ondevice` gives it"]
    specs = tuple(
        manifests.VariableSpec(name, array.shape, array.dtype.name, manifests.WEIGHT)
        for name, array in first.tensors.items()
    )
    faults = store.misfits(
        checkpoint.tensors,
        checkpoint.header,
        specs,
        first.header.fingerprint,
        first.header.optimizer,
    )
    if checkpoint.header.classes != first.header.classes:
        faults.append(f"the classes {strict_json.shown(checkpoint.header.classes)}")
    if not faults:
        faults = [
            f"other numbers in {name!r} of {array.dtype}, which has no mean"
            for name, array in first.tensors.items()
            if name not in slots
            and array.dtype.kind != "f"
            and array.tobytes() != checkpoint.tensors[name].tobytes()
        ]
    return faults
