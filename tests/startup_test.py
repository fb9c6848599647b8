"""Tests that a command's --help waits for nothing: it must be there at once."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from ondevice.measuring import startup
from tests import conftest


def imported(*arguments: str) -> set[str]:
    """The top-level packages that a start of Python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        cwd=conftest.ROOT,
        check=True,
    )
    lines = [line.split("|") for line in done.stderr.splitlines()]
    names = [line[2].strip() for line in lines if len(line) == 3]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("command", startup.commands())
def test_help_needs_no_package_but_absl(command):
    # absl reads the flags; everything else belongs behind them, and some take seconds.
    plain = imported("-c", "pass")
    found = imported("-m", f"ondevice.{command}", "--help") - plain
    installed = set(importlib.metadata.packages_distributions())
    assert found & installed <= {"absl", "ondevice", "signatures", "checkpoints"}
    assert found >= {"absl", "ondevice"}
