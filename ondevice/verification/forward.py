"""Runs files on probes in one runtime, in a process of its own.

    python -m ondevice.verification.forward JOB_DIRECTORY RUNTIME

reads `probes.npz` and every .tflite of the directory, and writes `RUNTIME.npz`:
`<file>/<kind of probe>/<output>` -> [n, ...], where an output is called by its name in
`infer` of a trainable file, and by its place in a frozen one. Where the runtime
crashes, the process ends, and that is the result. Imports no tensorflow unless that is
the runtime.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Mapping

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice.verification import runners


class ForwardError(RuntimeError):
    """A runtime that did not run the files."""


def run(
    files: Mapping[str, bytes], probes: Mapping[str, np.ndarray], runtime: str
) -> runners.Arrays:
    """Runs files in a process of its own.

    Args:
      files: By names that end in .tflite.
      probes: Kind -> [n, S, S, 3] float32 images.
      runtime: One that is installed.

    Returns:
      What came out, as above.

    Raises:
      ForwardError: If the process failed.
    """
    with tempfile.TemporaryDirectory() as directory:
        job = pathlib.Path(directory)
        for name, data in files.items():
            (job / name).write_bytes(data)
        np.savez(job / "probes.npz", **probes)
        failure = runners.alone(__name__, job, runtime)
        if failure:
            raise ForwardError(failure)
        with np.load(job / f"{runtime}.npz", allow_pickle=False) as stored:
            return dict(stored)


def main(arguments: list[str]) -> int:
    directory, runtime = pathlib.Path(arguments[0]), arguments[1]
    with np.load(directory / "probes.npz", allow_pickle=False) as stored:
        probes = dict(stored)
    found = {}
    for path in sorted(directory.glob("*.tflite")):
        data = path.read_bytes()
        manifest = manifests.of_file(tflite_file.parse(data))
        runner = runners.Runner(data, runtime)
        trainable = manifest is not None and manifest.kind == "trainable"
        outputs_of = runner.infer if trainable else runner.plain
        for kind, images in probes.items():
            for output, value in outputs_of(images).items():
                found[f"{path.name}/{kind}/{output}"] = value
    np.savez(directory / f"{runtime}.npz", **found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
