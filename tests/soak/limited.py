"""Runs a command on a disk that takes no more: `python -m tests.soak.limited`.

    python -m tests.soak.limited BYTES MODULE ARGUMENTS...

No file may grow beyond BYTES, as if the disk were full; 0 stands for any size. The
rights of directories bind, also for root, whom they do not otherwise.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

# Source: prctl(2), capabilities(7).
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1

if __name__ == "__main__":
    most, *command = sys.argv[1:]
    if int(most):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", *command])
