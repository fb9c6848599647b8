"""The wire format of protocol buffers, as much of it as TensorFlow's checkpoints use.

A message is a sequence of fields: a varint of 8 * number + kind, then by its kind a
varint, or a varint of a length and that many bytes. Numbers of a repeated field lie
side by side in one such run of bytes, which is called packed.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from checkpoints import store

VARINT, BYTES = 0, 2

_LONGEST = 10  # Bytes of a varint of 64 bits.
# Numbers, or bytes, at a time, so that what is computed beside them stays small.
_CHUNK = 2**16


def varint(data: bytes | memoryview, position: int, where: str) -> tuple[int, int]:
    """Reads a varint.

    Returns:
      The number in [0, 2**64), and the position after it.

    Raises:
      CheckpointError: If it does not end in time, or is too large.
    """
    number = 0
    for place, byte in enumerate(data[position : position + _LONGEST]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80 and number < 2**64:
            return number, position + place + 1
    raise store.CheckpointError(
        f"A varint must end inside its message, and be below 2**64. Received: "
        f"{bytes(data[position : position + _LONGEST]).hex() or 'nothing'}; in {where}."
    )


def fields(
    data: memoryview, schema: Mapping[int, int], where: str
) -> Iterator[tuple[int, Any]]:
    """Reads a message, field by field.

    Args:
      data: The message.
      schema: Number -> kind of every field that may be there.
      where: What it is, for errors.

    Yields:
      A field's number, and its int or its bytes as a view.

    Raises:
      CheckpointError: If a field is not of the schema, or leaves the message.
    """
    position = 0
    while position < len(data):
        tag, position = varint(data, position, where)
        number, kind = tag >> 3, tag & 7
        if schema.get(number) != kind:
            raise store.CheckpointError(
                f"A message's fields must be of {dict(schema)}, number to kind. "
                f"Received: field {number} of kind {kind}; in {where}."
            )
        value, position = varint(data, position, where)
        if kind == VARINT:
            yield number, value
            continue
        if position + value > len(data):
            raise store.CheckpointError(
                f"A field must lie inside its message of {len(data)} bytes. Received: "
                f"{value} bytes at {position}; in {where}."
            )
        yield number, data[position : position + value]
        position += value


def single(
    data: memoryview, schema: Mapping[int, int], where: str
) -> dict[int, Any]:
    """Reads a message whose fields appear once at most; as `fields`.

    Returns:
      Number -> int, or bytes as a view, of the fields that are there.
    """
    found: dict[int, Any] = {}
    for number, value in fields(data, schema, where):
        if number in found:
            raise store.CheckpointError(
                f"A field must appear once. Received: field {number} twice; in {where}."
            )
        found[number] = value
    return found


def encode_varint(number: int) -> bytes:
    """Writes a number in [0, 2**64)."""
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def encode(number: int, value: int | bytes) -> bytes:
    """Writes a field; an int as a varint, bytes with their length."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value)
    return encode_varint(number << 3 | BYTES) + encode_varint(len(value)) + value


def unpack(
    data: memoryview, count: int, dtype: np.dtype, where: str
) -> np.ndarray:
    """Reads packed varints.

    Args:
      data: The packed bytes.
      count: Of the numbers that they must hold.
      dtype: Of integers or bool; every number must be in its range.
      where: What they are, for errors.

    Returns:
      [count] of the dtype; the one allocation that exceeds the bytes.

    Raises:
      CheckpointError: If there are more or fewer, or one is malformed or out of range.
    """
    numbers = np.frombuffer(data, np.uint8)
    there = int(np.count_nonzero(numbers < 0x80))
    whole = not numbers.size or bool(numbers[-1] < 0x80)
    if there != count or not whole:
        raise store.CheckpointError(
            f"There must be {count} packed numbers. Received: {there}"
            f"{'' if whole else ' and a part of one'}; in {where}."
        )
    boolean = dtype.kind == "b"
    lowest, highest = (0, 1) if boolean else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    found = np.empty(count, dtype)
    position = filled = 0
    while position < numbers.size:
        chunk = numbers[position : position + _CHUNK]
        ends = np.flatnonzero(chunk < 0x80)
        values = _values(chunk, ends, where)
        if values.min() < lowest or values.max() > highest:
            raise store.CheckpointError(
                f"Numbers must be in the range of {dtype}. Received: "
                f"{int(values.min())} to {int(values.max())}; in {where}."
            )
        found[filled : filled + ends.size] = values
        filled += ends.size
        position += int(ends[-1]) + 1
    return found


def pack(array: np.ndarray) -> bytes:
    """Writes integers or bools as packed varints; negative ones take ten bytes."""
    flat, parts = array.reshape(-1), []
    for start in range(0, flat.size, _CHUNK):
        values = flat[start : start + _CHUNK].astype(np.int64).view(np.uint64)
        lengths = np.ones(values.size, np.int64)
        for place in range(1, _LONGEST):
            lengths += values >= np.uint64(1 << (7 * place))
        starts = np.cumsum(lengths) - lengths
        written = np.empty(int(lengths.sum()), np.uint8)
        for place in range(int(lengths.max())):
            there = lengths > place
            byte = (values[there] >> np.uint64(7 * place)) & np.uint64(0x7F)
            more = (lengths[there] > place + 1) * np.uint64(0x80)
            written[starts[there] + place] = byte | more
        parts.append(written.tobytes())
    return b"".join(parts)


def _values(chunk: np.ndarray, ends: np.ndarray, where: str) -> np.ndarray:
    """Decodes varints, given where each ends; int64."""
    lengths = np.diff(ends, prepend=-1)
    if not ends.size or lengths.max() > _LONGEST:
        raise store.CheckpointError(
            f"A varint must have at most {_LONGEST} bytes. Received: more; in {where}."
        )
    starts = ends + 1 - lengths
    values = np.zeros(ends.size, np.uint64)
    for place in range(int(lengths.max())):
        there = lengths > place
        bits = chunk[starts[there] + place].astype(np.uint64) & np.uint64(0x7F)
        if place == _LONGEST - 1 and bits.max() > 1:
            raise store.CheckpointError(
                f"A varint must be below 2**64. Received: one above; in {where}."
            )
        values[there] |= bits << np.uint64(7 * place)
    return values.view(np.int64)
