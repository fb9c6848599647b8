"""Draws class accuracy against seconds of several runs, from their TensorBoard files.

    python docs/learning.py out/learning.png out/run_all out/run_heads ...

Each run is a --checkpoint_dir of ondevice.train; its curve is named for the folder, and
its seconds count from the first step. Needs matplotlib and tensorboard.
"""

from __future__ import annotations

import pathlib
import sys

from matplotlib import figure
from tensorboard.backend.event_processing import event_accumulator

_TAG = "validation/class_accuracy"


def curve(run: pathlib.Path) -> tuple[list[float], list[float]]:
    """Seconds and class accuracies at the ends of a run's epochs."""
    found = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    events = found.Scalars(_TAG)
    began = found.FirstEventTimestamp()
    return [e.wall_time - began for e in events], [e.value for e in events]


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    page = figure.Figure(figsize=(8, 4.5), layout="constrained")
    axes = page.subplots()
    for folder in map(pathlib.Path, arguments[1:]):
        axes.plot(*curve(folder), ".-", label=folder.name)
    axes.axhline(0.9, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="seconds", ylabel="class accuracy, validation", ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    page.savefig(arguments[0], dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
