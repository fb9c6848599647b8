"""Ways to damage a file: any bytes, and a flatbuffer where it says what it means.

All draw from a `random.Random` alone, so that a seed is a file.
"""

from __future__ import annotations

import dataclasses
import random
import struct
from unittest import mock

from checkpoints import flatbuffer, tflite_file

# What breaks readers that count, index or allocate.
_NUMBERS = (
    *(0, 1, 2, 3, 4, 8, -1, -2, 127, 128, 255, 256, 32_767, 65_535, 65_536),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 10**6, 10**9),
)
_FLOATS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 3e38, 1e-45)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a flatbuffer keeps something.

    Attributes:
      kind: scalar, reference, length, item or vtable.
      position: Of its first byte.
      width: Bytes.
    """

    kind: str
    position: int
    width: int


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A few changes to any bytes: set, flipped, cut, doubled, moved, turned about."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(len(found) + 1)
        kind = draw.randrange(9)
        if kind == 0:
            found[at : at + 1] = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF))])
        elif kind == 1 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del found[at : at + draw.choice((1, 2, 4, 8, 64, 4096))]
        elif kind == 3:
            found[at:at] = found[at : at + draw.choice((1, 4, 16, 256))]
        elif kind == 4:
            found[at:at] = draw.randbytes(draw.choice((1, 2, 4, 8, 32)))
        elif kind == 5:
            _put(found, at - at % 4, _number(draw, 4, len(found)))
        elif kind == 6:  # The other order of bytes.
            width = draw.choice((2, 4, 8))
            at -= at % width
            found[at : at + width] = found[at : at + width][::-1]
        elif kind == 7:
            source, length = draw.randrange(len(found) + 1), draw.choice((4, 16, 64))
            piece = found[source : source + length]
            found[at : at + len(piece)] = piece
        elif draw.random() < 0.3:
            del found[at:]
    return bytes(found)


def places(data: bytes) -> list[Place]:
    """Everything that our reader reads of a whole .tflite, and where it lies."""
    found: dict[Place, None] = {}

    def add(kind: str, position: int, width: int) -> None:
        found[Place(kind, position, width)] = None

    table, reader = flatbuffer.Table, flatbuffer.Reader
    originals = table.scalar, table.span, table._reference, reader._fields

    def scalar(self, slot, kind, default=0):
        if self.fields[slot + 1]:
            add("scalar", self.position + self.fields[slot + 1], kind.size)
        return originals[0](self, slot, kind, default)

    def span(self, slot, width):
        start, count = originals[1](self, slot, width)
        if start:
            add("length", start - 4, 4)
            for item in range(min(count, 256) if width >= 4 else 0):
                add("item", start + item * width, width)
        return start, count

    def reference(self, slot):
        if self.fields[slot + 1]:
            add("reference", self.position + self.fields[slot + 1], 4)
        return originals[2](self, slot)

    def fields(self, vtable, where):
        answer = originals[3](self, vtable, where)
        for word in range(len(answer)):
            add("vtable", vtable + 2 * word, 2)
        return answer

    with (
        mock.patch.object(table, "scalar", scalar),
        mock.patch.object(table, "span", span),
        mock.patch.object(table, "_reference", reference),
        mock.patch.object(reader, "_fields", fields),
    ):
        tflite_file.parse(data)
    return [place for place in found if place.position + place.width <= len(data)]


def misled(draw: random.Random, data: bytes, there: list[Place]) -> bytes:
    """A .tflite whose offsets, lengths, shapes, dtypes or counts say something else.

    Args:
      draw: What to draw from.
      data: A whole .tflite.
      there: Its `places`.
    """
    found = bytearray(data)
    kinds = sorted({place.kind for place in there})
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        kind = draw.choice(kinds)
        place = draw.choice([p for p in there if p.kind == kind])
        old = bytes(found[place.position : place.position + place.width])
        other = draw.choice([p for p in there if p.kind == kind])
        way = draw.randrange(6)
        if way == 0:  # Another of its kind: shared, or where it does not belong.
            new = bytes(found[other.position : other.position + place.width])
        elif way == 1:
            new = old[::-1]
        elif way == 2 and place.kind == "reference":
            # What the other one points to: overlaps, aliases, cycles.
            (distance,) = struct.unpack_from("<I", found, other.position)
            target = other.position + distance - place.position
            new = struct.pack("<I", target % 2**32)
        elif way == 3:
            number = int.from_bytes(old, "little") + draw.choice((-4, -1, 1, 2, 4))
            new = (number % 256**place.width).to_bytes(place.width, "little")
        elif way == 4 and place.width == 4:
            new = struct.pack("<f", draw.choice(_FLOATS))
        else:
            new = _number(draw, place.width, len(found))
        _put(found, place.position, new[: place.width])
    if draw.random() < 0.05:
        del found[draw.randrange(8, len(found)) :]
    return bytes(found)


def _number(draw: random.Random, width: int, size: int) -> bytes:
    number = draw.choice((*_NUMBERS, size, size - 4, draw.randrange(size + 1)))
    return (number % 256**width).to_bytes(width, "little")


def _put(found: bytearray, position: int, new: bytes) -> None:
    """Writes over bytes; the length stays."""
    new = new[: max(0, len(found) - position)]
    found[position : position + len(new)] = new
