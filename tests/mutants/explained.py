"""Survivors that no test can or should notice, with the reason of each."""

from __future__ import annotations

import json
import pathlib

PATH = pathlib.Path(__file__).with_name("explained.json")


def read() -> dict[tuple[str, str, str], str]:
    """(module's path, what stands there, what the mutant has) -> why it survives."""
    entries = json.loads(PATH.read_text())
    return {(e["path"], e["before"], e["after"]): e["why"] for e in entries}
