"""Interpreters as a proof drives them: by signature, bare of a session's checks."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ondevice.device import opening, runtimes
from signatures import contract

Arrays = dict[str, Any]

_TIMEOUT_SECONDS = 3600


class Runner:
    """A fresh interpreter, driven by signature, threads as a trainable file has."""

    def __init__(self, data: bytes, runtime: str) -> None:
        threads = opening.session_threads(None, runtime)
        self._interpreter = runtimes.create(data, runtime, threads)

    def call(self, key: str, inputs: Mapping[str, Any]) -> Arrays:
        outputs = self._interpreter.get_signature_runner(key)(**inputs)
        return {name: np.array(value) for name, value in outputs.items()}

    def infer(self, images: np.ndarray) -> Arrays:
        """Runs `infer` on each image; output's name -> [n, ...]."""
        found = [self.call(contract.INFER, {"image": image[None]}) for image in images]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def plain(self, images: np.ndarray) -> Arrays:
        """Runs the primary subgraph on each image; output's place -> [n, ...]."""
        found = [runtimes.run(self._interpreter, image[None]) for image in images]
        return {str(i): np.concatenate(each) for i, each in enumerate(zip(*found))}


class PathRunner(Runner):
    """The same on a file that saves and restores by path, under --ops=select."""

    def call(self, key: str, inputs: Mapping[str, Any]) -> Arrays:
        import tensorflow as tf  # The only runtime that such a file runs in.

        with tempfile.TemporaryDirectory() as directory:
            path = str(pathlib.Path(directory) / "checkpoint")
            by_path = {"checkpoint_path": np.array(path.encode())}
            if key == contract.SAVE:
                super().call(key, by_path)
                reader = tf.train.load_checkpoint(path)
                names = reader.get_variable_to_shape_map()
                return {name: np.array(reader.get_tensor(name)) for name in names}
            if key == contract.RESTORE:
                named = {n: v for n, v in inputs.items() if n != "format_version"}
                data = [tf.constant(value) for value in named.values()]
                tf.raw_ops.Save(filename=path, tensor_names=list(named), data=data)
                return super().call(key, by_path)
        return super().call(key, inputs)


def alone(module: str, job: pathlib.Path, runtime: str) -> str:
    """Runs a module with a job in one runtime, in a process of its own.

    Args:
      module: Takes the job's directory and the runtime, and leaves arrays there.
      job: The directory.
      runtime: Its name.

    Returns:
      What went wrong, or nothing: a runtime that crashes is a result.
    """
    command = [sys.executable, "-m", module, str(job), runtime]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_TIMEOUT_SECONDS} seconds"
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"exit status {done.returncode}: {lines[-1] if lines else 'no message'}"
