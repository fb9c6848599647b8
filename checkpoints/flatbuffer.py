"""A bounds-checked walk over a flatbuffer's tables.

The generated accessors of the `tflite` package trust the file: a flipped byte makes
them raise whatever `struct` or numpy raise, or read elsewhere. Here every table,
vtable, vector and string is proven to lie inside the file before it is read, and what a
file may make us hold is limited: what is made of all that was read (a thousand
references to one vector are read a thousand times) may not take more memory than
`allowance.of` the file, nor be more than `MAX_TABLES` and `MAX_NUMBERS`, which bound
the time.

Source: https://flatbuffers.dev/internals (a table begins with the signed distance back
to its vtable; a vtable is [own size, table size, offset of field 0, ...] in uint16; a
vector or string begins with its uint32 length; references are uint32 distances
forward).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from checkpoints import allowance

# Tables that one file may hold. Training graphs of whole language models stay below.
MAX_TABLES = 200_000
# Numbers in vectors (buffers' bytes are not among them) that one file may hold.
MAX_NUMBERS = 4_000_000

# Fields of a table that may be asked for; an Operator has 14.
MAX_SLOTS = 20

# Bytes of memory, at most, of a place in a tuple and of the number there, which is the
# interpreter's own where it is small; of a tuple, a string, and what is kept of a
# vtable, beside what they hold. tests/tflite_memory_test.py measures them.
_PLACE, _NUMBER, _TUPLE, _STRING, _VTABLE = 8, 32, 40, 64, 200
_SMALL = range(-5, 257)
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

    __slots__ = ("data", "size", "same", "_vtables", "_memory", "_tables", "_numbers")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.same: dict[Any, Any] = {}
        self._vtables: dict[int, tuple[int, ...]] = {}
        self._memory = allowance.of(self.size) - self.size  # The file is there, too.
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

    def spend(
        self, where: object, memory: int, tables: int = 0, numbers: int = 0
    ) -> None:
        """Takes from the allowance that keeps time and memory in proportion.

        Args:
          where: As text it says what is read, for the error alone.
          memory: Bytes, at most, of what is made of it.
          tables: That are read.
          numbers: That are read.
        """
        self._memory -= memory
        self._tables -= tables
        self._numbers -= numbers
        if self._memory < 0 or self._tables < 0 or self._numbers < 0:
            raise FlatbufferError(
                f"What a file of {self.size} bytes holds must not take more than "
                f"{allowance.of(self.size)} bytes of memory, {MAX_TABLES} tables and "
                f"{MAX_NUMBERS} numbers. Received: more, reached in {where}."
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
        self.spend(where, _VTABLE + (_PLACE + _NUMBER) * length // 2)
        fields = struct.unpack_from(f"<{length // 2 - 1}H", self.data, vtable + 2)
        if fields[0] < 4 or any(offset >= fields[0] for offset in fields[1:]):
            raise FlatbufferError(
                f"Fields must lie inside their table of {fields[0]} bytes. "
                f"Received: offsets {list(fields[1:])[:64]}; in {where}."
            )
        return (fields + (0,) * MAX_SLOTS)[: MAX_SLOTS + 1]


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
        self.reader.spend(self, _STRING + length)
        text = self.reader.data[start : start + length]
        if not text.isascii():
            # Up to four bytes each, and six while the first wide one is found.
            self.reader.spend(self, 7 * length)
        return text.decode(errors="replace")

    def numbers(self, slot: int, code: str) -> tuple:
        """Returns the vector in `slot`; `code` is the element's letter in `struct`."""
        width = _WIDTHS[code]
        start, count = self.span(slot, width)
        if not count:
            return ()
        self.reader.spend(
            self, _TUPLE + (_PLACE + _NUMBER) * count, numbers=count
        )
        found = struct.unpack_from(f"<{count}{code}", self.reader.data, start)
        if code != "f" and min(found) in _SMALL and max(found) in _SMALL:
            self.reader.spend(self, -_NUMBER * count)
        return found

    def table(self, slot: int, name: str, cost: int = 0) -> Table | None:
        """Returns the table in `slot`, None where absent; `cost` as of `tables`."""
        position = self._reference(slot)
        if not position:
            return None
        self.reader.spend(self, cost, tables=1)
        return self.reader.table(position, name, parent=self)

    def tables(self, slot: int, name: str, cost: int) -> Iterator[Table]:
        """Yields the vector of tables in `slot`, none where absent.

        Args:
          slot: Of the vector.
          name: What each is, for errors.
          cost: Bytes of memory, at most, of what is made of each, beside the tables,
            numbers and strings in it.
        """
        start, count = self.span(slot, 4)
        self.reader.spend(self, cost * count, tables=count)
        for index in range(count):
            place = start + 4 * index
            (offset,) = _UINT32.unpack_from(self.reader.data, place)
            yield self.reader.table(place + offset, name, index, self)

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
