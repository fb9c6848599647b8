"""Lists and extracts the weights of any .tflite, by the layers that read them.

    python -m ondevice.weights palm_detection_full.tflite
        What there is.
    python -m ondevice.weights face_detection_front.tflite --layout=pytorch \\
        --output=blazeface.safetensors
        For a network in PyTorch.
    python -m ondevice.weights palm_detection_full.tflite --layout=keras \\
        --output=palm.npz
        numpy.load("palm.npz")["conv2d_5/kernel"]
    python -m ondevice.weights palm_detection_full.tflite --via=interpreter
        The same by an interpreter, tensor by index, instead of the file's own bytes.

Every constant that stands for floats is decoded to float32: float16, integers by their
scales, sparse ones. A name is <layer>/<attribute>, with kernel, bias or alpha: the
layers are called as the rebuild calls them where the file is a known detector, and
otherwise numbered as Keras does, conv2d, conv2d_1, depthwise_conv2d, dense, ... in the
order of execution. What the file calls a constant is shown beside it, and is the name
of those that no rule knows. A constant that several layers read is there for each.

Layouts, by the axes output and input channel, height and width:

                        tflite  keras   pytorch
    convolution         OHWI    HWIO    OIHW
    depthwise           1HWC    HWC1    C1HW
    transpose           OHWI    HWOI    IOHW
    fully connected     OI      IO      OI
    PReLU               11C     11C     C

A table goes to stderr; the last line of stdout is one JSON object: {"detector",
"layout", "via", "constants": [{"name", "layer", "attribute", "axes", "shape", "l2",
"largest", "mean", "not_finite", "tensor": {"subgraph", "index", "name", "dtype",
"sparse", "quantized"}}], "numbers", "refused", "output", "bytes"}. `refused` has what
cannot be decoded and why; the others are extracted, and the exit status is then 1.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from checkpoints import tflite_file
    from ondevice.rebuild import naming

FLAGS = commands.flag_values()
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file to write, a .safetensors or .npz. Default: the weights are only listed.",
    flag_values=FLAGS,
)
_LAYOUT = flags.DEFINE_enum(
    "layout",
    "tflite",
    ["tflite", "keras", "pytorch"],
    "How the axes of the arrays lie.",
    flag_values=FLAGS,
)
_VIA = flags.DEFINE_enum(
    "via",
    "parser",
    ["parser", "interpreter"],
    "Who reads the constants: our parser of the file, or an interpreter, which must "
    "know every operator.",
    flag_values=FLAGS,
)
_RUNTIME = commands.define_runtime(FLAGS)[0]
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    120.0,
    "Seconds after which an interpreter counts as hanging.",
    lower_bound=1.0,
    flag_values=FLAGS,
)


def weights(
    path: str,
    output: str | None = None,
    layout: str = "tflite",
    via: str = "parser",
    runtime: str = "auto",
    timeout: float = 120.0,
) -> dict[str, Any]:
    """Lists a file's weights, and writes them where `output` says.

    Returns:
      The JSON object of the command.

    Raises:
      TfliteError: If the file is malformed.
      RuntimeChoiceError, RuntimeFailure: If an interpreter is to read it and cannot.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import figures, tflite_file
    from ondevice import extraction
    from ondevice.rebuild import naming

    file = tflite_file.read(path)
    detector, named = naming.name_all(file)
    values = None
    if via == extraction.INTERPRETER:
        values = extraction.by_interpreter(path, named, runtime, timeout)
    found = extraction.extract(file, named, layout, values)
    size = None
    if output is not None:
        about = {"source": os.path.basename(path), "layout": layout}
        size = extraction.save(output, found.arrays, about)
        logging.info("%s: %d arrays, %d bytes.", output, len(found.arrays), size)
    return {
        "detector": detector,
        "layout": layout,
        "via": via,
        "constants": [
            {
                **_origin(file, one),
                "shape": found.arrays[one.name].shape,
                **dataclasses.asdict(figures.of(found.arrays[one.name])),
            }
            for one in named
            if one.name in found.arrays
        ],
        "numbers": sum(array.size for array in found.arrays.values()),
        "refused": found.refused,
        "output": output,
        "bytes": size,
    }


def table(found: dict[str, Any]) -> str:
    """Returns what `weights` found, for people."""
    lines = [
        f"{'detector':<15}{found['detector'] or 'none that is known'}",
        f"{'name':<34}{'shape':<16}{'stored as':<15}{'l2':>10}{'largest':>10}  the "
        "file's own name",
    ]
    for constant in found["constants"]:
        tensor = constant["tensor"]
        stored = tensor["dtype"].lower() + " sparse" * tensor["sparse"]
        stored += " scaled" * tensor["quantized"]
        told = f"  {constant['not_finite']} not finite" * bool(constant["not_finite"])
        shape = ",".join(map(str, constant["shape"]))
        lines.append(
            f"{constant['name']:<34}{f'[{shape}]':<16}{stored:<15}"
            f"{constant['l2']:>10.4g}{constant['largest']:>10.4g}  "
            f"{tensor['name']!r:.120}{told}"
        )
    lines += [f"{name}: {why}" for name, why in found["refused"].items()]
    count = len(found["constants"])
    lines.append(f"{count} constants, {found['numbers']} numbers")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> commands.Outcome:
    path = commands.only_tflite(arguments)
    output = _OUTPUT.value
    if output is not None:
        output = commands.new_file(output, {"the .tflite": path})
        if not output.endswith((".safetensors", ".npz")):
            raise commands.UsageError(
                f"--output must end in .safetensors or .npz. Received: {output!r}."
            )
    if FLAGS["runtime"].present and _VIA.value != "interpreter":
        raise commands.UsageError(
            "--runtime must go with --via=interpreter. Received: --via=parser."
        )
    found = weights(
        path, output, _LAYOUT.value, _VIA.value, _RUNTIME.value, _TIMEOUT.value
    )
    print(table(found), file=sys.stderr)
    return commands.Outcome(found, holds=not found["refused"])


def _origin(file: tflite_file.TfliteFile, one: naming.Constant) -> dict[str, Any]:
    """What a constant is called and where it lies."""
    tensor = file.subgraphs[one.subgraph].tensors[one.tensor]
    return {
        "name": one.name,
        "layer": one.name.rpartition("/")[0] if one.attribute else None,
        "attribute": one.attribute or None,
        "axes": one.axes or None,
        "tensor": {
            "subgraph": one.subgraph,
            "index": one.tensor,
            "name": tensor.name,
            "dtype": tensor.dtype,
            "sparse": tensor.sparsity is not None,
            "quantized": tensor.quantization is not None,
        },
    }


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
