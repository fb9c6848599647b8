"""Tests of directories that one process at a time works in."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from unittest import mock

import pytest

from checkpoints import locks
from ondevice.device import claims
from tests import conftest

# Claims a directory, says so, and waits.
HOLDER = (
    "import sys\n"
    "from ondevice.device import claims\n"
    "with claims.claimed(sys.argv[1]):\n"
    "    print('claimed', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=conftest.ROOT,
    )
    assert process.stdout.readline() == b"claimed\n"
    yield process
    process.kill()
    process.communicate()


def test_another_process_is_refused_until_the_first_ends(tmp_path, holder):
    for _ in range(2):
        with pytest.raises(claims.ClaimError, match=f"One process.*{tmp_path}"):
            with claims.claimed(tmp_path):
                raise AssertionError("both have it")
    holder.communicate()
    with claims.claimed(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_blocks_nobody(tmp_path, holder):
    holder.kill()
    holder.wait()
    with claims.claimed(tmp_path):
        pass


def test_nor_does_one_that_failed(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), claims.claimed(tmp_path):
            raise KeyboardInterrupt


def test_a_thread_of_the_same_process_is_refused_too(tmp_path):
    refused = []

    def claim():
        try:
            with claims.claimed(tmp_path):
                pass
        except claims.ClaimError as error:
            refused.append(error)

    with claims.claimed(tmp_path):
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_where_there_are_no_locks_a_line_says_so(tmp_path, caplog):
    system = mock.Mock(LOCK_EX=2, LOCK_NB=4)
    system.flock.side_effect = OSError(errno.ENOLCK, "No locks available")
    with mock.patch.object(locks, "fcntl", system), claims.claimed(tmp_path):
        assert "cannot be locked (No locks available)" in caplog.text
    with mock.patch.object(locks, "fcntl", None), claims.claimed(tmp_path):
        pass


def test_what_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    for name, error in (("file", NotADirectoryError), ("none", FileNotFoundError)):
        with pytest.raises(error), claims.claimed(tmp_path / name):
            pass
    assert os.listdir(tmp_path) == ["file"]
