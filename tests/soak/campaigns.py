"""The campaigns by name.

A campaign is a function of a seed: it draws a case from it, and raises where a promise
is broken, so that `--seed=` plays a failure again. What it returns is added up: how
many kills, inputs or steps the case was, by name; None where a run is all there is to
count. What several runs need, as a model to train, is made once and cached by the
campaign. A campaign runs in the runner's own process: what may crash or hang does so in
a process that the campaign starts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

Campaign = Callable[[int], Mapping[str, int] | None]


def _later(module: str, name: str = "run") -> Campaign:
    """A campaign whose module is imported when it is first run."""

    def campaign(seed: int) -> Mapping[str, int] | None:
        found = importlib.import_module(f"tests.soak.{module}")
        return getattr(found, name)(seed)

    return campaign


# Each of a module of its own in this package.
ALL: dict[str, Campaign] = {
    "faults": _later("faults"),
    "killed": _later("killed"),
    "long": _later("long"),
    "power": _later("power"),
} | {
    f"hostile_{name}": _later(f"hostile_{module}", name)
    for module, names in {
        "models": ("tflite", "decoding", "manifest"),
        "checkpoints": ("checkpoint", "tensorflow"),
        "pictures": ("picture", "annotation", "coco"),
        "torch": ("state_dict",),
    }.items()
    for name in names
}
