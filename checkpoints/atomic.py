"""Files that are there whole or not at all."""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterable

# What a killed process left behind is swept away by the next write of the same file
# once it is this old; younger ones may belong to a process at work.
_STALE_SECONDS = 3600.0
# Chunks in one call; POSIX systems take at least 16, Linux and macOS 1,024.
_BATCH = 512


def write(
    path: str | os.PathLike[str],
    chunks: Iterable[bytes | memoryview],
    head: Callable[[], bytes] | None = None,
    reserve: int = 0,
) -> None:
    """Writes a file so that at any moment `path` is the old file or the new one.

    The chunks go to a temporary name in the same directory, are flushed to the disk,
    and take the name in one step; then the directory is flushed. On any failure the old
    file is as it was and the temporary one is gone. A symbolic link stays one.

    Args:
      path: Of the file; its directory exists.
      chunks: Its content in order.
      head: Gives the first `reserve` bytes, before the chunks. It is called when those
        are written, so it may wait for what is computed meanwhile.
      reserve: Length of the head.

    Raises:
      ValueError: If the head has another length.
      OSError: If the file cannot be written.
    """
    target = pathlib.Path(os.path.realpath(path))
    prefix = f".{target.name}."
    _sweep(target.parent, prefix)
    temporary = target.parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.tmp"
    # Not tempfile: its files are private, whatever the umask says.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, flags, 0o666)
    try:
        try:
            os.lseek(descriptor, reserve, os.SEEK_SET)
            _write_all(descriptor, chunks)
            first = head() if head else b""
            if len(first) != reserve:
                raise ValueError(
                    f"The head must have {reserve} bytes. Received: {len(first)}."
                )
            os.lseek(descriptor, 0, os.SEEK_SET)
            _write_all(descriptor, [first])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt too must leave nothing behind.
        temporary.unlink(missing_ok=True)
        raise
    _flush_directory(target.parent)


def _write_all(descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Writes many chunks in few calls; one call each took twice as long."""
    views = [memoryview(chunk).cast("B") for chunk in chunks]
    left = collections.deque(view for view in views if view.nbytes)
    while left:
        if hasattr(os, "writev"):
            written = os.writev(descriptor, list(itertools.islice(left, _BATCH)))
        else:
            written = os.write(descriptor, left[0])
        while written:
            view = left.popleft()
            if view.nbytes > written:
                left.appendleft(view[written:])
            written -= min(view.nbytes, written)


def _flush_directory(directory: pathlib.Path) -> None:
    """Flushes the new name itself; where directories cannot be opened, nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(directory: pathlib.Path, prefix: str) -> None:
    oldest = time.time() - _STALE_SECONDS
    with os.scandir(directory) as entries:
        names = [e for e in entries if e.name.startswith(prefix)]
    for entry in names:
        try:
            if entry.name.endswith(".tmp") and entry.stat().st_mtime < oldest:
                os.unlink(entry.path)
        except FileNotFoundError:  # Another process swept it.
            pass
