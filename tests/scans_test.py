"""Tests of what is found out of every byte: the same, by one thread or two."""

from __future__ import annotations

import importlib
import threading
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import scans

SIZES = {"d": 9, "a": 90, "c": 70, "b": 1}
CHUNKS = {name: memoryview(bytes(range(size))) for name, size in SIZES.items()}


class ScansTest(parameterized.TestCase):
    @parameterized.parameters("zlib", "zlib_ng.zlib_ng")
    def test_crc(self, name):
        with mock.patch.object(scans, "zlib", importlib.import_module(name)):
            # The check value of CRC-32, of "A painless guide to CRC error detection".
            self.assertEqual(scans.crc(b"123456789"), "cbf43926")
            self.assertEqual(scans.crc(memoryview(b"")), "00000000")

    def test_numbers_that_are_not_finite(self):
        tensors = {
            "c": np.array([np.nan, 1, np.inf], np.float16),
            "b": np.array([1, 2]),
            "a": np.array(-np.inf),
            "d": np.array([np.finfo(np.float32).max] * 2, np.float32),
        }
        told = ["'a' with 1 numbers", "'c' with 2 numbers"]
        for long in (scans._LONG, 1):
            with mock.patch.object(scans, "_LONG", long):
                found = scans.not_finite(tensors)
            self.assertEqual(
                found, [f"{words} that are not finite" for words in told]
            )

    @parameterized.parameters((scans._LONG, 1), (170, 2), (171, 1))
    def test_of_many_bytes_half_is_looked_at_by_another_thread(self, long, threads):
        with mock.patch.object(scans, "_LONG", long):
            real, lookers = scans.crc, {}

            def crc(data):
                lookers.setdefault(threading.get_ident(), []).append(data.nbytes)
                return real(data)

            with mock.patch.object(scans, "crc", crc):
                found = scans.crcs(CHUNKS)
        self.assertEqual(found, {n: scans.crc(c) for n, c in CHUNKS.items()})
        self.assertLen(lookers, threads)
        own = lookers[threading.get_ident()]
        self.assertEqual(own, [9, 90] if threads == 2 else [9, 90, 70, 1])

    def test_a_failure_in_the_other_thread_is_told(self):
        with mock.patch.object(scans, "_LONG", 1):
            with mock.patch.object(scans, "crc", side_effect=["0", "1", MemoryError()]):
                with self.assertRaises(MemoryError):
                    scans.crcs(CHUNKS)

    def test_nothing(self):
        with mock.patch.object(scans, "_LONG", 0):
            self.assertEqual(scans.crcs({}), {})
            self.assertEqual(scans.not_finite({}), [])


if __name__ == "__main__":
    absltest.main()
