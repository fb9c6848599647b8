"""What installed packages take on the disk."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable


def megabytes(names: Iterable[str]) -> int:
    """Size of these distributions and of all that they require, as installed."""
    from packaging import requirements

    waiting, found = list(names), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for each in map(requirements.Requirement, needs):
            if each.marker is None or each.marker.evaluate({"extra": ""}):
                waiting.append(each.name)
    files = [f for name in found for f in importlib.metadata.files(name) or ()]
    return round(sum(f.size or 0 for f in files) / 1e6)
