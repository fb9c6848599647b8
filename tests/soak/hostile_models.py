"""Campaigns that give damaged models to whatever reads them: .tflite and manifests."""

from __future__ import annotations

import functools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping

from checkpoints import manifest as manifests
from checkpoints import constants, patch, soundness, tflite_file, weights
from ondevice import extraction
from ondevice.device import checks
from ondevice.rebuild import naming, porting, recognition
from tests import checkpoint_data, shared_data, tflite_bytes, tiny
from tests.soak import json_mutations, limits, mutations

# Inputs of one case.
INPUTS = 50


def tflite(seed: int) -> Mapping[str, int]:
    """Damaged .tflite, read by the parser and by all that walks what it returns."""
    names = ("small", "sparse", "strings", "trainable", "small", "vendor")
    draw = random.Random(f"tflite {seed}")
    # Each in turn, so that few seeds have them all; the large ones are read no further
    # by most: recognition compares them with every known network.
    data, there = _model(names[seed % len(names)])
    read = functools.partial(read_model, whole=len(data) < 2**14 or seed % 5 == 0)
    return _count(_models(draw, data, there), read, _model_allowance)


def decoding(seed: int) -> Mapping[str, int]:
    """Small files of sparse, integer and string constants, read and decoded."""
    draw = random.Random(f"decoding {seed}")
    data, there = _model(draw.choice(("sparse", "blocks", "integers", "strings")))
    return _count(_models(draw, data, there), _decode, _decoding_allowance)


def manifest(seed: int) -> Mapping[str, int]:
    """Damaged manifests."""
    draw = random.Random(f"manifest {seed}")
    document = draw.choice(_manifests())
    inputs = (json_mutations.changed(draw, document) for _ in range(INPUTS))
    return _count(inputs, manifests.from_json, lambda data: limits.GROWTH * len(data))


def read_model(data: bytes, whole: bool = True) -> None:
    """Reads a .tflite as `inspect`, `weights`, `build` and `Session` begin to.

    Args:
      data: The file.
      whole: Whether to try what it is, and to take its weights out, too.

    Raises:
      TfliteError: If it is refused; what only a part refuses is refused by it alone.
    """
    file = tflite_file.parse(data)
    parts: tuple[Callable[[], object], ...] = (
        lambda: soundness.require(file),
        lambda: _described(file),
        lambda: patch.variable_buffers(file),
        *((lambda: _ported(file), lambda: _extracted(file)) if whole else ()),
    )
    for part in parts:
        try:
            part()
        except ValueError as error:
            if not limits.is_own(error):
                raise


def _described(file: tflite_file.TfliteFile) -> None:
    found = manifests.of_file(file)
    if found is not None:
        checks.disagreements(file, found)
        weights.of_trainable(file, found)


def _ported(file: tflite_file.TfliteFile) -> None:
    porting.port(file, recognition.recognise(file))


def _extracted(file: tflite_file.TfliteFile) -> None:
    # A thousand names of one constant are refused past 64 times the file, see there.
    named = naming.name_all(file)[1]
    size = sum(4 * math.prod(_shape(file, n)) for n in named)
    if size < limits.GROWTH * len(file.data):
        for layout in naming.LAYOUTS:
            extraction.extract(file, named, layout)


def _shape(file: tflite_file.TfliteFile, one: naming.Constant) -> tuple[int, ...]:
    return file.subgraphs[one.subgraph].tensors[one.tensor].shape


def _decode(data: bytes) -> None:
    file = tflite_file.parse(data)
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            for read in (file.constant, functools.partial(constants.decoded, file)):
                try:
                    read(graph.index, tensor.index)
                except tflite_file.TfliteError:
                    pass


def _model_allowance(data: bytes) -> int:
    # The tables, the manifest and the arrays of the extraction, each within its own.
    return 3 * limits.GROWTH * len(data)


def _decoding_allowance(data: bytes) -> int:
    # A sparse constant may have so many numbers for a stored byte, see there; int64 of
    # the places of each are in the file's own proportion.
    from checkpoints import sparsity

    return (limits.GROWTH + 2 * 4 * sparsity.MAX_EXPANSION) * len(data)


def _models(
    draw: random.Random, data: bytes, there: list[mutations.Place]
) -> Iterable[bytes]:
    for _ in range(INPUTS):
        if draw.random() < 0.2:
            yield mutations.damaged(draw, data)
        else:
            yield mutations.misled(draw, data, there)


def _count(
    inputs: Iterable[bytes],
    read: Callable[[bytes], object],
    allowed: Callable[[bytes], int],
) -> Mapping[str, int]:
    """Gives each input to a reader; how many there were, and how many it took."""
    taken = total = 0
    for total, data in enumerate(inputs, 1):
        allowance = allowed(data) + limits.FREE
        taken += limits.held(functools.partial(read, data), allowance)
    return {"inputs": total, "taken": taken}


@functools.cache
def _model(name: str) -> tuple[bytes, list[mutations.Place]]:
    """A whole .tflite, and where its parts lie."""
    write = tflite_bytes.model_bytes
    graph = {
        "operators": ((0, (0,), (0,)),) * 3,
        "codes": ((142, None),),
        "signature": True,
    }
    if name == "trainable":
        data = tiny.trainable()
    elif name == "vendor":
        path = shared_data.SHARED / "models" / "face_detection_short_range.tflite"
        if not path.exists():
            return _model("sparse")
        data = path.read_bytes()
    elif name == "small":
        data = write(tensors=tflite_bytes.PLAIN, **graph)
    else:
        data = write(**_ENCODED[name], **graph)
    return data, mutations.places(data)


_BLOCKED = ((0, 1, 2), (1,), (2, ([0, 1, 3], [1, 0, 1], "int32"), 2))
_STRINGS = b"\2\0\0\0\x10\0\0\0\x12\0\0\0\x14\0\0\0abcd"
_ENCODED: dict[str, dict] = {
    "sparse": {"tensors": tflite_bytes.SPARSE},
    "blocks": {"tensors": (((2, 4), "FLOAT32", 1, _BLOCKED),)},
    "strings": {
        "tensors": (((2,), "STRING", 1),),
        "buffers": (b"", _STRINGS),
    },
    "integers": {
        "tensors": (((3, 4), "INT8", 1), ((5, 5), "INT4", 2), ((3,), "FLOAT16", 3)),
        "buffers": (b"", bytes(range(12)), bytes(13), b"\0\x3c\0\x7c\1\0"),
    },
}


@functools.cache
def _manifests() -> tuple[dict, ...]:
    embedded = tflite_file.parse(tiny.trainable())
    found = manifests.of_file(embedded)
    assert found is not None
    frozen = tiny.inference()[1]
    known = (found, frozen, checkpoint_data.MANIFEST)
    return tuple(json.loads(manifests.to_json(one)) for one in known)
