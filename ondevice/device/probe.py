"""Tries a .tflite in one runtime, in a process of its own.

A runtime may abort, crash or hang on a file, and the presence of one changes another:
where tensorflow is imported, the others find its Flex delegate. `probe` starts
`python -m ondevice.device.probe FILE RUNTIME`, which loads the file, allocates, and
invokes every signature with zeros.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ondevice.device import endings, runtimes

# Of memory, so that a file that asks for more is refused and not served.
_ADDRESS_SPACE = 16 * 2**30
_START = (sys.executable, "-m")
_MODULE = "ondevice.device.probe"
_ROOT = str(pathlib.Path(__file__).resolve().parents[2])


class ApartError(ValueError):
    """A process that came to no answer."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a runtime runs a file, and if not, why."""

    runs: bool
    error: str | None = None


def probe(path: str | os.PathLike[str], runtime: str, timeout: float) -> Verdict:
    """Tries a file in a runtime.

    Args:
      path: Of the .tflite.
      runtime: One of `runtimes.NAMES`.
      timeout: Seconds after which it counts as hanging.
    """
    if runtime not in runtimes.installed():
        return Verdict(False, "not installed")
    try:
        return Verdict(**apart(_MODULE, [os.fspath(path), runtime], timeout))
    except (TypeError, ApartError) as error:
        return Verdict(False, str(error))


def apart(module: str, arguments: Sequence[str], timeout: float) -> dict[str, Any]:
    """Runs a module in a process of its own, and reads what it says last.

    Args:
      module: Its name; it prints a JSON object in the last line.
      arguments: Of its command line.
      timeout: Seconds after which it counts as hanging.

    Raises:
      ApartError: If it hangs, or ends without that line: how it ended.
    """
    found = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([_ROOT, found] if found else [_ROOT]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        done = subprocess.run(
            [*_START, module, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ApartError(f"still running after {timeout:g} seconds") from error
    try:
        last = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):  # It did not come to its last line.
        last = None
    if not isinstance(last, dict):
        raise ApartError(endings.told(done.returncode, done.stderr))
    return last


def limit_memory() -> None:
    """Keeps this process from more memory than a model should need."""
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, hard))
    except (ImportError, ValueError, OSError):  # Not every system has it.
        pass


def invoke_all(path: str, runtime: str) -> None:
    """Loads a file and invokes whatever can be invoked, with zeros.

    Raises:
      TfliteError: If it is malformed or unsound; no interpreter sees it then.
      RuntimeChoiceError, RuntimeFailure: As `runtimes.create`.
      RuntimeError, ValueError: From the interpreter, naming the signature.
    """
    import numpy as np

    from checkpoints import soundness, tflite_file

    soundness.require(tflite_file.read(path))
    interpreter = runtimes.create(path, runtime)
    # A select-ops file restores what it saved, so that goes first.
    keys = sorted(interpreter.get_signature_list())
    keys.sort(key=lambda key: key != "save")
    if not keys:
        for entry in interpreter.get_input_details():
            zeros = np.zeros(entry["shape"], entry["dtype"])
            interpreter.set_tensor(entry["index"], zeros)
        interpreter.invoke()
    with tempfile.TemporaryDirectory() as directory:
        text = np.array(os.path.join(directory, "checkpoint"), np.bytes_)
        for key in keys:
            runner = interpreter.get_signature_runner(key)
            arrays = {
                name: text
                if entry["dtype"] in (np.bytes_, np.str_, np.object_)
                else np.zeros(entry["shape"], entry["dtype"])
                for name, entry in runner.get_input_details().items()
            }
            try:
                runner(**arrays)
            except (RuntimeError, ValueError) as error:
                raise type(error)(f"signature {key!r}: {error}") from error


def _main(path: str, runtime: str) -> None:
    verdict: dict[str, Any] = {"runs": True, "error": None}
    limit_memory()
    try:
        invoke_all(path, runtime)
    except Exception as error:  # Whatever it is, it is the answer.
        text = " ".join(str(error).split()) or type(error).__name__
        verdict = {"runs": False, "error": text}
    print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
