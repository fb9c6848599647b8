"""Tests of CRC-32C against the vectors of RFC 3720 and bit by bit."""

from __future__ import annotations

import random

from absl.testing import absltest, parameterized

from checkpoints import crc32c


def bit_by_bit(data: bytes) -> int:
    """The checksum as the polynomial defines it."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


class Crc32cTest(parameterized.TestCase):
    @parameterized.parameters(
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    )
    def test_vectors_of_the_rfc(self, data, expected):
        self.assertEqual(crc32c.crc32c(data), expected)

    @parameterized.parameters(1, 2, 3, 5, 7, 8, 63, 64, 100, 1023, 1024, 4099)
    def test_any_length_whole_and_in_parts(self, length):
        data = random.Random(length).randbytes(length)
        expected = bit_by_bit(data)
        self.assertEqual(crc32c.crc32c(data), expected)
        for cut in (0, 1, length // 3, length):
            before = crc32c.crc32c(data[:cut])
            self.assertEqual(crc32c.crc32c(memoryview(data)[cut:], before), expected)

    def test_longer_than_what_is_taken_at_a_time(self):
        data = random.Random(0).randbytes(2**20 + 17)
        cut = crc32c.crc32c(data[:1000])
        self.assertEqual(crc32c.crc32c(data), crc32c.crc32c(data[1000:], cut))

    def test_mask(self):
        # crc32c.h: turned right by 15 bits, and 0xa282ead8 added.
        self.assertEqual(crc32c.mask(0), 0xA282EAD8)
        self.assertEqual(crc32c.mask(1 << 15), 0xA282EAD9)
        self.assertEqual(crc32c.mask(1), 0xA284EAD8)
        self.assertEqual(crc32c.mask(0xFFFFFFFF), 0xA282EAD7)


if __name__ == "__main__":
    absltest.main()
