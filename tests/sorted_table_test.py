"""Tests of the sorted table: its bytes, and that damage is found."""

from __future__ import annotations

import random
import struct
import tracemalloc
from unittest import mock

from absl.testing import absltest, parameterized

from checkpoints import crc32c, sorted_table, store, wire

ENTRIES = [(b"", b"first"), (b"ab", b"1"), (b"abc", b""), (b"b\xff", b"22")]


def written(entries=ENTRIES) -> bytes:
    return b"".join(sorted_table.write(entries))


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, bytes(value)) for key, value in sorted_table.read(data)]


def sealed(content: bytes, compression: int = 0) -> bytes:
    """A block with a trailer that is right."""
    content += bytes([compression])
    return content + struct.pack("<I", crc32c.mask(crc32c.crc32c(content)))


def entry(shared: int, key: bytes, value=b"", rest: int | None = None) -> bytes:
    numbers = (shared, len(key) if rest is None else rest, len(value))
    return b"".join(map(wire.encode_varint, numbers)) + key + value


def block(*entries: bytes, restarts=(0,)) -> bytes:
    ends = struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    return b"".join(entries) + ends


def table(
    content: bytes,
    bound: bytes = b"z",
    meta: bytes = block(),
    handle: bytes | None = None,
    compression: int = 0,
    footer_padding: bytes = b"",
    gaps: tuple[bytes, bytes, bytes] = (b"", b"", b""),
) -> bytes:
    """A table of one block, as the arguments have it; all checksums are right.

    The gaps are what lies before the block, the metaindex and the index.
    """
    if handle is None:
        handle = wire.encode_varint(len(gaps[0])) + wire.encode_varint(len(content))
    index = block(entry(0, bound, handle))
    data = gaps[0] + sealed(content, compression) + gaps[1]
    numbers = [len(data), len(meta)]
    data += sealed(meta) + gaps[2]
    numbers += [len(data), len(index)]
    footer = b"".join(map(wire.encode_varint, numbers)) + footer_padding
    magic = struct.pack("<Q", sorted_table.MAGIC)
    return data + sealed(index) + footer.ljust(40, b"\0") + magic


class FormatTest(parameterized.TestCase):
    def test_bytes(self):
        expected = table(
            block(
                entry(0, b"", b"first"),
                entry(0, b"ab", b"1"),
                entry(2, b"c"),
                entry(0, b"b\xff", b"22"),
            ),
            bound=b"c",
        )
        self.assertEqual(written(), expected)
        self.assertEqual(read(expected), ENTRIES)

    def test_many_entries_and_blocks(self):
        generator = random.Random(1)
        entries = [
            (b"layer_%04d/kernel" % i, generator.randbytes(generator.randrange(3000)))
            for i in range(700)
        ]
        entries[350] = (entries[350][0], generator.randbytes(600_000))
        data = written(entries)
        self.assertEqual(read(data), entries)
        with mock.patch.object(sorted_table, "BLOCK_SIZE", 100):
            self.assertEqual(read(written(entries[:40])), entries[:40])

    def test_index_keys_are_short_and_between(self):
        with mock.patch.object(sorted_table, "BLOCK_SIZE", 1):
            data = written([(b"abcd", b""), (b"abxy", b""), (b"abxyz", b"")])
        self.assertEqual(read(data), [(b"abcd", b""), (b"abxy", b""), (b"abxyz", b"")])
        for key in (b"\x03\x02abd", b"\x04\x02abxy", b"\x01\x02b"):
            self.assertIn(b"\0" + key, data)

    def test_nothing(self):
        self.assertEqual(read(written([])), [])


class DamageTest(parameterized.TestCase):
    def refuses(self, data: bytes, message: str) -> None:
        with self.assertRaisesRegex(store.CheckpointError, message):
            read(data)

    def test_what_is_no_table(self):
        self.refuses(b"", "0 bytes that end with nothing")
        self.refuses(b"GIF89a" * 9, "54 bytes that end with 3961474946383961")

    def test_a_flipped_bit_in_any_byte_is_found(self):
        data = written()
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            with self.assertRaises(store.CheckpointError, msg=place):
                read(bytes(changed))

    def test_every_cut_is_found(self):
        data = written()
        for length in range(len(data)):
            with self.assertRaises(store.CheckpointError):
                read(data[:length])
        self.refuses(data + b"\0", "end with a footer")
        self.refuses(b"\0" + data, "Received")

    @parameterized.named_parameters(
        ("shares_too_much", block(entry(1, b"a")), "1 . 1 . 0 bytes"),
        ("key_outside", block(entry(0, b"a", rest=90)), "0 . 90 . 0"),
        ("no_restart", block(entry(0, b"a"), restarts=()), "0 restarts"),
        ("first_is_none", block(entry(0, b"a"), restarts=(1,)), "an entry of"),
        (
            "restart_shares",
            block(entry(0, b"a"), entry(1, b"b"), restarts=(0, 4)),
            "an entry of 1",
        ),
        ("restart_twice", block(entry(0, b"a"), restarts=(0, 0)), "no entries"),
        ("restart_beyond", block(entry(0, b"a"), restarts=(0, 99)), "no entries"),
        ("restart_of_nothing", block(restarts=(7,)), "no entries"),
        ("restarts_of_nothing", block(restarts=(0, 0)), "no entries"),
        ("nothing", block(), "no entry; in the block at 0"),
        ("falling", block(entry(0, b"b"), entry(0, b"a")), "do not rise"),
        ("twice", block(entry(0, b"b"), entry(1, b"")), "do not rise"),
        ("short", b"\0\0\0", "0 restarts in 3 bytes"),
        ("cut_entry", block(b"\0"), "an entry of 0 . 0 . 0"),
    )
    def test_blocks(self, content, message):
        self.refuses(table(content), message)

    def test_what_is_around_blocks(self):
        good = block(entry(0, b"a"))
        self.assertEqual(read(table(good)), [(b"a", b"")])
        self.refuses(table(good, compression=1), "uncompressed.*'snappy'.*at 0")
        self.refuses(table(good, compression=7), "uncompressed.*7")
        self.refuses(table(good, bound=b"A"), "below its block's last")
        self.refuses(table(good, meta=good), "metaindex|entries")
        self.refuses(table(good, footer_padding=b"\1"), "padding")
        for handle in (b"\1\x0c", b"\0\x0b", b"\0\x7f", b"\0\x0c\0", b"\0"):
            self.refuses(table(good, handle=handle), "Received")

    @parameterized.parameters(
        ((b"x", b"", b""), "a block at 1, not 0"),
        ((b"", b"x", b""), "a metaindex at 18, not 17"),
        ((b"", b"", b"x"), "an index that does not lie before"),
    )
    def test_every_byte_belongs_to_a_block(self, gaps, message):
        self.refuses(table(block(entry(0, b"a")), gaps=gaps), message)

    def test_a_block_of_nothing_behind_another(self):
        full, empty = sealed(block(entry(0, b"a"))), sealed(block())
        handles = [(0, len(full) - 5), (len(full), len(empty) - 5)]
        index = block(
            *(
                entry(0, bound, b"".join(map(wire.encode_varint, handle)))
                for bound, handle in zip((b"b", b"c"), handles)
            ),
        )
        data = full + empty
        numbers = (len(data), len(block()), len(data) + len(empty), len(index))
        footer = b"".join(map(wire.encode_varint, numbers)).ljust(40, b"\0")
        data += empty + sealed(index) + footer
        data += struct.pack("<Q", sorted_table.MAGIC)
        self.refuses(data, f"no entry; in the block at {len(full)}")

    def test_restarts_are_compared_uncopied(self):
        data = table(block(restarts=range(2**31, 2**31 + 10**5)))
        tracemalloc.start()
        self.refuses(data, "restarts that are no entries")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 4 * len(data))

    def test_keys_cannot_grow_without_bound(self):
        # Each entry of four bytes would be a key of a megabyte.
        key = b"k" * 2**20
        entries = [entry(0, key), *(entry(2**20 + i, b"k") for i in range(5000))]
        data = table(block(*entries))
        tracemalloc.start()
        self.refuses(data, "keys longer than twice the file")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(peak, 4 * len(data) + 2**20)


if __name__ == "__main__":
    absltest.main()
