"""Tests of the walk over a flatbuffer: every bound, where it is and one further."""

from __future__ import annotations

import struct

from absl.testing import absltest, parameterized

from checkpoints import allowance, flatbuffer

INT32 = struct.Struct("<i")
UINT8 = struct.Struct("<B")


def file(fields=(8, 4), body=b"\1\2\3\4", behind=b"", vtable=None) -> bytes:
    """Root offset, vtable, and a table of `fields[0]` bytes that begins at 4 + its."""
    vtable = 2 * len(fields) + 2 if vtable is None else vtable
    entries = struct.pack(f"<{len(fields) + 1}H", vtable, *fields)
    start = 4 + len(entries)
    return (
        struct.pack("<I", start)
        + entries
        + struct.pack("<i", len(entries))
        + body
        + behind
    )


def root(data: bytes) -> flatbuffer.Table:
    return flatbuffer.Reader(data).root()


class BoundsTest(parameterized.TestCase):
    def refuses(self, data, message):
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, message):
            root(data)

    def test_a_table_may_end_with_the_file(self):
        data = file()
        self.assertEqual(root(data).scalar(0, INT32), 0x04030201)
        self.refuses(data[:-1], "8 bytes at 10; in the model")

    def test_a_root_has_four_bytes(self):
        self.refuses(b"\0\0\0", "4 bytes at 0; in the root offset")

    @parameterized.parameters(1, 4, 2**31)
    def test_a_table_lies_inside(self, moved):
        data = bytearray(file())
        data[:4] = struct.pack("<I", (len(data) - 4 + moved) % 2**32)
        with self.assertRaises(flatbuffer.FlatbufferError):
            root(bytes(data))

    def test_a_vtable_lies_inside(self):
        data = bytearray(file())
        data[10:14] = struct.pack("<i", 11)  # It would begin at -1.
        self.refuses(bytes(data), "4 bytes at -1; in the vtable of the model")
        data[10:14] = struct.pack("<i", 10 - (len(data) - 3))
        self.refuses(bytes(data), "4 bytes at 15; in the vtable of the model")

    @parameterized.parameters(0, 2, 3, 5, 7)
    def test_a_vtable_has_an_even_size(self, size):
        self.refuses(file(vtable=size), f"even size of 4 or more. Received: {size};")

    def test_a_vtable_may_be_empty(self):
        table = root(file(fields=(4,), body=b""))
        self.assertEqual(table.scalar(0, INT32, 7), 7)
        self.assertEqual(table.fields, (4,) + (0,) * flatbuffer.MAX_SLOTS)

    def test_a_vtable_does_not_run_over_the_end(self):
        self.refuses(file(vtable=16), "16 bytes at 4; in the vtable")

    def test_fields_lie_inside_their_table(self):
        self.refuses(file(fields=(3, 0)), "table of 3 bytes")
        self.refuses(file(fields=(8, 8)), r"offsets \[8\]; in the vtable of the model")
        self.assertEqual(root(file(fields=(8, 7))).scalar(0, UINT8), 4)

    def test_a_scalar_lies_inside_the_file(self):
        table = root(file(fields=(8, 5)))
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "4 bytes at 15"):
            table.scalar(0, INT32)

    def test_no_more_fields_are_kept_than_may_be_asked_for(self):
        for more in (flatbuffer.MAX_SLOTS, flatbuffer.MAX_SLOTS + 1, 3):
            found = root(file(fields=(4, *(0,) * more), body=b"")).fields
            self.assertEqual(found, (4, *(0,) * flatbuffer.MAX_SLOTS))


class VectorTest(parameterized.TestCase):
    def table(self, count=2, reference=4, behind=b"\1\0\0\0\2\0\0\0"):
        body = struct.pack("<i", reference)
        return root(file(body=body, behind=struct.pack("<I", count) + behind))

    def test_numbers_may_end_with_the_file(self):
        self.assertEqual(self.table().numbers(0, "i"), (1, 2))
        self.assertEqual(self.table(count=0).numbers(0, "i"), ())
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "12 bytes at 22"):
            self.table(count=3).numbers(0, "i")

    def test_text_may_end_with_the_file(self):
        self.assertEqual(self.table(4, behind=b"abcd").text(0), "abcd")
        self.assertEqual(self.table(2, behind=b"a\xff").text(0), "a\ufffd")
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "5 bytes at 22"):
            self.table(5, behind=b"abcd").text(0)

    def test_a_length_lies_inside(self):
        # 14 + 8 is the first place behind the length; four bytes there end the file.
        self.assertEqual(self.table(reference=8, behind=b"\0" * 4).text(0), "")
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "4 bytes at 23"):
            self.table(reference=9, behind=b"\0" * 4).text(0)

    def test_a_reference_lies_inside(self):
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "4 bytes at 15"):
            root(file(fields=(8, 5))).text(0)

    def test_what_is_absent(self):
        table = root(file(fields=(4,), body=b""))
        self.assertEqual(table.text(3), "")
        self.assertEqual(table.numbers(3, "i"), ())
        self.assertEqual(list(table.tables(3, "x", 0)), [])
        self.assertIsNone(table.table(3, "x"))
        self.assertEqual(table.span(3, 4), (0, 0))

    def test_what_is_read_is_spent(self):
        for behind, count, read, cost in (
            (b"a" * 80, 80, lambda table: table.text(0), 64 + 80),
            # One character that is not ASCII's makes each of them wide.
            ("a".encode() * 76 + "\U0001f600".encode(), 80, lambda table: table.text(0),
             64 + 8 * 80),
            (bytes(80), 20, lambda table: table.numbers(0, "i"), 40 + 8 * 20),
            (bytes(76) + b"\1\1\0\0", 20, lambda table: table.numbers(0, "i"),
             40 + 40 * 20),
            (bytes(80), 20, lambda table: table.numbers(0, "f"), 40 + 40 * 20),
        ):  # fmt: skip
            table = self.table(count, behind=behind)
            before = table.reader._memory
            read(table)
            self.assertEqual(before - table.reader._memory, cost)

    def test_reading_a_vector_again_and_again_ends(self):
        table = self.table(600, behind=b"\0" * 600)
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "reached in the"):
            for _ in range(20_000):
                table.text(0)


class AllowanceTest(parameterized.TestCase):
    def reader(self):
        return flatbuffer.Reader(bytes(100))

    @parameterized.parameters(
        ((allowance.of(100) - 100, 0, 0), (1, 0, 0)),
        ((0, flatbuffer.MAX_TABLES, 0), (0, 1, 0)),
        ((0, 0, flatbuffer.MAX_NUMBERS), (0, 0, 1)),
    )
    def test_it_may_be_used_up_and_no_more(self, all_of_it, more):
        reader = self.reader()
        reader.spend("x", *all_of_it)
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "reached in y"):
            reader.spend("y", *more)

    def nested(self, count):
        """A file whose root holds a vector of `count` empty tables, all the same."""
        # The root's vtable is one of a single field; theirs is of none.
        head = file(body=struct.pack("<i", 4))
        length = struct.pack("<I", count)
        place = len(head) + 4 + 4 * count
        offsets = [place + 4 - (len(head) + 4 + 4 * i) for i in range(count)]
        empty = struct.pack("<HHi", 4, 4, 4)
        return head + length + struct.pack(f"<{count}I", *offsets) + empty

    def test_tables_are_counted(self):
        table = root(self.nested(3))
        before = table.reader._memory
        parts = list(table.tables(0, "part", 50))
        self.assertEqual(list(map(str, parts)), ["part 0", "part 1", "part 2"])
        self.assertEqual(flatbuffer.MAX_TABLES - table.reader._tables, 3)
        # One vtable is of all.
        self.assertEqual(before - table.reader._memory, 3 * 50 + 200 + 40 * 2)

    def test_a_table_is_counted(self):
        data = file(body=struct.pack("<i", 8), behind=struct.pack("<HHi", 4, 4, 4))
        table = root(data)
        before = table.reader._memory
        part = table.table(0, "part", 50)
        self.assertEqual(str(part), "part")
        self.assertEqual(part.position, 22)
        self.assertEqual(flatbuffer.MAX_TABLES - table.reader._tables, 1)
        self.assertEqual(before - table.reader._memory, 50 + 200 + 40 * 2)


class ContentTest(absltest.TestCase):
    def test_every_byte_behind_the_reference_counts(self):
        one = root(file()).content()
        self.assertEqual(one[1], b"\1\2\3\4")
        for at in range(4):
            other = bytearray(b"\1\2\3\4")
            other[at] ^= 1
            self.assertNotEqual(root(file(body=bytes(other))).content(), one)
        # What lies behind the table does not.
        self.assertEqual(root(file(behind=b"x")).content(), one)
        self.assertNotEqual(root(file(fields=(8, 5))).content(), one)


if __name__ == "__main__":
    absltest.main()
