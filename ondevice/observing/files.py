"""Claims a to c: what training leaves in the file, and what a checkpoint restores."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import sys

import numpy as np

from checkpoints import patch, tflite_file
from checkpoints import weights as stored
from ondevice.device import runtimes
from ondevice.observing import elsewhere, runs, subject, verdict

_STEPS = 3


def observe(
    observed: subject.Subject, runtime: str, directory: pathlib.Path
) -> list[verdict.Verdict]:
    """Tests the three claims in one runtime.

    Args:
      observed: The network.
      runtime: Where it is run.
      directory: For files that come and go.

    Returns:
      Verdicts a, b and c.
    """
    data = observed.model(subject.Variant())
    path = directory / f"{observed.name}.tflite"
    path.write_bytes(data)
    checkpoint = directory / f"{observed.name}-{runtime}.safetensors"
    with runs.opened(path, runtime) as running:
        untouched = runs.look(running, observed)
        losses = runs.train(running, observed, 0, _STEPS)
        trained = runs.look(running, observed)
        running.save(checkpoint)
        after = hashlib.sha256(path.read_bytes()).hexdigest()
        same, moved = _in_the_same(running, observed, checkpoint, trained)
    before = hashlib.sha256(data).hexdigest()
    unchanged = verdict.Verdict(
        "a",
        observed.name,
        "Training through the interpreter does not change the .tflite.",
        before == after,
        {
            "runtime": runtime,
            "steps": _STEPS,
            "losses": losses,
            "outputs_and_losses_that_moved": untouched.differs(trained),
            "sha256_before": before,
            "sha256_after": after,
        },
        "The interpreter's outputs moved; the file's bytes are compared by digest.",
    )
    return [
        unchanged,
        _where_weights_are(observed, runtime, path, untouched, trained),
        _restored(observed, runtime, path, checkpoint, trained, same, moved),
    ]


def _in_the_same(
    running, observed, checkpoint, trained
) -> tuple[dict[str, int], int]:
    """Restores where the checkpoint was made: at once, and after more steps.

    Returns:
      Place -> outputs and losses that differ there, and those that the steps moved.
    """
    running.restore(checkpoint)
    at_once = runs.look(running, observed)
    runs.train(running, observed, _STEPS, _STEPS)
    further = runs.look(running, observed)
    running.restore(checkpoint)
    again = runs.look(running, observed)
    differing = {
        "the same interpreter, at once": trained.differs(at_once),
        "the same interpreter, trained on since": trained.differs(again),
    }
    return differing, trained.differs(further)


def _where_weights_are(observed, runtime, path, untouched, trained):
    with runs.opened(path, runtime) as running:
        anew = runs.look(running, observed)
        described = running.manifest
    constants = stored.of_trainable(tflite_file.read(path), described)
    from_tensorflow = sum(
        not np.array_equal(constants[name], value)
        for name, value in observed.weights.items()
    )
    of_file, of_interpreter = untouched.differs(anew), trained.differs(anew)
    return verdict.Verdict(
        "b",
        observed.name,
        "Weights from TensorFlow are in the file, weights from the interpreter are "
        "not.",
        from_tensorflow == 0 and of_file == 0 and of_interpreter > 0,
        {
            "runtime": runtime,
            "weights": len(observed.weights),
            "constants_that_are_not_tensorflows_weights": from_tensorflow,
            "outputs_and_losses_unlike_the_untrained": of_file,
            "outputs_and_losses_unlike_the_trained": of_interpreter,
        },
        "The file's constants are compared with TensorFlow's weights bit by bit, and a "
        "new interpreter on the file with the untrained and the trained one.",
    )


def _restored(observed, runtime, path, checkpoint, trained, same, moved):
    with runs.opened(path, runtime) as running:
        running.restore(checkpoint)
        new = runs.look(running, observed)
        state = running.state()
        runs.train(running, observed, _STEPS, _STEPS)
        further, described = running.state(), running.manifest
    process = _elsewhere(observed, runtime, path, checkpoint)
    file = tflite_file.read(path)
    other = patch.patch_trainable(file, described, further)
    with runs.opened(other, runtime) as running:
        of_other = runs.look(running, observed)
        running.restore(checkpoint)
        over = runs.look(running, observed)
    with runs.opened(patch.patch_trainable(file, described, state), runtime) as running:
        patched = runs.look(running, observed)
    differing = {
        **same,
        "a new interpreter": trained.differs(new),
        "a new process": trained.differs(process),
        "a file that later weights were patched into": trained.differs(over),
        "a file that these weights were patched into, no checkpoint": trained.differs(
            patched
        ),
    }
    return verdict.Verdict(
        "c",
        observed.name,
        "A checkpoint restores the model: the same outputs and losses everywhere.",
        not any(differing.values())
        and moved > 0
        and trained.differs(of_other) > 0,
        {
            "runtime": runtime,
            "outputs_and_losses_that_differ": differing,
            "that_training_on_moved": moved,
        },
        "Every output and loss is compared bit by bit with those of the interpreter "
        "that was trained, before the checkpoint was saved.",
    )


def _elsewhere(observed, runtime, path, checkpoint) -> runs.Seen:
    """What a new process sees that restores the checkpoint."""
    job = checkpoint.with_suffix(".npz")
    elsewhere.give(job, observed)
    subprocess.run(
        [
            *(sys.executable, "-m", "ondevice.observing.elsewhere"),
            *(str(path), str(checkpoint), str(job), runtimes.choose(runtime)),
        ],
        check=True,
        capture_output=True,
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    return elsewhere.take(job)
