"""How a process ended that did not say so itself."""

from __future__ import annotations

import signal


def told(status: int, output: str) -> str:
    """Returns how it ended, in a line.

    Args:
      status: As `subprocess` has it: below 0 a signal.
      output: What the process wrote to stderr; its last line is quoted.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = f": {lines[-1][:400]}" if lines else ""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return f"died of signal {name}{last}"
    return f"exit status {status}{last}"
