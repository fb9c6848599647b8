"""Keeps a directory to one process at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from absl import logging

from checkpoints import locks


class ClaimError(ValueError):
    """A directory that another process works in."""


@contextlib.contextmanager
def claimed(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Locks a directory as long as the context is open.

    The lock is the system's, on the directory itself: no file is written, and nothing
    is left of a process that was killed. Where a directory cannot be locked, a line in
    the log says so, and nobody is kept out; nor where the system knows no such locks.

    Args:
      directory: That exists.

    Raises:
      ClaimError: If it is locked already, by whatever process.
      OSError: If it cannot be opened.
    """
    if not locks.known():
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            free = locks.locked(descriptor)
        except OSError as error:
            free = True
            logging.warning(
                "%s cannot be locked (%s): no other process must train there.",
                os.fspath(directory), error.strerror,
            )  # fmt: skip
        if not free:
            raise ClaimError(
                "One process at a time must train in a directory. Received: "
                f"{os.fspath(directory)}, in which another one does; nothing was "
                "written."
            )
        yield
    finally:
        os.close(descriptor)
