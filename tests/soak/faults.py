"""Writers on a disk that fails: the old file stays, and nothing is left beside it.

A case draws a writer, what fails and when: one call of the system, or the room for the
bytes, which are then cut short at any of them.
"""

from __future__ import annotations

import errno
import os
import pathlib
import random
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from checkpoints import atomic, store, tensorflow_v1
from tests.soak import shim

CODES = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES,
    errno.EINTR, errno.EMFILE, errno.ENAMETOOLONG, errno.ESTALE,
)  # fmt: skip
# Fails without harm: it only looks for what killed processes left.
_HARMLESS = ("scandir",)

Writer = Callable[[pathlib.Path], None]


def run(seed: int) -> Mapping[str, int]:
    """The campaign's case."""
    drawn = random.Random(seed)
    name = drawn.choice(sorted(WRITERS))
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        path = pathlib.Path(directory) / "file"
        writer = WRITERS[name](drawn)
        return {f"faults of {name}": _broken(path, writer, drawn)}


def calls(path: pathlib.Path, writer: Writer) -> list[str]:
    """Names of the calls that a writer makes when nothing fails."""
    with shim.installed(shim.counting) as found:
        writer(path)
    return found


def fails(path: pathlib.Path, writer: Writer, act: shim.Act, whole: bool) -> OSError:
    """Proves that a writer fails as promised.

    Args:
      path: Of the file, which exists and nothing beside it.
      writer: To fail.
      act: Lets it.
      whole: Whether the new file is there all the same.

    Returns:
      The error.
    """
    old, before = path.read_bytes(), len(os.listdir("/proc/self/fd"))
    try:
        with shim.installed(act):
            writer(path)
    except OSError as error:
        found = error
    else:
        raise AssertionError("a failure must be told; nothing was raised")
    assert found.filename == os.fspath(path), found
    assert len(str(found).splitlines()) == 1
    assert whole or path.read_bytes() == old, "the old file is lost"
    assert os.listdir(path.parent) == [path.name], "something is left behind"
    assert len(os.listdir("/proc/self/fd")) == before, "a file is left open"
    return found


def _broken(path: pathlib.Path, writer: Writer, drawn: random.Random) -> int:
    """Breaks a writing in both ways; how often."""
    writer(path)
    new = path.read_bytes()
    names = calls(path, writer)
    replaced = names.index("replace")
    breakable = [
        at
        for at, name in enumerate(names)
        if name not in _HARMLESS and not (at > replaced and name in ("open", "close"))
    ]
    path.write_bytes(b"old")
    at, code = drawn.choice(breakable), drawn.choice(CODES)
    found = fails(path, writer, shim.Failing(at, code), whole=at > replaced)
    assert found.errno == code, found
    assert path.read_bytes() in (b"old", new)
    path.write_bytes(b"old")
    room, most = drawn.randrange(len(new)), drawn.choice([1, 7, 2**30])
    fails(path, writer, shim.Short(room, drawn.choice(CODES), most), whole=False)
    with shim.installed(shim.Short(len(new), most=most)):
        writer(path)  # Cut short, and gone on with, on a disk with just the room.
    assert path.read_bytes() == new
    return 3


def _tensors(drawn: random.Random) -> dict[str, np.ndarray]:
    made = np.random.default_rng(drawn.randrange(2**32))
    return {
        f"layer_{number}/kernel": made.random(
            [drawn.randrange(4) for _ in range(drawn.randrange(3))], np.float32
        )
        for number in range(drawn.randrange(1, 6))
    }


def _checkpoint(drawn: random.Random) -> Writer:
    tensors = _tensors(drawn)
    header = store.Header("ab" * 32, {"name": "sgd"}, step=drawn.randrange(100))
    return lambda path: store.save_file(path, tensors, header)


def _tensorflow(drawn: random.Random) -> Writer:
    tensors = _tensors(drawn)
    return lambda path: tensorflow_v1.save_file(path, tensors)


def _bytes(drawn: random.Random) -> Writer:
    chunks = [drawn.randbytes(drawn.randrange(9)) for _ in range(drawn.randrange(9))]
    chunks.append(b"end")
    return lambda path: atomic.write(path, chunks)


# Name -> draws what is written.
WRITERS: dict[str, Callable[[random.Random], Writer]] = {
    "bytes": _bytes,
    "checkpoint": _checkpoint,
    "tensorflow checkpoint": _tensorflow,
}
