"""Locks of the system on files and directories: nothing is left of who is killed."""

from __future__ import annotations

import errno

try:
    import fcntl
except ImportError:  # Windows, where nobody can remove a file that is open.
    fcntl = None  # type: ignore[assignment]


def known() -> bool:
    """Whether the system has such locks at all."""
    return fcntl is not None


def locked(descriptor: int) -> bool:
    """Locks what is open for as long as it is, or until this process ends.

    Returns:
      Whether it is locked now; False if somebody else has it.

    Raises:
      OSError: If it cannot be locked, as on some network file systems.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "No locks available")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
