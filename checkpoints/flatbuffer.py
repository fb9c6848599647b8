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
from typing import Any

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
      same: What tables were decoded to, by their content.
    """

    __slots__ = ("data", "size", "same", "_vtables", "_bytes", "_tables", "_numbers")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.same: dict[Any, Any] = {}
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._bytes = 2 * self.size + 1024
        self._tables = MAX_TABLES
        self._numbers = MAX_NUMBERS

    def root(self) -> Table:
        """Returns the table that the first four bytes point to."""
        self.check(0, 4, "the root offset")
        return self.table(_UINT32.unpack_from(self.data)[0], "the model")

    def table(
        self, position: int, name: str, index: int = -1, parent: Table | None = None
    ) -> Table:
        """Returns the table at `position`, its vtable and its fields proven inside.

        Whoever calls it spends for it first.
        """
        table = Table(self, position, name, index, parent)
        if not 0 <= position <= self.size - 4:
            self.check(position, 4, table)
        vtable = position - _INT32.unpack_from(self.data, position)[0]
        fields = self._vtables.get(vtable)
        if fields is None:
            fields = self._vtables[vtable] = self._fields(vtable, table)
        if position + fields[0] > self.size:
            self.check(position, fields[0], table)
        table.fields = fields
        return table

    def check(self, position: int, length: int, where: object) -> None:
        """Proves that `length` bytes at `position` lie inside the file.

        Args:
          position: From the start of the file.
          length: In bytes.
          where: As text it says what is read, for the error alone.
        """
        if position < 0 or length < 0 or position + length > self.size:
            raise FlatbufferError(
                f"Every part must lie inside the file of {self.size} bytes. "
                f"Received: {length} bytes at {position}; in {where}."
            )

    def spend(self, length: int, tables: int, numbers: int, where: object) -> None:
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

    def _fields(self, vtable: int, table: Table) -> tuple[int, ...]:
        """Returns (table size, offset of field 0, ...), 0 where a field is absent."""
        where = f"the vtable of {table}"
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

    As text it is what it is called in errors, put together only there.

    Attributes:
      reader: The flatbuffer.
      position: Where the table begins, in bytes from the start of the file.
      fields: (its size, offset of field 0, ...), 0 where a field is absent.
    """

    __slots__ = ("reader", "position", "fields", "_name", "_index", "_parent")

    def __init__(
        self,
        reader: Reader,
        position: int,
        name: str,
        index: int,
        parent: Table | None,
    ) -> None:
        self.reader = reader
        self.position = position
        self.fields: tuple[int, ...] = ()
        self._name = name
        self._index = index
        self._parent = parent

    def __str__(self) -> str:
        own = self._name if self._index < 0 else f"{self._name} {self._index}"
        parent = self._parent
        # The model is what everything is of.
        return own if parent is None or parent._parent is None else f"{own} of {parent}"

    def content(self) -> tuple:
        """Returns the vtable's fields and the table's bytes behind its reference."""
        start, end = self.position + 4, self.position + self.fields[0]
        return self.fields, self.reader.data[start:end]

    def scalar(self, slot: int, kind: struct.Struct, default: int = 0) -> int:
        """Returns the number in `slot`, or `default` where the file leaves it out."""
        offset = self.fields[slot + 1]
        if not offset:
            return default
        position, reader = self.position + offset, self.reader
        if position + kind.size > reader.size:
            reader.check(position, kind.size, self)
        return kind.unpack_from(reader.data, position)[0]

    def text(self, slot: int) -> str:
        """Returns the string in `slot`, '' where absent; bad UTF-8 is replaced."""
        start, length = self.span(slot, 1)
        self.reader.spend(length, 0, 0, self)
        return self.reader.data[start : start + length].decode(errors="replace")

    def numbers(self, slot: int, code: str) -> tuple:
        """Returns the vector in `slot`; `code` is the element's letter in `struct`."""
        width = _WIDTHS[code]
        start, count = self.span(slot, width)
        if not count:
            return ()
        self.reader.spend(count * width, 0, count, self)
        return struct.unpack_from(f"<{count}{code}", self.reader.data, start)

    def table(self, slot: int, name: str) -> Table | None:
        """Returns the table in `slot`, None where absent."""
        position = self._reference(slot)
        if not position:
            return None
        self.reader.spend(_TABLE, 1, 0, self)
        return self.reader.table(position, name, parent=self)

    def tables(self, slot: int, name: str, least: int = 4) -> list[Table]:
        """Returns the vector of tables in `slot`, [] where absent.

        Args:
          slot: Of the vector.
          name: What each is, for errors.
          least: Bytes that each spends at least, beside those of any table.
        """
        start, count = self.span(slot, 4)
        self.reader.spend((_TABLE + least) * count, count, count, self)
        offsets = struct.unpack_from(f"<{count}I", self.reader.data, start)
        return [
            self.reader.table(start + 4 * i + offset, name, i, self)
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
            reader.check(position + 4, count * width, self)
        return position + 4, count

    def _reference(self, slot: int) -> int:
        """Returns where the field in `slot` points to, four bytes proven; 0: absent."""
        offset = self.fields[slot + 1]
        if not offset:
            return 0
        position, reader = self.position + offset, self.reader
        if position + 4 > reader.size:
            reader.check(position, 4, self)
        position += _UINT32.unpack_from(reader.data, position)[0]
        if position + 4 > reader.size:
            reader.check(position, 4, self)
        return position
