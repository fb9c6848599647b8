"""Files that hold together, as data and as programs, and crash an interpreter."""

from __future__ import annotations

import dataclasses

import numpy as np

from checkpoints import manifest as manifests
from tests import checkpoint_data, tflite_bytes

_SPARSE_TO_DENSE = 68
# Far behind the four numbers of the output; 2.14 writes there.
_PLACE = 10**8


def crashing(
    kind: str | None = None, constants: bool = False, classes: int = 2
) -> bytes:
    """A .tflite of which tflite-runtime 2.14 dies, in its first subgraph.

    ai-edge-litert 2.3 refuses it when it is invoked.

    Args:
      kind: Of the manifest that is embedded; None embeds none.
      constants: Whether it claims one weight, as an inference file of ours does.
      classes: How many the manifest names.
    """
    buffers = [
        b"",
        np.array([_PLACE], "<i4").tobytes(),
        np.array([4], "<i4").tobytes(),
        np.array([1], "<f4").tobytes(),
        np.array([0], "<f4").tobytes(),
    ]
    metadata = []
    if kind is not None:
        variables = tuple(
            dataclasses.replace(variable, buffer=len(buffers) + place)
            for place, variable in enumerate(checkpoint_data.MANIFEST.variables)
        )
        tensors = checkpoint_data.tensors()
        buffers += [tensors[variable.name].tobytes() for variable in variables]
        described = dataclasses.replace(
            checkpoint_data.MANIFEST,
            kind=kind,
            variables=variables,
            classes=tuple(f"class_{k}" for k in range(classes)),
        )
        if constants:
            first = variables[0]
            one = manifests.ConstantSpec(first.name, first.buffer, first.shape, (0, 1))
            described = dataclasses.replace(described, constants=(one,))
        metadata.append((manifests.METADATA_NAME, len(buffers)))
        buffers.append(manifests.to_json(described).encode())
    return tflite_bytes.model_bytes(
        tensors=(
            ((4,), "FLOAT32", 0),
            ((1,), "INT32", 1),
            ((1,), "INT32", 2),
            ((1,), "FLOAT32", 3),
            ((), "FLOAT32", 4),
            ((4,), "FLOAT32", 0),
        ),
        buffers=buffers,
        operators=((0, (1, 2, 3, 4), (5,)),),
        codes=((_SPARSE_TO_DENSE, None),),
        metadata=metadata,
    )
