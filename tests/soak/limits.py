"""Watches one reader at one input: its errors, its time, its memory, what it writes.

Memory is what Python and numpy allocate, by tracemalloc; what Pillow or torch allocate
by themselves it does not see. Time is this process's own on the processor, so that a
busy machine breaks no promise.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

# Packages whose errors are ours.
OWN = ("checkpoints", "ondevice", "signatures")
SECONDS = 2.0
# Watched memory makes Python up to thirty times slower: what takes longer is timed once
# more without, and what takes so many times as long is not waited for.
_PATIENCE = 10
# Longest line of a message, in characters.
MESSAGE = 8_000
# What reading a file may take: so many times its bytes, and these for the smallest.
GROWTH, FREE = 4, 8 * 2**20

# What a reader may not do, by the names of Python's audit events.
_FORBIDDEN = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link"),
    *("os.symlink", "os.truncate", "os.system", "os.exec", "os.posix_spawn"),
    *("subprocess.Popen", "socket.connect", "pickle.find_class", "shutil.move"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Hang(BaseException):
    """A reader that did not end; no reader's `except Exception` swallows it."""


class Trespass(BaseException):
    """A reader that wrote, started or connected to something."""


def is_own(error: BaseException) -> bool:
    """Whether an error is one that a command tells in one line."""
    return type(error).__module__.partition(".")[0] in OWN


def held(read: Callable[[], object], allowed: int) -> bool:
    """Runs a reader, and proves what is promised of it.

    Args:
      read: Reads the input.
      allowed: Bytes that it may have allocated at any moment.

    Returns:
      Whether it took the input; False where it refused it as it should.

    Raises:
      AssertionError: If it took too long or too much, wrote or started something, or
        its message is endless.
      Exception: What it raised, where that is no error of ours.
    """
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    begun = time.process_time()
    try:
        taken = _watched(read, _PATIENCE * SECONDS)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if started:
            tracemalloc.stop()
    if time.process_time() - begun > SECONDS:
        _watched(read, SECONDS)
    assert peak <= allowed, f"{peak} bytes allocated, of {allowed} allowed"
    return taken


def _watched(read: Callable[[], object], seconds: float) -> bool:
    """Whether a reader takes its input, within so many seconds and writing nothing."""
    try:
        with _alarm(seconds), _audited():
            return _taken(read)
    except (Hang, Trespass) as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error


def _taken(read: Callable[[], object]) -> bool:
    try:
        read()
    except ValueError as error:
        if not is_own(error):
            raise
        # A data set's faults have a line each; other errors are one.
        longest = max(map(len, getattr(error, "lines", [str(error)])))
        assert longest < MESSAGE, f"a message of {longest} characters"
        return False
    return True


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang(f"no end after {seconds} seconds")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


_watching = False


@contextlib.contextmanager
def _audited() -> Iterator[None]:
    global _watching
    _install()
    _watching = True
    try:
        yield
    finally:
        _watching = False


@functools.cache
def _install() -> None:
    """Python's hooks stay for ever; this one looks only while a reader runs."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not _watching:
            return
        # Importing what was not needed before writes .pyc files by `open`, too.
        writes = event == "open" and _writes(*arguments)
        if event in _FORBIDDEN or writes:
            raise Trespass(f"{event} {arguments[:2]}")

    sys.addaudithook(hook)


def _writes(path: Any, mode: Any, flags: Any) -> bool:
    named = "__pycache__" in str(path)
    return bool(isinstance(flags, int) and flags & _WRITING) and not named
