"""A bounds-checked walk over a flatbuffer's tables.

The generated accessors of the `tflite` package trust the file: a flipped byte makes
them raise whatever `struct` or numpy raise, or read elsewhere. Here every table,
vtable, vector and string is proven to lie inside the file before it is read, and what a
file may make us hold is limited: the lengths of what was read may not add up to more
than twice the file (a thousand references to one vector would), nor to more than
`MAX_TABLES` and `MAX_NUMBERS`.

Source: https://flatbuffers.dev/internals (a table begins with the signed distance back
to its vtable; a vtable is [own size, table size, offset of field 0, ...] in uint16; a
vector or string begins with its uint32 length; references are uint32 distances
forward).
"""

from __future__ import annotations

import struct

# Tables that one file may hold. Training graphs of whole language models stay below.
MAX_TABLES = 200_000
# Numbers in vectors (buffers' bytes are not among them) that one file may hold.
MAX_NUMBERS = 4_000_000

# Fields of a table that may be asked for; an Operator has 14.
MAX_SLOTS = 20

_TABLE = 8  # Bytes that a table takes at least, with the reference to it.
_WIDTHS = {code: struct.calcsize(f"<{code}") for code in "ifq"}
_UINT16 = struct.Struct("<H")
_INT32 = struct.Struct("<i")
_UINT32 = struct.Struct("<I")


class FlatbufferError(ValueError):
    """A flatbuffer that points outside itself, or holds more than it can."""


class Reader:
    """One flatbuffer and what is left of its allowance.

    Attributes:
      data: The whole file.
      size: Its length in bytes.
    """

    __slots__ = ("data", "size", "_vtables", "_bytes", "_tables", "_numbers")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._bytes = 2 * self.size + 1024
        self._tables = MAX_TABLES
        self._numbers = MAX_NUMBERS

    def root(self) -> Table:
        """Returns the table that the first four bytes point to."""
        self.check(0, 4, "the root offset")
        return self.table(_UINT32.unpack_from(self.data)[0], "the model")

    def table(self, position: int, where: str) -> Table:
        """Returns the table at `position`, its vtable and its fields proven inside.

        Whoever calls it spends for it first.
        """
        self.check(position, 4, where)
        vtable = position - _INT32.unpack_from(self.data, position)[0]
        fields = self._vtables.get(vtable)
        if fields is None:
            fields = self._vtables[vtable] = self._fields(vtable, where)
        if position + fields[0] > self.size:
            self.check(position, fields[0], where)
        return Table(self, position, fields, where)

    def check(self, position: int, length: int, where: str) -> None:
        """Proves that `length` bytes at `position` lie inside the file."""
        if position < 0 or length < 0 or position + length > self.size:
            raise FlatbufferError(
                f"Every part must lie inside the file of {self.size} bytes. "
                f"Received: {length} bytes at {position}; in {where}."
            )

    def spend(self, length: int, tables: int, numbers: int, where: str) -> None:
        """Takes from the allowance that keeps time and memory in proportion."""
        self._bytes -= length
        self._tables -= tables
        self._numbers -= numbers
        if self._bytes < 0 or self._tables < 0 or self._numbers < 0:
            raise FlatbufferError(
                f"The parts of a file must not add up to more than twice its "
                f"{self.size} bytes, {MAX_TABLES} tables and {MAX_NUMBERS} numbers. "
                f"Received: more, reached in {where}."
            )

    def _fields(self, vtable: int, where: str) -> tuple[int, ...]:
        """Returns (table size, offset of field 0, ...), 0 where a field is absent."""
        where = f"the vtable of {where}"
        self.check(vtable, 4, where)
        (length,) = _UINT16.unpack_from(self.data, vtable)
        if length < 4 or length % 2:
            raise FlatbufferError(
                f"A vtable must have an even size of 4 or more. Received: {length}; "
                f"in {where}."
            )
        self.check(vtable, length, where)
        fields = struct.unpack_from(f"<{length // 2 - 1}H", self.data, vtable + 2)
        if fields[0] < 4 or any(offset >= fields[0] for offset in fields[1:]):
            raise FlatbufferError(
                f"Fields must lie inside their table of {fields[0]} bytes. "
                f"Received: offsets {list(fields[1:])[:64]}; in {where}."
            )
        return fields + (0,) * max(0, MAX_SLOTS + 1 - len(fields))


class Table:
    """One table. Slots count from 0 in the order of the schema.

    Attributes:
      reader: The flatbuffer.
      position: Where the table begins, in bytes from the start of the file.
      where: What it is, for errors.
    """

    __slots__ = ("reader", "position", "where", "_fields")

    def __init__(
        self, reader: Reader, position: int, fields: tuple[int, ...], where: str
    ) -> None:
        self.reader = reader
        self.position = position
        self.where = where
        self._fields = fields

    def scalar(self, slot: int, kind: struct.Struct, default: int = 0) -> int:
        """Returns the number in `slot`, or `default` where the file leaves it out."""
        offset = self._fields[slot + 1]
        if not offset:
            return default
        position, reader = self.position + offset, self.reader
        if position + kind.size > reader.size:
            reader.check(position, kind.size, self.where)
        return kind.unpack_from(reader.data, position)[0]

    def text(self, slot: int) -> str:
        """Returns the string in `slot`, '' where absent; bad UTF-8 is replaced."""
        start, length = self.span(slot, 1)
        self.reader.spend(length, 0, 0, self.where)
        return self.reader.data[start : start + length].decode(errors="replace")

    def numbers(self, slot: int, code: str) -> tuple:
        """Returns the vector in `slot`; `code` is the element's letter in `struct`."""
        width = _WIDTHS[code]
        start, count = self.span(slot, width)
        if not count:
            return ()
        self.reader.spend(count * width, 0, count, self.where)
        return struct.unpack_from(f"<{count}{code}", self.reader.data, start)

    def table(self, slot: int, name: str) -> Table | None:
        """Returns the table in `slot`, None where absent."""
        position = self._reference(slot)
        if not position:
            return None
        self.reader.spend(_TABLE, 1, 0, self.where)
        return self.reader.table(position, f"{name} of {self.where}")

    def tables(self, slot: int, name: str, least: int = 4) -> list[Table]:
        """Returns the vector of tables in `slot`, [] where absent.

        Args:
          slot: Of the vector.
          name: What each is, for errors.
          least: Bytes that each spends at least, beside those of any table.
        """
        start, count = self.span(slot, 4)
        self.reader.spend((_TABLE + least) * count, count, count, self.where)
        offsets = struct.unpack_from(f"<{count}I", self.reader.data, start)
        at = "" if self.where == "the model" else f" of {self.where}"
        return [
            self.reader.table(start + 4 * i + offset, f"{name} {i}{at}")
            for i, offset in enumerate(offsets)
        ]

    def span(self, slot: int, width: int) -> tuple[int, int]:
        """Returns (start, count) of the vector in `slot`; (0, 0) where absent."""
        position = self._reference(slot)
        if not position:
            return 0, 0
        reader = self.reader
        (count,) = _UINT32.unpack_from(reader.data, position)
        if position + 4 + count * width > reader.size:
            reader.check(position + 4, count * width, self.where)
        return position + 4, count

    def _reference(self, slot: int) -> int:
        """Returns where the field in `slot` points to, four bytes proven; 0: absent."""
        offset = self._fields[slot + 1]
        if not offset:
            return 0
        position, reader = self.position + offset, self.reader
        if position + 4 > reader.size:
            reader.check(position, 4, self.where)
        position += _UINT32.unpack_from(reader.data, position)[0]
        if position + 4 > reader.size:
            reader.check(position, 4, self.where)
        return position
