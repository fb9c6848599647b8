"""Shows what is in a .tflite, and which of the runtimes run it.

    python -m ondevice.inspect out/palm_full/model.tflite
    python -m ondevice.inspect --timeout=30 palm_detection_full.tflite

A table goes to stderr; the last line of stdout is one JSON object:
{"signatures", "operators", "custom", "flex", "variables", "memory", "manifest",
"runtimes"}. `flex` are the operators that need TensorFlow's own kernels, `custom` the
other custom ones, `memory` the bytes that the file, its variables and a call of each
signature need, counted from the graph: runtimes take somewhat more, `manifest` is null
in a file that ondevice.build did not write. Every runtime is
tried in a process of its own: the file is loaded and each signature invoked with zeros
(the one graph where there are no signatures), so that a crash or a hang is an answer:
{"runs": false, "error": "..."}.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ondevice import commands

if TYPE_CHECKING:
    from checkpoints import tflite_file

FLAGS = commands.flag_values()
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    120.0,
    "Seconds after which a runtime counts as hanging.",
    lower_bound=1.0,
    flag_values=FLAGS,
)


def inspect(path: str, timeout: float = 120.0) -> dict[str, Any]:
    """Describes a file and tries it in every runtime.

    Args:
      path: Of a .tflite.
      timeout: Seconds for each runtime.

    Returns:
      The JSON object of the command.

    Raises:
      TfliteError: If the file is malformed.
      ManifestError: If its manifest is.
      OSError: If it cannot be read.
    """
    from checkpoints import manifest, tflite_file
    from ondevice.device import needs, probe, runtimes

    file = tflite_file.read(path)
    return {
        "signatures": {s.key: _signature(file, s) for s in file.signatures},
        "operators": file.census(),
        "custom": file.custom(),
        "flex": file.flex(),
        "variables": _variables(file),
        "memory": dataclasses.asdict(needs.of_file(file)),
        "manifest": manifest.of_file(file),
        "runtimes": {
            name: probe.probe(path, name, timeout)
            for name in commands.progress(runtimes.NAMES, "runtimes")
        },
    }


def table(found: dict[str, Any]) -> str:
    """Returns what `inspect` found, for people."""
    from ondevice.device import needs

    lines = []
    for key, signature in found["signatures"].items():
        lines.append(f"signature {key}")
        for what in ("inputs", "outputs"):
            for name, tensor in signature[what].items():
                shape = ",".join(map(str, tensor["shape"]))
                lines.append(f"  {what[:-1]:<7}{name:<40}{tensor['dtype']} [{shape}]")
    counts = [f"{name} {count}" for name, count in found["operators"].items()]
    lines.append(f"operators  {', '.join(counts)}")
    lines.append(f"custom     {', '.join(found['custom']) or 'none'}")
    lines.append(f"flex       {', '.join(found['flex']) or 'none'}")
    lines.append(f"variables  {len(found['variables'])}")
    lines.append(f"memory     {needs.told(found['memory'])}")
    own = found["manifest"]
    described = own and f"{own.kind} of {own.spec}, classes {', '.join(own.classes)}"
    lines.append(f"manifest   {described or 'none'}")
    if own and own.kind == "trainable":
        lines.append(f"target     {own.target}")
    for name, verdict in found["runtimes"].items():
        answer = "runs" if verdict.runs else f"fails: {verdict.error}"
        lines.append(f"runtime    {name:<16}{answer}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> commands.Outcome:
    path = commands.only_tflite(arguments)
    found = inspect(path, _TIMEOUT.value)
    print(table(found), file=sys.stderr)
    return commands.Outcome(found)


def _signature(
    file: tflite_file.TfliteFile, signature: tflite_file.Signature
) -> dict[str, Any]:
    tensors = file.subgraphs[signature.subgraph].tensors
    return {
        what: {
            name: {"dtype": tensors[i].dtype.lower(), "shape": tensors[i].shape}
            for name, i in named.items()
        }
        for what, named in (
            ("inputs", signature.inputs),
            ("outputs", signature.outputs),
        )
    }


def _variables(file: tflite_file.TfliteFile) -> list[dict[str, Any]]:
    """Returns the variables with what initialises them; null where nothing does."""
    from checkpoints import patch

    try:
        buffers = patch.variable_buffers(file)
    except patch.PatchError:  # Not of a kind that can be patched; names it has.
        buffers = {}
    constants = {
        tensor.buffer: tensor
        for graph in file.subgraphs
        for tensor in graph.tensors
        if file.buffers[tensor.buffer].size
    }
    names = {
        operator.options.get("shared_name", "")
        for graph in file.subgraphs
        for operator in graph.operators
        if operator.name == "VAR_HANDLE"
    }
    found = []
    for name in sorted(names | set(buffers)):
        constant = constants.get(buffers.get(name, -1))
        found.append(
            {
                "name": name,
                "shape": constant.shape if constant else None,
                "dtype": constant.dtype.lower() if constant else None,
                "buffer": buffers.get(name),
            }
        )
    return found


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
