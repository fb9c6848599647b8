"""Tools of others that make a .tflite of a PyTorch module, each in its environment.

Each is given the vendor's network with the vendor's weights, so that what comes out
can be held against the vendor's own file, operator by operator.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

from checkpoints import tflite_file

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 3600

# Of an environment: what is in it, and how large that is; pip and its helpers apart.
_LIST = """
import importlib.metadata, json
found = [d for d in importlib.metadata.distributions()
         if d.metadata["Name"] not in ("pip", "setuptools", "wheel")]
size = sum(f.size or 0 for d in found for f in d.files or ())
versions = {d.metadata["Name"]: d.version for d in found}
print(json.dumps({"megabytes": round(size / 1e6), "versions": versions}))
"""

# The vendor keeps weights in half the bytes; that is no operator of the network.
_DECODING = "DEQUANTIZE"


@dataclasses.dataclass(frozen=True)
class Tool:
    """One way.

    Attributes:
      name: Of the files it makes.
      call: As in `peers.TOOLS`.
      title: For the table.
      environment: Folder of the environment it runs in, below the one that is given.
      packages: Those whose versions the table tells.
      source: `export` or `export_old` where it starts from ONNX, nothing where from
        PyTorch.
    """

    name: str
    call: str
    title: str
    environment: str
    packages: tuple[str, ...]
    source: str = ""


EXPORTER = "export"  # the environment that has torch and onnx

_LITERT, _KERAS = ("litert-torch", "torch"), ("onnx2keras", "tensorflow")
_ONNX2TF, _ONNX_TF = ("onnx2tf", "tensorflow"), ("onnx-tf", "onnx", "tensorflow")

TOOLS = (
    Tool("litert_torch", "litert_torch", "litert-torch", "litert", _LITERT),
    Tool(
        "litert_torch_last",
        "litert_torch_last",
        "litert-torch, `to_channel_last_io`",
        "litert",
        _LITERT,
    ),
    Tool("onnx2tf", "onnx2tf", "onnx2tf", "onnx2tf", _ONNX2TF, "export"),
    Tool("tinynn", "tinynn", "TinyNeuralNetwork", "tinynn", ("torch",)),
    Tool("onnx2keras", "onnx2keras", "onnx2keras", "onnx2keras", _KERAS, "export"),
    Tool(
        "onnx2keras_last",
        "onnx2keras_last",
        "onnx2keras, `change_ordering`",
        "onnx2keras",
        _KERAS,
        "export",
    ),
    Tool("onnx_tf", "onnx_tf", "onnx-tf", "onnxtf", _ONNX_TF, "export_old"),
    Tool(
        "onnx_tf_2023",
        "onnx_tf",
        "onnx-tf in an environment of 2023",
        "onnxtf2023",
        _ONNX_TF,
        "export_old",
    ),
)


def describe(python: pathlib.Path) -> dict[str, Any]:
    """What an environment has: "megabytes" and "versions" by package."""
    done = subprocess.run(
        [python, "-c", _LIST], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def convert(
    tool: Tool, environments: pathlib.Path, spec: str, folder: pathlib.Path
) -> dict[str, Any]:
    """Runs a tool, unless it has run in this folder before.

    Args:
      tool: Which.
      environments: Folder of the environments.
      spec: Name of the detector.
      folder: Has `module.pth`; takes the ONNX files, TOOL.tflite and TOOL.json.

    Returns:
      "error", the last thing that it or the exporter said, or null; and the seconds it
      took, by the clock and of the processor.
    """
    kept = folder / f"{tool.name}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    source, found = folder / "module.pth", None
    if tool.source:
        onnx = folder / f"{tool.source}.onnx"
        if not onnx.exists():
            found = _run(environments / EXPORTER, tool.source, spec, source, onnx)
        source = onnx
    if found is None or not found["error"]:
        output = folder / f"{tool.name}.tflite"
        environment = environments / tool.environment
        found = _run(environment, tool.call, spec, source, output)
    kept.write_text(json.dumps(found))
    return found


def _run(
    environment: pathlib.Path,
    name: str,
    spec: str,
    source: pathlib.Path,
    output: pathlib.Path,
) -> dict[str, Any]:
    python = environment / "bin" / "python"
    # As in an activated environment: onnx2tf, for one, runs programs of its own, and
    # goes on without what they would have done where it does not find them.
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    before, started = _children(), time.monotonic()
    command = [python, "-m", "docs.routes.peers", name, spec, source, output]
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {_TIMEOUT_SECONDS} s"}
    except OSError as error:
        return {"error": f"not installed: {error}"}
    output.with_suffix(".log").write_text(done.stdout + done.stderr)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    error = None
    if done.returncode:
        error = said[-1] if said else f"exit status {done.returncode}"
        print(f"{name}: {error}", file=sys.stderr)
    return {
        "error": error,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(_children() - before, 1),
    }


def _children() -> float:
    """Seconds that processes started from here, and ended, have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def census(
    file: tflite_file.TfliteFile, vendor: tflite_file.TfliteFile
) -> dict[str, Any]:
    """A file's operators against the vendor's, decoding of weights apart.

    Returns:
      "bytes", "operators" in all, "transposes", and "more" and "fewer", operator ->
      number, against the vendor's file.
    """
    got = collections.Counter(file.census())
    expected = collections.Counter(vendor.census())
    del got[_DECODING], expected[_DECODING]
    return {
        "bytes": len(file.data),
        "operators": got.total(),
        "transposes": got["TRANSPOSE"],
        "more": dict(got - expected),
        "fewer": dict(expected - got),
    }
