"""Sorted tables, the files that TensorFlow's first checkpoints are.

    data blocks, each with its trailer; the metaindex block, empty; the index block: a
    key not below the last one of each data block -> its handle; the footer: the
    metaindex's handle, the index's handle, zeros up to 40 bytes, MAGIC in 8

    handle      varint of the offset, varint of the size without the trailer
    trailer     1 byte, the compression: 0 is none; CRC-32C of block and byte, masked
    block       entries; uint32 offsets of restarts; uint32 number of restarts
    entry       varints: bytes shared with the key before, bytes of the key that are
                not, bytes of the value; those of the key; those of the value
    restart     an entry that shares nothing; every 16th here

All little-endian. A reader refuses blocks that do not follow each other from the first
byte to the footer, so each byte is read once and covered by a checksum; and data blocks
without an entry.

Source: tensorflow/core/lib/io/{table_builder,block_builder,format}.cc, as in LevelDB
(https://github.com/google/leveldb/blob/main/doc/table_format.md).
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from checkpoints import crc32c, store, wire

MAGIC = 0xDB4775248B80FB57
BLOCK_SIZE = 262_144  # Bytes after which TensorFlow closes a block.
RESTART_INTERVAL = 16

_HANDLES = 40  # Bytes of two handles, padded.
_FOOTER = _HANDLES + 8
_TRAILER = struct.Struct("<BI")
_UINT32 = struct.Struct("<I")
_COMPRESSIONS = {0: "none", 1: "snappy"}


def read(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Reads a table.

    Args:
      data: The whole file.

    Yields:
      Key, and value as a view, in rising order of the keys.

    Raises:
      CheckpointError: If the file is no table, is cut short or is damaged, or if its
        keys add up to more than twice the file.
    """
    return _Table(data).entries()


def write(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Writes a table, byte for byte as TensorFlow does, uncompressed.

    Args:
      entries: Key and value, in rising order of the keys.

    Yields:
      The parts of the file.
    """
    block, index = _Block(RESTART_INTERVAL), _Block(1)
    offset, closed, last = 0, b"", b""
    for key, value in entries:
        if block.entries and len(key) + len(value) >= 2 * BLOCK_SIZE:
            closed = _handle(offset, block.size)
            offset += yield from _flush(block)
        if closed:
            index.add(_separator(last, key), closed)
            closed = b""
        block.add(key, value)
        last = key
        if block.size >= BLOCK_SIZE:
            closed = _handle(offset, block.size)
            offset += yield from _flush(block)
    if block.entries:
        closed = _handle(offset, block.size)
        offset += yield from _flush(block)
    metaindex = _Block(RESTART_INTERVAL)
    handles = _handle(offset, metaindex.size)
    offset += yield from _flush(metaindex)
    if closed:
        index.add(_successor(last), closed)
    handles += _handle(offset, index.size)
    yield from _flush(index)
    yield handles.ljust(_HANDLES, b"\0") + MAGIC.to_bytes(8, "little")


class _Table:
    """A table that is read, and what its keys may still take."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        # Shared beginnings could make of few bytes many.
        self._allowance = 2 * len(data)

    def entries(self) -> Iterator[tuple[bytes, memoryview]]:
        size = len(self._data)
        magic = bytes(self._data[-8:])
        if size < _FOOTER or magic != MAGIC.to_bytes(8, "little"):
            raise store.CheckpointError(
                f"A sorted table must end with a footer and the magic number "
                f"{MAGIC:#x}. Received: {size} bytes that end with "
                f"{magic.hex() or 'nothing'}."
            )
        footer = self._data[size - _FOOTER : size - 8]
        metaindex, position = _read_handle(footer, 0, "the footer")
        index, position = _read_handle(footer, position, "the footer")
        if any(footer[position:]):
            raise _damaged("the footer", "padding that is not zero")
        last, end = None, 0
        bounds = self._block(index, "the index")
        for bound, handle in self._entries(bounds, "the index"):
            place, stop = _read_handle(handle, 0, "the index")
            where, before = f"the block at {place[0]}", last
            if place[0] != end or stop != len(handle):
                raise _damaged("the index", f"a block at {place[0]}, not {end}")
            for key, value in self._entries(self._block(place, where), where):
                if last is not None and key <= last:
                    raise _damaged(where, "keys that do not rise")
                last = key
                yield key, value
            if last is None or last is before:  # TensorFlow writes none of these.
                raise _damaged(where, "no entry")
            if last > bound:
                raise _damaged("the index", "a key that is below its block's last")
            end = sum(place) + _TRAILER.size
            # What the next block begins with must be above.
            last = bound
        if metaindex[0] != end:
            raise _damaged("the footer", f"a metaindex at {metaindex[0]}, not {end}")
        if any(self._entries(self._block(metaindex, "the metaindex"), "the metaindex")):
            raise _damaged("the metaindex", "entries, where there are none")
        starts = sum(metaindex) + _TRAILER.size
        if index[0] != starts or sum(index) + _TRAILER.size != size - _FOOTER:
            raise _damaged("the footer", "an index that does not lie before it")

    def _block(self, handle: tuple[int, int], where: str) -> memoryview:
        """Returns a block's content, proven whole."""
        offset, size = handle
        stop = offset + size
        if stop + _TRAILER.size > len(self._data) - _FOOTER:
            raise _damaged(where, f"{size} bytes at {offset}, outside the file")
        compression, checksum = _TRAILER.unpack_from(self._data, stop)
        if crc32c.mask(crc32c.crc32c(self._data[offset : stop + 1])) != checksum:
            raise _damaged(where, "another checksum than the file gives for it")
        if compression:
            raise store.CheckpointError(
                "Blocks must be uncompressed, as TensorFlow writes them in checkpoints."
                f" Received: {_COMPRESSIONS.get(compression, compression)!r}; in "
                f"{where}."
            )
        return self._data[offset:stop]

    def _entries(
        self, block: memoryview, where: str
    ) -> Iterator[tuple[bytes, memoryview]]:
        """Yields a block's keys and values."""
        count = _UINT32.unpack_from(block, len(block) - 4)[0] if len(block) > 7 else 0
        end = len(block) - 4 * (count + 1)
        if count < 1 or end < 0:
            raise _damaged(where, f"{count} restarts in {len(block)} bytes")
        restarts = np.frombuffer(block, "<u4", count, end)
        key, position, restart = b"", 0, 0
        while position < end:
            begins = restart < count and int(restarts[restart]) == position
            restart += begins
            shared, position = wire.varint(block, position, where)
            rest, position = wire.varint(block, position, where)
            length, position = wire.varint(block, position, where)
            stop = position + rest + length
            if shared > len(key) or (begins and shared) or stop > end or not restart:
                raise _damaged(
                    where, f"an entry of {shared} + {rest} + {length} bytes"
                )
            self._allowance -= shared + rest
            if self._allowance < 0:
                raise _damaged(where, "keys longer than twice the file")
            key = key[:shared] + bytes(block[position : position + rest])
            yield key, block[position + rest : stop]
            position = stop
        # A block without entries has one restart, at 0, all the same.
        if restart != count and (end or count > 1 or restarts[0]):
            raise _damaged(where, "restarts that are no entries")


class _Block:
    """A block that is written."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self.clear()

    def clear(self) -> None:
        self._parts: list[bytes] = []
        self._restarts = [0]
        self._bytes = self.entries = self._since = 0
        self._last = b""

    @property
    def size(self) -> int:
        """Bytes without the trailer."""
        return self._bytes + 4 * (len(self._restarts) + 1)

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._since == self._interval:
            self._restarts.append(self._bytes)
            self._since = 0
        elif self.entries:
            shared = _shared(self._last, key)
        numbers = (shared, len(key) - shared, len(value))
        head = b"".join(map(wire.encode_varint, numbers)) + key[shared:]
        self._parts += [head, value]
        self._bytes += len(head) + len(value)
        self._last = key
        self.entries += 1
        self._since += 1

    def finish(self) -> bytes:
        ends = [*self._restarts, len(self._restarts)]
        return b"".join([*self._parts, *map(_UINT32.pack, ends)])


def _flush(block: _Block) -> Generator[bytes, None, int]:
    """Yields a block and its trailer, empties it, and returns their length."""
    content = block.finish()
    block.clear()
    checksum = crc32c.mask(crc32c.crc32c(b"\0", crc32c.crc32c(content)))
    yield content
    yield _TRAILER.pack(0, checksum)
    return len(content) + _TRAILER.size


def _handle(offset: int, size: int) -> bytes:
    return wire.encode_varint(offset) + wire.encode_varint(size)


def _read_handle(
    data: memoryview, position: int, where: str
) -> tuple[tuple[int, int], int]:
    """Returns (offset, size), and the position after the handle."""
    offset, position = wire.varint(data, position, where)
    size, position = wire.varint(data, position, where)
    return (offset, size), position


def _separator(key: bytes, following: bytes) -> bytes:
    """Returns a short key from `key` up to, but not, `following`."""
    place = _shared(key, following)
    if place < len(key) and key[place] < 0xFF and key[place] + 1 < following[place]:
        return key[:place] + bytes([key[place] + 1])
    return key


def _successor(key: bytes) -> bytes:
    """Returns a short key that is not below `key`."""
    for place, byte in enumerate(key):
        if byte != 0xFF:
            return key[:place] + bytes([byte + 1])
    return key


def _shared(one: bytes, two: bytes) -> int:
    """Returns the length of the beginning that two keys share."""
    length = min(len(one), len(two))
    for place in range(length):
        if one[place] != two[place]:
            return place
    return length


def _damaged(where: str, what: str) -> store.CheckpointError:
    return store.CheckpointError(
        f"A sorted table must be whole. Received: {what}; in {where}."
    )
