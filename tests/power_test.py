"""A short campaign of power failures, and proof that it sees what is not flushed."""

from __future__ import annotations

from unittest import mock

import pytest

from checkpoints import atomic, store
from ondevice.device import journal
from tests.soak import power


@pytest.mark.parametrize("seed", range(10))
def test_what_was_saved_is_there(seed):
    assert power.run(seed) == {"power failures": 30}


def broken() -> None:
    for seed in range(30):
        power.run(seed)


def without(names):
    """A disk that forgets flushes: of directories (True), or of files (False)."""

    class Forgetting(power.Disk):
        def __call__(self, *arguments):
            found = super().__call__(*arguments)
            if self.log and self.log[-1][0] == "flush":
                if (self.log[-1] == ("flush", 0)) == names:
                    self.log.pop()
            return found

    return mock.patch.object(power, "Disk", Forgetting)


def test_a_file_that_is_not_flushed_is_seen():
    with without(names=False), pytest.raises((AssertionError, store.CheckpointError)):
        broken()


def test_a_name_that_is_not_flushed_is_seen():
    with without(names=True), pytest.raises(AssertionError, match="checkpoint"):
        broken()


def test_lines_that_are_not_flushed_are_seen():
    with mock.patch.object(journal.Journal, "flush"):
        with pytest.raises(AssertionError, match="lines there are"):
            broken()


def test_a_file_that_is_written_in_place_is_seen():
    def write(path, chunks, head=None, reserve=0):
        flags = atomic.os.O_WRONLY | atomic.os.O_CREAT
        descriptor = atomic.os.open(path, flags)
        data = b"".join(map(bytes, chunks))
        atomic.os.write(descriptor, (head() if head else b"") + data)
        atomic.os.fsync(descriptor)
        atomic.os.close(descriptor)

    with mock.patch.object(atomic, "write", write):
        with pytest.raises((AssertionError, store.CheckpointError)):
            broken()
