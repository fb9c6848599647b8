"""Both ways to a trainable file, in every runtime: ours and the overview's."""

from __future__ import annotations

import pathlib

from ondevice.device import probe, runtimes
from ondevice.observing import runs, subject, verdict

_STEPS = 4
_TIMEOUT_SECONDS = 600.0


def observe(
    observed: subject.Subject, ops: str, directory: pathlib.Path
) -> verdict.Verdict:
    """Trains, saves, restores and trains on wherever the file runs.

    Args:
      observed: The network.
      ops: `builtin` or `select`.
      directory: For files that come and go.

    Returns:
      Whether it does so in every installed runtime; where it does not, the message.
    """
    model = observed.model(subject.Variant(ops))
    path = directory / f"{observed.name}-{ops}.tflite"
    path.write_bytes(model)
    found: dict[str, dict] = {}
    for runtime in runtimes.installed():
        # In a process of its own: a runtime may take the whole program with it.
        tried = probe.probe(path, runtime, _TIMEOUT_SECONDS)
        if not tried.runs:
            found[runtime] = {"runs": False, "message": tried.error}
            continue
        checkpoint = directory / f"{observed.name}-{ops}-{runtime}"
        with runs.opened(path, runtime) as running:
            losses = runs.train(running, observed, 0, _STEPS)
            running.save(checkpoint)
            losses += runs.train(running, observed, _STEPS, _STEPS)
        with runs.opened(path, runtime) as running:
            running.restore(checkpoint)
            again = runs.train(running, observed, _STEPS, _STEPS)
        found[runtime] = {
            "runs": True,
            "losses": losses,
            "goes_on_bit_for_bit": again == losses[_STEPS:],
        }
    way = "ours, builtin operators alone" if ops == "builtin" else "the overview's"
    return verdict.Verdict(
        f"path.{ops}",
        observed.name,
        f"A file built with --ops={ops} ({way}) trains in every installed runtime and "
        "goes on from its checkpoint.",
        all(each.get("goes_on_bit_for_bit") for each in found.values()),
        {"runtimes": found},
        f"{_STEPS} steps, a checkpoint, {_STEPS} more; a new interpreter takes the "
        "second ones again from the checkpoint, and every loss must be the same.",
    )
