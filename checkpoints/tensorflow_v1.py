"""TensorFlow's first checkpoint format, which `tf.raw_ops.Save` writes; no tensorflow.

The file is a sorted table (`checkpoints.sorted_table`) of `SavedTensorSlices` messages:

    key ""      meta (1): tensor (1), repeated: name (1), shape (2), dtype (3),
                          slices (4); versions (2): producer (1), min_consumer (2)
    each other  data (2): name (1), slice (2), tensor (3), its numbers alone: packed, in
                          the field of `TensorProto` that its dtype has

A slice is an `extent` (1) for each axis, empty where it is the whole axis. The key of a
tensor that was saved whole is its name, rank and extents as `OrderedCode` writes them:
so keys in rising order are names in rising order.

Read are tensors that were saved whole; those that were saved in slices are refused. Of
two of one name TensorFlow keeps the first one's numbers, and lists both: refused, too.
An int64 of a small value takes one byte in the file, a tensor without numbers thirty,
a name four bytes for each where one of its characters is beyond U+FFFF: so the numbers
of these are bounded.

Source: tensorflow/core/util/{saved_tensor_slice.proto,saved_tensor_slice_util.cc,
tensor_slice_writer.cc,tensor_slice_reader.cc}, tensorflow/core/lib/strings/
ordered_code.cc, tensorflow/core/framework/{tensor,tensor_shape,types}.proto.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from checkpoints import (
    allowance,
    atomic,
    scans,
    shapes,
    sorted_table,
    store,
    strict_json,
    wire,
)

# Tensors that one file may hold; a model of a thousand weights has 3,001 with Adam's.
MAX_TENSORS = 2**13
# Bytes of a name.
MAX_NAME = 2**16
# Slices of one tensor that are counted for the error that refuses it.
_MOST_SLICES = 1000
# Numbers of 32 and 64 bits, which a file may hold in a byte each; a model of ours has
# the number of its steps.
MAX_INTEGERS = allowance.FREE_BYTES // 16
# Bytes of one message; TensorFlow writes no longer ones.
MAX_MESSAGE = 2**31

# The version that TensorFlow calls TF_CHECKPOINT_VERSION.
_VERSION = 1
_WHOLE = b"\x80\x7f"  # Start 0 and length -1, as OrderedCode writes them.
_B, _V = wire.BYTES, wire.VARINT


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A dtype: its DataType, the field of its numbers, whether they are varints."""

    number: int
    field: int
    varints: bool = True


_KINDS = types.MappingProxyType(
    {
        "float32": _Kind(1, 5, False),
        "float64": _Kind(2, 6, False),
        "int32": _Kind(3, 7),
        "uint8": _Kind(4, 7),
        "int16": _Kind(5, 7),
        "int8": _Kind(6, 7),
        "int64": _Kind(9, 10),
        "bool": _Kind(10, 11),
        "uint16": _Kind(17, 7),
        "float16": _Kind(19, 13),  # The bits, as an unsigned number.
    }
)
_DTYPES = {kind.number: name for name, kind in _KINDS.items()}
# What TensorFlow can save beside those, for errors.
_OTHERS = {
    7: "string", 8: "complex64", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16",
    16: "quint16", 18: "complex128",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor as the table of contents has it."""

    dtype: str
    shape: tuple[int, ...]


def load_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a checkpoint and proves it whole.

    Args:
      path: Of the file.

    Returns:
      Name -> array, in the order of the file; they may be written to.

    Raises:
      CheckpointError: As `parse`.
      OSError: If it cannot be read.
    """
    try:
        return parse(pathlib.Path(path).read_bytes())
    except store.CheckpointError as error:
        raise store.CheckpointError(f"{os.fspath(path)}: {error}") from error


def parse(data: bytes) -> dict[str, np.ndarray]:
    """Reads the content of a checkpoint; as `load_file`.

    Raises:
      CheckpointError: If it is none, is cut short or is damaged, or holds tensors that
        were saved in slices, twice, or in a dtype that a checkpoint of ours has not;
        names the first twenty of these.
    """
    records = sorted_table.read(data)
    key, value = next(records, (None, None))
    if key != b"" or value is None:
        raise _malformed("no table of contents")
    entries = _contents(value)
    integers = _integers((entry.dtype, entry.shape) for entry in entries.values())
    if integers > MAX_INTEGERS:
        raise _malformed(f"{integers} integers, more than {MAX_INTEGERS}")
    names = {_key(name, len(entry.shape)): name for name, entry in entries.items()}
    found = {}
    for key, value in records:
        name = names.pop(key, None)
        if name is None:
            raise _malformed(f"a record that it does not list, {key[:80].hex()}")
        found[name] = _tensor(value, name, entries[name])
    if names:
        missing = [repr(name[:80]) for name in names.values()]
        raise _malformed(f"no record of {strict_json.summary(missing)}")
    return found


def save_file(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Writes a checkpoint, byte for byte as `tf.raw_ops.Save` does.

    At any moment `path` is the old file or the new one.

    Args:
      path: Of the file; its directory exists.
      tensors: Name -> array of any shape, finite.

    Raises:
      CheckpointError: If a name, a dtype or a value cannot be stored; names each.
      OSError: If the file cannot be written; the old one is as it was.
    """
    arrays = {name: np.asarray(tensors[name]) for name in sorted(tensors)}
    faults = [
        f"{name[:80]!r} of dtype {array.dtype}"
        for name, array in arrays.items()
        if array.dtype.name not in _KINDS
    ]
    faults += [
        f"{name[:80]!r} of shape {array.shape}"
        for name, array in arrays.items()
        # Ten bytes are the longest number.
        if array.ndim > shapes.MAX_RANK or 10 * array.size >= MAX_MESSAGE
    ]
    integers = _integers((array.dtype.name, array.shape) for array in arrays.values())
    faults += [f"{integers} integers"] if integers > MAX_INTEGERS else []
    faults += [
        f"{name[:80]!r}, no text, or longer than {MAX_NAME} bytes"
        for name in arrays
        if not _encodable(name)
    ]
    faults += [] if 0 < len(arrays) <= MAX_TENSORS else [f"{len(arrays)} tensors"]
    faults += scans.not_finite(arrays)
    if faults:
        raise store.CheckpointError(
            f"A checkpoint of TensorFlow must hold 1 to {MAX_TENSORS} finite tensors "
            f"of the dtypes {list(_KINDS)} and rank {shapes.MAX_RANK} at most, and no "
            f"more than {MAX_INTEGERS} integers. "
            f"Received: {strict_json.summary(faults)}; nothing was written to "
            f"{os.fspath(path)}."
        )
    atomic.write(path, sorted_table.write(_records(arrays)))


def _contents(record: memoryview) -> dict[str, _Entry]:
    """Reads the table of contents."""
    where = "the table of contents"
    tag = wire.varint(record, 0, where)[0] if record else 0
    if tag == 8:  # TensorFlow's second format begins with a number of shards.
        raise _malformed("the index of a checkpoint in TensorFlow's second format")
    meta = wire.single(record, {1: _B}, where).get(1, memoryview(b""))
    found: dict[str, _Entry] = {}
    faults: list[str] = []
    # What names may take beyond their bytes; their keys take those again.
    spare = allowance.FREE_BYTES // 4
    versions = 0
    for number, value in wire.fields(meta, {1: _B, 2: _B}, where):
        if number == 2:
            versions += 1
            version = wire.single(value, {1: _V, 2: _V}, "the versions")
            if versions > 1 or version.get(2, 0) > _VERSION:
                raise _malformed(f"versions {version}")
            continue
        name, entry = _entry(value, faults)
        if name in found:
            raise _malformed(f"{name[:80]!r} twice")
        if len(found) == MAX_TENSORS:
            raise _malformed(f"more than {MAX_TENSORS} tensors")
        found[name] = entry
        spare -= sys.getsizeof(name) - len(name)
        if spare < 0:
            raise _malformed("names of too many characters beyond U+FFFF")
        if len(faults) >= strict_json.MAX_FAULTS:
            break  # Of what is refused no more is told, however long it goes on.
    if faults:
        raise store.CheckpointError(
            f"Tensors must be saved whole, once, and of the dtypes {list(_KINDS)}. "
            f"Received: {strict_json.summary(faults)}."
        )
    return found


def _entry(data: memoryview, faults: list[str]) -> tuple[str, _Entry]:
    """Reads what the table of contents says of a tensor; appends what is refused."""
    where = "an entry of the table of contents"
    name, shape, kind = "", None, 0
    slices = pieces = 0
    seen = set()
    for number, value in wire.fields(data, {1: _B, 2: _B, 3: _V, 4: _B}, where):
        if number != 4 and number in seen:
            raise _malformed(f"field {number} of an entry twice")
        seen.add(number)
        if number == 1:
            name = _text(value, where)
        elif number == 2:
            shape = _shape(value, where)
        elif number == 3:
            kind = value
        else:
            slices += 1
            if slices > _MOST_SLICES:
                raise _malformed(f"{name[:80]!r} in more than {_MOST_SLICES} slices")
            pieces += _rank_of_whole(value, where) is None
    dtype = _DTYPES.get(kind)
    shown = repr(name[:80])
    if dtype is None:
        faults.append(f"{shown} of dtype {_OTHERS.get(kind, kind)}")
    if pieces:
        faults.append(f"{shown} in {slices} slices")
    elif slices > 1:
        faults.append(
            f"{shown} saved {slices} times, as weights of one name are: all but the "
            "first are lost"
        )
    elif not slices or shape is None:
        raise _malformed(f"{shown} without a slice or a shape")
    return name, _Entry(dtype or "", shape or ())


def _integers(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    """The integers of 32 and 64 bits in tensors of these dtypes and shapes."""
    return sum(
        math.prod(shape) for dtype, shape in tensors if dtype in ("int32", "int64")
    )


def _shape(data: memoryview, where: str) -> tuple[int, ...]:
    sides: list[int] = []
    for _, value in wire.fields(data, {2: _B}, where):
        side = wire.single(value, {1: _V}, where).get(1, 0)
        sides.append(side)
        if (
            len(sides) > shapes.MAX_RANK
            or math.prod(max(side, 1) for side in sides) > shapes.MAX_ELEMENTS
        ):
            raise _malformed(f"a shape that begins with {sides}")
    return tuple(sides)


def _rank_of_whole(data: memoryview, where: str) -> int | None:
    """Returns the axes of a slice that is the whole tensor, None where it is not."""
    rank = 0
    for _, extent in wire.fields(data, {1: _B}, where):
        rank += 1
        if rank > shapes.MAX_RANK or wire.single(extent, {1: _V, 2: _V}, where):
            return None
    return rank


def _tensor(record: memoryview, name: str, entry: _Entry) -> np.ndarray:
    """Reads a record, which must be of that tensor."""
    where = f"the record of {name[:80]!r}"
    data = wire.single(record, {2: _B}, where).get(2, memoryview(b""))
    parts = wire.single(data, {1: _B, 2: _B, 3: _B}, where)
    rank = _rank_of_whole(parts.get(2, memoryview(b"")), where)
    if parts.get(1, b"") != name.encode() or rank != len(entry.shape):
        raise _malformed(f"another name, or a slice, in {where}")
    kind, dtype = _KINDS[entry.dtype], np.dtype(entry.dtype)
    numbers = wire.single(parts.get(3, memoryview(b"")), {kind.field: _B}, where)
    packed = numbers.get(kind.field, memoryview(b""))
    count = math.prod(entry.shape)
    if kind.varints:
        stored = np.dtype(np.uint16) if dtype == np.float16 else dtype
        flat = wire.unpack(packed, count, stored, where).view(dtype)
        return flat.reshape(entry.shape)
    if len(packed) != count * dtype.itemsize:
        raise _malformed(
            f"{len(packed)} bytes for the shape {entry.shape} of {dtype}, in {where}"
        )
    flat = np.frombuffer(packed, dtype.newbyteorder("<")).astype(dtype)
    return flat.reshape(entry.shape)


def _records(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the table's keys and values; the arrays are sorted by name."""
    listed = b""
    for name, array in arrays.items():
        dims = (wire.encode(1, side) if side else b"" for side in array.shape)
        shape = b"".join(wire.encode(2, dim) for dim in dims)
        listed += wire.encode(
            1,
            (wire.encode(1, name.encode()) if name else b"")
            + wire.encode(2, shape)
            + wire.encode(3, _KINDS[array.dtype.name].number)
            + wire.encode(4, _whole(array.ndim)),
        )
    meta = listed + wire.encode(2, wire.encode(1, _VERSION))
    yield b"", wire.encode(1, meta)
    for name, array in arrays.items():
        kind = _KINDS[array.dtype.name]
        if kind.varints:
            half = array.dtype.kind == "f"
            packed = wire.pack(array.astype("=f2").view(np.uint16) if half else array)
        else:
            packed = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        numbers = wire.encode(kind.field, packed) if packed else b""
        named = wire.encode(1, name.encode()) if name else b""
        whole = wire.encode(2, _whole(array.ndim))
        record = wire.encode(2, named + whole + wire.encode(3, numbers))
        yield _key(name, array.ndim), record


def _whole(rank: int) -> bytes:
    """Writes the slice that is a whole tensor."""
    return wire.encode(1, b"") * rank


def _key(name: str, rank: int) -> bytes:
    """Returns the key of a tensor's record: 0, name, rank and extents, ordered."""
    escaped = name.encode().replace(b"\0", b"\0\xff")  # UTF-8 has no 0xff.
    dims = bytes([1, rank]) if rank else b"\0"
    return b"\0" + escaped + b"\0\1" + dims + _WHOLE * rank


def _text(data: memoryview, where: str) -> str:
    if len(data) > MAX_NAME:
        raise _malformed(f"a name of {len(data)} bytes, more than {MAX_NAME}")
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"a name that is not UTF-8 in {where}") from error


def _encodable(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def _malformed(what: str) -> store.CheckpointError:
    return store.CheckpointError(
        "A checkpoint of TensorFlow's first format must have a table of contents and a "
        f"record of each tensor in it. Received: {what}."
    )
