"""Files that are there whole or not at all."""

from __future__ import annotations

import _thread
import collections
import contextlib
import errno
import itertools
import os
import pathlib
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from checkpoints import locks

# Where the file system knows no locks, what a killed process left behind is swept away
# once it is this old; younger ones may belong to a process at work.
_STALE_SECONDS = 3600.0
# Name of a temporary file, with that of the file that it is to become.
_TEMPORARY = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}\.tmp")
# Chunks in one call; POSIX systems take at least 16, Linux and macOS 1,024.
_BATCH = 512
# Bytes in one call: what the disk is given to do while the next are handed over.
_STRETCH = 4 * 2**20


def write(
    path: str | os.PathLike[str],
    chunks: Iterable[bytes | memoryview],
    head: Callable[[], bytes] | None = None,
    reserve: int = 0,
) -> None:
    """Writes a file so that at any moment `path` is the old file or the new one.

    The chunks go to a temporary name in the same directory, are flushed to the disk,
    and take the name in one step; then the directory is flushed. On any failure before
    that last flush the old file is as it was and the temporary one is gone; if the last
    one fails, the new file is there, whole. What killed processes left of earlier
    writes is swept away. A symbolic link stays one.

    Args:
      path: Of the file; its directory exists.
      chunks: Its content in order.
      head: Gives the first `reserve` bytes, before the chunks. It is called when those
        are handed over: what it computes costs no time while the disk is at work.
      reserve: Length of the head.

    Raises:
      ValueError: If the head has another length.
      OSError: If the file cannot be written; it names `path`.
    """
    with _staged(path, chunks, head, reserve) as staged:
        _take_names({path: staged})


def write_together(files: Mapping[str | os.PathLike[str], bytes]) -> None:
    """Writes files that belong together: each is flushed before any takes its name.

    Args:
      files: Path -> content; the directories exist.

    Raises:
      OSError: If one cannot be written; it names the path. Then all are as they were,
        unless it is a renaming that failed.
    """
    with contextlib.ExitStack() as stack:
        staged = {
            path: stack.enter_context(_staged(path, [content]))
            for path, content in files.items()
        }
        _take_names(staged)


def make_directory(path: str | os.PathLike[str]) -> None:
    """Makes a directory, and proves that it takes files: before long work for them.

    Raises:
      OSError: If it cannot be made, or takes none; it names `path`.
    """
    with _named(path):
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def sweep(directory: str | os.PathLike[str], name: str | None = None) -> None:
    """Removes what killed processes left behind while they wrote, and never fails.

    Args:
      directory: To look in.
      name: Of the file that was to be written; None stands for any.
    """
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found and name in (None, found[1]):
                with contextlib.suppress(OSError):  # Gone by now, or not ours.
                    _remove_abandoned(entry)


@contextlib.contextmanager
def _staged(
    path: str | os.PathLike[str],
    chunks: Iterable[bytes | memoryview],
    head: Callable[[], bytes] | None = None,
    reserve: int = 0,
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """A temporary file as `write` has it, flushed, and the one that it is to become.

    In the end it is gone unless it took the name.
    """
    target = pathlib.Path(os.path.realpath(path))
    held = None
    with _named(path):
        sweep(target.parent, target.name)
        descriptor, temporary = _begin(target)
    try:
        with _named(path):
            try:
                if locks.known():  # Elsewhere a file that is open cannot be renamed.
                    held = os.dup(descriptor)  # Keeps the lock until it has its name.
                os.lseek(descriptor, reserve, os.SEEK_SET)
                _write_all(descriptor, chunks, reserve)
                first = head() if head else b""
                if len(first) != reserve:
                    raise ValueError(
                        f"The head must have {reserve} bytes. Received: {len(first)}."
                    )
                os.lseek(descriptor, 0, os.SEEK_SET)
                _write_all(descriptor, [first], 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        yield temporary, target
    except BaseException:  # KeyboardInterrupt too must leave nothing behind.
        with contextlib.suppress(OSError):  # The first failure is the one to tell.
            os.unlink(temporary)
        raise
    finally:
        if held is not None:
            with contextlib.suppress(OSError):  # All was flushed, and closed, before.
                os.close(held)


def _take_names(
    staged: Mapping[str | os.PathLike[str], tuple[pathlib.Path, pathlib.Path]],
) -> None:
    """Gives temporary files the names that they are for, and flushes those.

    Args:
      staged: Path, as messages name it -> what `_staged` gave.
    """
    parents = {}
    with contextlib.ExitStack() as freed:
        for path, (temporary, target) in staged.items():
            freed.enter_context(_freed_beside(target))
            with _named(path):
                os.replace(temporary, target)
            parents[target.parent] = path
        for parent, path in parents.items():
            with _named(path):
                _flush_directory(parent)


@contextlib.contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """The system's errors name the path: they know a number, or a temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # None of the system's.
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def _freed_beside(target: pathlib.Path) -> Iterator[None]:
    """Lets what a long file occupied be freed beside whatever comes next.

    Who drops the last reference to a file waits for that; where freed blocks are told
    to the disk (mount -o discard) 4.5 ms for 13.6 MB, a third of what writing takes.
    """
    old = None
    with contextlib.suppress(OSError):  # There is none, or it may not be read.
        # Where there are no locks, a file that is open cannot be replaced.
        if locks.known() and os.stat(target).st_size >= _STRETCH:
            old = os.open(target, os.O_RDONLY)
    try:
        yield
    finally:
        if old is not None:
            try:
                # Not threading's, whose start waits until the thread runs.
                _thread.start_new_thread(os.close, (old,))
            except RuntimeError:  # No thread can be had, as when the process ends.
                os.close(old)


def _begin(target: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Makes the temporary file, and locks it so that nobody sweeps it away."""
    # Not tempfile: its files are private, whatever the umask says.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        name = f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        temporary = target.parent / name
        descriptor = os.open(temporary, flags, 0o666)
        # A sweeping process may have met it before the lock: then it is gone, or will
        # be, and another one is made.
        if _locked(descriptor) is not False and os.path.exists(temporary):
            return descriptor, temporary
        os.close(descriptor)


def _locked(descriptor: int) -> bool | None:
    """As `locks.locked`; None where there are no locks."""
    try:
        return locks.locked(descriptor)
    except OSError:
        return None


def _write_all(
    descriptor: int, chunks: Iterable[bytes | memoryview], position: int
) -> None:
    """Writes many chunks in few calls; one call each took twice as long.

    The disk begins on each stretch when that was handed over, not when all was.
    """
    left: collections.deque[memoryview] = collections.deque()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        starts = range(0, view.nbytes, _STRETCH)
        left.extend(view[start : start + _STRETCH] for start in starts)
    while left:
        if hasattr(os, "writev"):
            written = os.writev(descriptor, _stretch(left))
        else:
            written = os.write(descriptor, left[0])
        _begin_flush(descriptor, position, written)
        position += written
        while written:
            view = left.popleft()
            if view.nbytes > written:
                left.appendleft(view[written:])
            written -= min(view.nbytes, written)


def _stretch(left: collections.deque[memoryview]) -> list[memoryview]:
    """The first views that go into one call."""
    sums = itertools.accumulate(view.nbytes for view in left)
    fitting = itertools.takewhile(lambda total: total <= _STRETCH, sums)
    count = max(1, sum(1 for _ in itertools.islice(fitting, _BATCH)))
    return list(itertools.islice(left, count))


def _begin_flush(descriptor: int, position: int, length: int) -> None:
    """Has the disk begin on what was written; `fsync` will wait for the less.

    Linux begins to write what is said not to be needed soon, and keeps it in memory
    until it is written. Elsewhere this is a hint without an effect.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # None for pipes, say.
            os.posix_fadvise(descriptor, position, length, os.POSIX_FADV_DONTNEED)


def _flush_directory(directory: pathlib.Path) -> None:
    """Flushes the new name itself; where directories cannot be opened, nothing."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # Files may be made there, but not listed.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Not for directories.
            raise
    finally:
        os.close(descriptor)


def _remove_abandoned(entry: os.DirEntry[str]) -> None:
    """Removes a temporary file whose writer has ended."""
    if not entry.is_file(follow_symlinks=False):
        return
    descriptor = os.open(entry.path, os.O_RDONLY)
    try:
        locked = _locked(descriptor)
        if locked is None:
            locked = entry.stat().st_mtime < time.time() - _STALE_SECONDS
        if locked:
            os.unlink(entry.path)
    finally:
        os.close(descriptor)
