"""Float constants of a .tflite as arrays, and files of them.

The command is ondevice/weights.py.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from safetensors import numpy as safetensors

from checkpoints import atomic, constants, tflite_file
from ondevice.device import interpreted
from ondevice.rebuild import naming

PARSER, INTERPRETER = "parser", "interpreter"

# Bytes that all arrays may have: for a byte of the file, and beside that. A constant
# may be named by many tensors and read by many layers.
_GROWTH, _FREE = 64, 64 * 2**20

# What every member of an .npz has, so that equal arrays make equal files.
_MOMENT = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Constants of a file.

    Attributes:
      arrays: Name -> float32 array in the layout that was asked for.
      refused: Name -> why it cannot be decoded.
    """

    arrays: Mapping[str, np.ndarray]
    refused: Mapping[str, str]


def extract(
    file: tflite_file.TfliteFile,
    named: Sequence[naming.Constant],
    layout: str = naming.TFLITE,
    interpreter: Mapping[int, np.ndarray] | None = None,
) -> Extraction:
    """Decodes constants.

    Args:
      file: A parsed .tflite.
      named: Its constants.
      layout: One of `naming.LAYOUTS`.
      interpreter: Tensor index -> array as an interpreter has it, for every `read` of
        `named`; None decodes the file's own bytes.

    Raises:
      TfliteError: If the arrays would take far more memory than the file; none is
        allocated then.
    """
    allowed = _GROWTH * len(file.data) + _FREE
    asked = sum(4 * math.prod(_tensor(file, one).shape) for one in named)
    if asked > allowed:
        raise tflite_file.TfliteError(
            f"The constants of a file of {len(file.data)} bytes must not take more "
            f"than {allowed} as float32. Received: {asked} bytes in {len(named)} "
            "constants."
        )
    arrays, refused = {}, {}
    for one in named:
        try:
            if interpreter is None:
                value = constants.decoded(file, one.subgraph, one.tensor)
            else:
                value = interpreter[one.read]
        except tflite_file.TfliteError as error:
            refused[one.name] = str(error)
            continue
        arrays[one.name] = naming.arranged(value, one, layout)
    return Extraction(arrays, refused)


def by_interpreter(
    path: str,
    named: Sequence[naming.Constant],
    runtime: str,
    timeout: float,
) -> dict[int, np.ndarray]:
    """Tensor index -> array of every constant, as `interpreted.read`.

    Raises:
      TfliteError: If one is not in subgraph 0, which alone an interpreter gives.
      RuntimeChoiceError, RuntimeFailure: As `interpreted.read`.
    """
    beyond = [one.name for one in named if one.subgraph]
    if beyond:
        raise tflite_file.TfliteError(
            "An interpreter gives the tensors of subgraph 0 alone; --via=parser reads "
            f"all. Received: {len(beyond)} constants elsewhere, as {beyond[0]!r}."
        )
    indices = sorted({one.read for one in named})
    return interpreted.read(path, indices, runtime, timeout)


def save(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, str],
) -> int:
    """Writes arrays, whole or not at all.

    Args:
      path: Ends in .safetensors or .npz.
      arrays: Name -> array.
      about: Goes into the head of a .safetensors, as JSON.

    Returns:
      The file's bytes.

    Raises:
      OSError: If it cannot be written.
    """
    if os.fspath(path).endswith(".npz"):
        content = _npz(arrays)
    else:
        # One entry, since several come in any order.
        content = safetensors.save(dict(arrays), {"about": json.dumps(about)})
    atomic.write(path, [content])
    return len(content)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Not numpy.savez, which takes the names as its own arguments."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _MOMENT)
            archive.writestr(info, member.getvalue())
    return stream.getvalue()


def _tensor(
    file: tflite_file.TfliteFile, one: naming.Constant
) -> tflite_file.Tensor:
    return file.subgraphs[one.subgraph].tensors[one.tensor]
