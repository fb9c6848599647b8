"""Stands for `os` in the module that writes files, and lets a call go wrong.

    with shim.installed(shim.Failing(at=3, code=errno.ENOSPC)) as calls:
        atomic.write(path, [b"content"])

The calls are counted through, so that each boundary between two of them can be tried.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from checkpoints import atomic
from ondevice.device import journal

# What changes, or asks for, something on the disk.
CALLS = (
    "open", "lseek", "write", "writev", "fsync", "close", "replace", "unlink", "dup",
    "scandir",
)  # fmt: skip

# (number of the call, its name, what makes it, its arguments) -> its result.
Act = Callable[[int, str, Callable[[], Any], tuple], Any]


class Shim:
    """`os`, with every call of `CALLS` given to a function.

    Attributes:
      calls: Names of those made, in order.
    """

    def __init__(self, act: Act) -> None:
        self._act = act
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            made = functools.partial(real, *arguments)
            return self._act(len(self.calls) - 1, name, made, arguments)

        return call


def counting(number: int, name: str, made: Callable[[], Any], arguments: tuple) -> Any:
    """Lets every call be what it is."""
    return made()


class Failing:
    """Fails one call, or from one on every call, as a disk does."""

    def __init__(self, at: int, code: int, after: bool = False) -> None:
        """Nothing fails yet.

        Args:
          at: Number of the call that fails.
          code: Of `errno`.
          after: Whether all calls after it that write or flush fail, too.
        """
        self._at, self._code, self._after = at, code, after

    def __call__(
        self, number: int, name: str, made: Callable[[], Any], arguments: tuple
    ) -> Any:
        later = number > self._at and name in ("write", "writev", "fsync", "replace")
        if number == self._at or (self._after and later):
            if name == "close":  # The system closes it all the same.
                made()
            raise OSError(self._code, os.strerror(self._code))
        return made()


class Short:
    """Writes so many bytes and no more: at first fewer than asked for, then none."""

    def __init__(self, room: int, code: int = errno.ENOSPC, most: int = 2**30) -> None:
        """Nothing is written yet.

        Args:
          room: Bytes until the disk is full.
          code: Of `errno`, once it is.
          most: Bytes of one call.
        """
        self._room, self._code, self._most = room, code, most

    def __call__(
        self, number: int, name: str, made: Callable[[], Any], arguments: tuple
    ) -> Any:
        if name not in ("write", "writev"):
            return made()
        descriptor, given = arguments
        data = given if name == "write" else b"".join(given)
        if data and not self._room:
            raise OSError(self._code, os.strerror(self._code))
        written = os.write(descriptor, data[: min(self._room, self._most)])
        self._room -= written
        return written


class Killing:
    """Kills the process at a call, as SIGKILL from outside could."""

    BEFORE, WITHIN, AFTER = "before", "within", "after"

    def __init__(self, at: int, when: str) -> None:
        """Nobody is killed yet.

        Args:
          at: Number of the call.
          when: Before it, after it, or within: when half of the bytes are written.
        """
        self._at, self._when = at, when

    def __call__(
        self, number: int, name: str, made: Callable[[], Any], arguments: tuple
    ) -> Any:
        if number != self._at:
            return made()
        if self._when == self.WITHIN and name in ("write", "writev"):
            descriptor, given = arguments
            data = bytes(given) if name == "write" else b"".join(given)
            os.write(descriptor, data[: len(data) // 2])
        elif self._when != self.BEFORE:
            made()
        os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def installed(act: Act) -> Iterator[list[str]]:
    """Has the writers' calls of `os` go through a function; gives their names."""
    found = Shim(act)
    with mock.patch.object(atomic, "os", found):
        with mock.patch.object(journal, "os", found):
            yield found.calls
