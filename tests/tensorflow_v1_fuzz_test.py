"""Damaged checkpoints of TensorFlow's first format: read or refused, in proportion."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
from absl.testing import absltest

from checkpoints import allowance, sorted_table, store, tensorflow_v1, wire
from tests import sorted_table_test
from tests.tensorflow_v1_test import SMALL, changed, content, records


class FuzzTest(absltest.TestCase):
    """Damage, also such that no checksum tells: of records and of their block."""

    def test_mutations_are_read_or_refused(self):
        generator = random.Random(11)
        whole, there = content(), records()
        block = next(sorted_table.write(sorted(there.items())))
        refused = 0
        for turn in range(3000):
            if turn % 4 == 0:
                data = mutated(generator, whole)
            elif turn % 4 == 1:
                data = sorted_table_test.table(mutated(generator, block))
            else:
                key = generator.choice(sorted(there))
                data = changed(there | {key: mutated(generator, there[key])})
            try:
                found = tensorflow_v1.parse(data)
            except store.CheckpointError as error:
                self.assertNotIn("\n", str(error))
                self.assertLess(len(str(error)), 4000)
                refused += 1
            else:
                self.assertLen(found, len(SMALL))
        # Others change a number of a tensor to another, which is none of damage.
        self.assertBetween(refused, 2000, 2990)

    def test_memory_stays_in_proportion(self):
        floats = content({"a": np.zeros(10**6, np.float32)})
        names = [b"%05x" % i for i in range(20_000)]
        listed = b"".join(
            wire.encode(1, wire.encode(1, name) + b"\x12\0\x18\1\x22\0")
            for name in names
        )
        # One byte each in the file, eight in memory: the tensor itself.
        counts = content({"a": np.zeros(tensorflow_v1.MAX_INTEGERS, np.int64)})
        tiny = content({f"{i}": np.zeros((), np.uint8) for i in range(2**13)})
        for data in (floats, changed({b"": wire.encode(1, listed)}), counts, tiny):
            tracemalloc.start()
            try:
                tensorflow_v1.parse(data)
            except store.CheckpointError:
                pass
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, allowance.of(len(data)))


def mutated(generator: random.Random, data: bytes) -> bytes:
    """Some bytes with a few of them changed, cut off, taken out or put in twice."""
    found = bytearray(data)
    for _ in range(generator.randrange(1, 4)):
        place = generator.randrange(len(found) + 1)
        kind = generator.randrange(5)
        if kind == 0 and place < len(found):
            found[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 1 and place < len(found):
            found[place] ^= 1 << generator.randrange(8)
        elif kind == 2:
            del found[place : place + generator.randrange(1, 5)]
        elif kind == 3:
            found[place:place] = found[place : place + generator.randrange(1, 9)]
        else:
            found[place:place] = generator.randbytes(generator.randrange(1, 5))
    return bytes(found)


if __name__ == "__main__":
    absltest.main()
