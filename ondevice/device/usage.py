"""What this process has used so far, as the operating system counts it."""

from __future__ import annotations

import pathlib
import re
import sys
import time

_STATUS = pathlib.Path("/proc/self/status")


def peak_memory() -> int | None:
    """The most memory that was resident at a time, in bytes; None where nobody tells.

    On Linux from /proc: there getrusage counts what the parent had, too, until this
    program was loaded (a child of a process of 600 MB that itself took 9 MB had 625).
    Source: proc_pid_status(5), VmHWM; getrusage(2), ru_maxrss.
    """
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    try:
        import resource  # Not on Windows.
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_seconds() -> float:
    """Time that all threads of this process have computed, in seconds."""
    return time.process_time()
