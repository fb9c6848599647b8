"""Restores a checkpoint in a process of its own, and tells what the model shows there.

    python -m ondevice.observing.elsewhere MODEL CHECKPOINT JOB.npz RUNTIME
"""

from __future__ import annotations

import pathlib
import sys
import types
from typing import Any

import numpy as np

from ondevice.observing import runs


def give(job: pathlib.Path, observed: Any) -> None:
    """Writes the probe, the batches and the rate of a subject."""
    arrays: dict[str, Any] = {"rate": observed.rate}
    arrays |= {f"probe/{name}": array for name, array in observed.probe.items()}
    for place, batch in enumerate(observed.batches):
        arrays |= {f"batch/{place}/{name}": array for name, array in batch.items()}
    np.savez(job, **arrays)


def take(job: pathlib.Path) -> runs.Seen:
    """Reads what the process saw."""
    with np.load(job, allow_pickle=False) as found:
        outputs = tuple(found[f"output/{i}"] for i in range(len(found.files) - 1))
        return runs.Seen(outputs, tuple(found["losses"].tolist()))


def given(job: pathlib.Path) -> Any:
    """The probe and the batches of a subject, as `give` wrote them."""
    probe: dict[str, np.ndarray] = {}
    batches: dict[str, dict[str, np.ndarray]] = {}
    with np.load(job, allow_pickle=False) as found:
        rate = float(found["rate"])
        for key in found.files:
            kind, *place, name = key.split("/") if "/" in key else ("", key)
            if kind:
                into = probe if kind == "probe" else batches.setdefault(place[0], {})
                into[name] = found[key]
    return types.SimpleNamespace(
        probe=probe, batches=list(batches.values()), rate=rate
    )


def _main(model: str, checkpoint: str, job: str, runtime: str) -> None:
    observed = given(pathlib.Path(job))
    with runs.opened(model, runtime) as running:
        running.restore(checkpoint)
        seen = runs.look(running, observed)
    outputs = {f"output/{i}": array for i, array in enumerate(seen.outputs)}
    np.savez(job, **outputs, losses=np.array(seen.losses, np.float64))


if __name__ == "__main__":
    _main(*sys.argv[1:])
