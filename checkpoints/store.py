"""The checkpoint file: named tensors and a header; atomic write, strict read.

The format is specified in the docstring of the package.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import atomic, manifest, scans, shapes, strict_json

FORMAT = "ondevice.checkpoint"
FORMAT_VERSION = 1
# Bytes of the table; one of 4,000 tensors takes 0.6 MB.
MAX_TABLE = 16 * 2**20

DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "|i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "|u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "|b1",
}
_NAMES = {
    dtype: name
    for name, text in DTYPES.items()
    for dtype in (np.dtype(text), np.dtype(text).newbyteorder())
}
_SIZES = {name: np.dtype(text).itemsize for name, text in DTYPES.items()}
_LENGTH = struct.Struct("<Q")
_KEYS = {"format", "header", "crc32", "checksum"}
# Stands for the metadata in a table's text; a tensor's entry is an object.
_HOLE = '"__metadata__":0'


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or not of this model and optimizer."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself; every value is JSON.

    Attributes:
      fingerprint: Of the model, as `manifest.fingerprint` gives it.
      optimizer: {"name", hyper-parameters}, as in the manifest.
      step: Optimizer steps taken.
      epoch: Epochs completed.
      seed: Of the run.
      random_state: State of the run's generators, or None.
      classes: Class names in order.
      extra: Whatever else a run needs to go on, as its best metric.
      format_version: Of the file.
    """

    fingerprint: str
    optimizer: Mapping[str, Any]
    step: int = 0
    epoch: int = 0
    seed: int = 0
    random_state: Any = None
    classes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One tensor in the table."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def save_file(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], header: Header
) -> None:
    """Writes a checkpoint; at any moment `path` is the old file or the new one.

    Args:
      path: Of the file; its directory exists.
      tensors: Name -> array of any shape and a dtype of `DTYPES`, finite.
      header: What the file says of itself.

    Raises:
      CheckpointError: If a name, a dtype or a value cannot be stored, naming each; or
        if there are so many small tensors that `load_file` would refuse their table.
      OSError: If the file cannot be written; the old one is as it was.
    """
    arrays = {name: np.asarray(tensors[name]) for name in tensors}
    kinds = {name: _NAMES.get(array.dtype) for name, array in arrays.items()}
    faults = [f"{n!r} of dtype {arrays[n].dtype}" for n in kinds if kinds[n] is None]
    faults += ["the name '__metadata__'"] * ("__metadata__" in arrays)
    _storable(faults, path)
    try:
        described = strict_json.dump(header)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"A header must hold JSON alone. Received: {error}; nothing was written to "
            f"{os.fspath(path)}."
        ) from error
    chunks, table, position = {}, {}, 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array, kind = arrays[name], kinds[name] or ""
        chunks[name] = _bytes(array.astype(DTYPES[kind], copy=False))
        end = position + chunks[name].nbytes
        table[name] = _Entry(kind, array.shape, (position, end))
        position = end
    texts = _texts(tuple(table.items()))

    def head() -> bytes:
        """What is found out while the disk is at work on the tensors."""
        _storable(scans.not_finite(arrays), path)
        return _head(described, scans.crcs(chunks), texts)

    reserved = _head(described, dict.fromkeys(chunks, "0" * 8), texts)
    # What a reader would refuse must not take an older file's place.
    text = reserved[_LENGTH.size :].decode()
    fault = strict_json.excess(text, len(reserved) + position)
    if fault:
        raise CheckpointError(
            f"Tensors must not be many and tiny. Received: {len(arrays)}, whose table "
            f"is {fault}; nothing was written to {os.fspath(path)}."
        )
    atomic.write(path, chunks.values(), head, len(reserved))


def load_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], Header]:
    """Reads a checkpoint and proves it whole.

    Args:
      path: Of the file.

    Returns:
      Name -> array, and the header. The arrays share one block of memory and may be
      written to.

    Raises:
      CheckpointError: If the file is no checkpoint, is cut short or is damaged; the
        error names the damaged tensors, or the first of many.
      OSError: If it cannot be read.
    """
    try:
        return _load(pathlib.Path(path))
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


def require(
    tensors: Mapping[str, np.ndarray],
    header: Header | None,
    variables: tuple[manifest.VariableSpec, ...],
    fingerprint: str,
    optimizer: Mapping[str, Any] | None,
) -> None:
    """Proves that a checkpoint fits a model, so that it is taken whole or not at all.

    Args:
      tensors: As `load_file` gives them.
      header: As `load_file` gives it; None where the format has none, and nothing of
        it is compared then.
      variables: Every variable of the model, slots and step among them.
      fingerprint: Of the model.
      optimizer: Of the model; None where it does not matter, as for inference.

    Raises:
      CheckpointError: Naming every fault: another model or optimizer; missing, surplus
        or misshapen tensors, wrong dtypes, numbers that are not finite.
    """
    found = misfits(tensors, header, variables, fingerprint, optimizer)
    if found:
        raise CheckpointError(
            "A checkpoint must hold exactly the variables of this model. Received: "
            f"{strict_json.summary(found)}; nothing was restored."
        )


def misfits(
    tensors: Mapping[str, np.ndarray],
    header: Header | None,
    variables: tuple[manifest.VariableSpec, ...],
    fingerprint: str,
    optimizer: Mapping[str, Any] | None,
) -> list[str]:
    """Returns all that keeps a checkpoint from fitting a model; as `require`."""
    found = []
    if header is not None and header.fingerprint != fingerprint:
        found.append(
            f"another model, {header.fingerprint[:16]!r}, not {fingerprint[:16]!r}"
        )
    if header is not None and optimizer is not None:
        there, own = _json(header.optimizer), _json(optimizer)
        if there != own:
            found.append(f"another optimizer, {there[:400]}, not {own[:400]}")
    specs = {variable.name: variable for variable in variables}
    if missing := sorted(set(specs) - set(tensors)):
        found.append(f"missing tensors {_listed(missing)}")
    if surplus := sorted(set(tensors) - set(specs)):
        found.append(f"surplus tensors {_listed(surplus)}")
    for name in sorted(set(specs) & set(tensors)):
        array, spec = tensors[name], specs[name]
        if array.shape != spec.shape:
            found.append(f"{name[:80]!r} of shape {array.shape}, not {spec.shape}")
        if array.dtype != np.dtype(spec.dtype):
            found.append(f"{name[:80]!r} of dtype {array.dtype}, not {spec.dtype}")
    return found + scans.not_finite(tensors)


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - strict_json.MAX_FAULTS
    shown = [name[:80] for name in names[: strict_json.MAX_FAULTS]]
    return f"{shown} and {more} more" if more > 0 else str(shown)


def _storable(faults: list[str], path: str | os.PathLike[str]) -> None:
    if faults:
        raise CheckpointError(
            f"Tensors must be finite and of the dtypes {list(DTYPES)}. Received: "
            f"{strict_json.summary(faults)}; nothing was written to {os.fspath(path)}."
        )


def _head(header: str, sums: Mapping[str, str], texts: tuple[str, str]) -> bytes:
    """Returns everything before the tensors' bytes; `texts` as `_texts` gives them."""
    table, described = texts
    metadata = {"format": FORMAT, "header": header, "crc32": strict_json.dump(sums)}
    metadata["checksum"] = _checksum(metadata, described)
    filled = f'"__metadata__":{strict_json.dump(metadata)}'
    data = table.replace(_HOLE, filled, 1).encode()
    data += b" " * (-len(data) % 8)
    return _LENGTH.pack(len(data)) + data


@functools.lru_cache(4)  # A run saves the same tensors again and again.
def _texts(table: tuple[tuple[str, _Entry], ...]) -> tuple[str, str]:
    """Returns the table's JSON, with `_HOLE`, and what its checksum is of."""
    entries = {name: vars(entry) for name, entry in table}
    return strict_json.dump({"__metadata__": 0} | entries), _described(dict(table))


def _load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Header]:
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else 0
        if not 2 <= length <= min(MAX_TABLE, size - _LENGTH.size):
            raise CheckpointError(
                "A checkpoint must begin with the length of its table, at most "
                f"{MAX_TABLE} bytes. Received: {length}, in a file of {size} bytes."
            )
        text = stream.read(length)
        data = np.empty(size - _LENGTH.size - length, np.uint8)
        (table, header, sums), taken = scans.beside(
            lambda: _table(text, size), lambda: stream.readinto(data.data), data.nbytes
        )
    end = max((e.data_offsets[1] for e in table.values()), default=0)
    if end != data.size:
        raise CheckpointError(
            f"A checkpoint must end with its last tensor, at byte "
            f"{_LENGTH.size + length + end}. Received: {size} bytes."
        )
    if taken != end:
        raise CheckpointError("The file must not change while it is read.")
    chunks = {name: data[slice(*table[name].data_offsets)] for name in sorted(table)}
    there = scans.crcs({name: chunk.data for name, chunk in chunks.items()})
    damaged = [name for name in chunks if there[name] != sums[name]]
    if damaged:
        raise CheckpointError(
            "Every tensor must have the checksum that the file gives for it. Received: "
            f"others for {_listed(damaged)}."
        )
    tensors = {
        name: chunk.view(DTYPES[table[name].dtype]).reshape(table[name].shape)
        for name, chunk in chunks.items()
    }
    return tensors, header


def _table(
    text: bytes, size: int
) -> tuple[dict[str, _Entry], Header, dict[str, str]]:
    """Reads the table of a file of so many bytes.

    Every check that needs no tensor is made here.

    Returns:
      Name -> entry, the header, and name -> checksum.
    """
    value = _object(text, "the table", size)
    texts = value.pop("__metadata__", None)
    if (
        not isinstance(texts, dict)
        or set(texts) != _KEYS
        or not all(isinstance(part, str) for part in texts.values())
        or texts["format"] != FORMAT
    ):
        raise _malformed([f"__metadata__ {strict_json.shown(texts)}"])
    faults: list[str] = []
    table = strict_json.decode(Mapping[str, _Entry], value, "tensor", faults)
    faults = faults or _layout(table)
    if not faults and _checksum(texts, _described(table)) != texts["checksum"]:
        faults.append("a header that does not match its checksum")
    if faults:
        raise _malformed(faults)
    sums = _object(texts["crc32"], "crc32", size)
    found = _object(texts["header"], "the header", size)
    if found.get("format_version") != FORMAT_VERSION:
        version = strict_json.shown(found.get("format_version"))
        raise _malformed([f"format version {version}"])
    header = strict_json.decode(Header, found, "header", faults)
    if set(sums) != set(table):
        faults.append("checksums that are not of the tensors")
    if faults:
        raise _malformed(faults)
    return table, header, sums


def _object(text: str | bytes, where: str, size: int) -> dict[str, Any]:
    value, faults = strict_json.load(text, size)
    if faults or not isinstance(value, dict):
        raise _malformed([f"{where}: {'; '.join(faults) or 'no object'}"])
    return value


def _layout(table: dict[str, _Entry]) -> list[str]:
    """Returns what is wrong with the places of the tensors."""
    faults, position = [], 0
    for name in sorted(table, key=lambda name: table[name].data_offsets):
        kind, shape = table[name].dtype, table[name].shape
        begin, end = table[name].data_offsets
        if kind not in DTYPES or not shapes.is_possible(shape):
            faults.append(f"{name[:80]!r} of {kind[:8]!r} {shape[:8]}")
            continue
        size = math.prod(shape) * _SIZES[kind]
        if begin != position or end - begin != size:
            faults.append(f"{name[:80]!r} at {begin}:{end}, not {position}:+{size}")
        position = end
    return faults


def _malformed(faults: list[str]) -> CheckpointError:
    return CheckpointError(
        f"A checkpoint's table must be as the format {FORMAT!r} has it. Received: "
        f"{strict_json.summary(faults)}."
    )


def _checksum(metadata: Mapping[str, str], described: str) -> str:
    parts = (metadata["header"], metadata["crc32"], described)
    return scans.crc("\n".join(parts).encode(errors="replace"))


def _described(table: Mapping[str, _Entry]) -> str:
    """The tensors, as the checksum covers them."""
    return strict_json.dump(
        [[name, e.dtype, e.shape] for name, e in sorted(table.items())]
    )


def _bytes(array: np.ndarray) -> memoryview:
    """Returns an array's bytes in row-major order, without a copy where they are so."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data if flat.size else memoryview(b"")


def _json(value: Mapping[str, Any]) -> str:
    return strict_json.dump(value)
