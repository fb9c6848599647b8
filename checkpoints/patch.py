"""Writes weights into a .tflite, in place and without tensorflow.

A variable's initial value lies in the file as a constant buffer: the initialisation
subgraph, which every signature calls first, holds ASSIGN_VARIABLE(VAR_HANDLE(name),
constant) pairs. Overwriting such a buffer with as many bytes makes a new file that
starts from other weights. Nothing moves, so no offset in the file changes.

Converters let equal constants share one buffer, and variables that start equal one
constant. Writing there would change both, so it is refused: a patched buffer has one
tensor, and that initialises one variable at most.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Container, Iterable, Mapping

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import folds, strict_json, tflite_file


class PatchError(ValueError):
    """Weights that cannot be written into a file."""


def patch(
    file: tflite_file.TfliteFile | bytes, values: Mapping[int, np.ndarray]
) -> bytes:
    """Overwrites constant buffers.

    Args:
      file: The .tflite; parsed already, where it will be patched more than once.
      values: Buffer -> its new content, of the shape and dtype of the tensor there;
        finite.

    Returns:
      The new file. It has the old one's length, and differs from it in these buffers.

    Raises:
      PatchError: Naming every buffer that is unknown, empty, shared, or of another
        shape or dtype, and every value that is not finite; nothing is written then.
      TfliteError: If the bytes are no .tflite.
    """
    file = _parsed(file)
    users, initial = _users(file, values), variable_buffers(file)
    return b"".join(_pieces(file, values, users, initial))


def patch_trainable(
    file: tflite_file.TfliteFile | bytes,
    manifest: manifests.Manifest,
    tensors: Mapping[str, np.ndarray],
) -> bytes:
    """As `trainable_pieces`, in one."""
    return b"".join(trainable_pieces(file, manifest, tensors))


def trainable_pieces(
    file: tflite_file.TfliteFile | bytes,
    manifest: manifests.Manifest,
    tensors: Mapping[str, np.ndarray],
) -> list[memoryview]:
    """Writes a checkpoint into a trainable file: weights, slots and step.

    Args:
      file: The trainable file.
      manifest: Its manifest, which says where each variable lies.
      tensors: Name -> array, of exactly the manifest's variables.

    Returns:
      The new file, in pieces that are parts of the old one and of the tensors: an
      interpreter that opens it starts where the checkpoint was made.

    Raises:
      PatchError: As `patch`; if tensors are missing or surplus; or if the manifest
        names a buffer that initialises no variable.
      TfliteError: If the bytes are no .tflite.
    """
    file = _parsed(file)
    _same_names(tensors, [v.name for v in manifest.variables], "variables")
    initial = variable_buffers(file)
    there = set(initial.values())
    stray = [v.name for v in manifest.variables if v.buffer not in there]
    if stray:
        raise PatchError(
            "The manifest must name the buffers that initialise variables. Received: "
            f"others for {[name[:80] for name in stray[:20]]}."
        )
    values = _by_buffer((v.buffer, tensors[v.name]) for v in manifest.variables)
    users = _users(file, values)
    for buffer, value in values.items():
        # The step, a scalar, is stored with an axis, which files of before have not.
        if value.shape == () and [user.shape for user in users[buffer]] == [(1,)]:
            values[buffer] = value.reshape(1)
    return _pieces(file, values, users, initial)


def patch_inference(
    template: tflite_file.TfliteFile | bytes,
    manifest: manifests.Manifest,
    tensors: Mapping[str, np.ndarray],
) -> bytes:
    """As `inference_pieces`, in one."""
    return b"".join(inference_pieces(template, manifest, tensors))


def inference_pieces(
    template: tflite_file.TfliteFile | bytes,
    manifest: manifests.Manifest,
    tensors: Mapping[str, np.ndarray],
) -> list[memoryview]:
    """Writes a checkpoint's weights into an inference file.

    Args:
      template: The inference file.
      manifest: Its manifest, whose constants say where each weight lies and how.
      tensors: Name -> array, weights alone; a weight of the file that is not among
        them, one that was frozen, stays as it is.

    Returns:
      The new file, in pieces, as `trainable_pieces`.

    Raises:
      PatchError: As `patch`; or if the file has no such weight, or it does not fit the
        permutation.
      TfliteError: If the bytes are no .tflite.
    """
    file = _parsed(template)
    known = {constant.variable: constant for constant in manifest.constants}
    found, faults = _constants(file, manifest, tensors)
    values = []
    for name in sorted(found):
        array, constant = found[name], known[name]
        axes = constant.permutation
        if array.ndim != len(axes) or array.size != math.prod(constant.shape):
            faults.append(
                f"{name[:80]!r} of shape {array.shape} for {constant.shape} by "
                f"{strict_json.shown(axes)}"
            )
        else:
            turned = array.transpose(axes).reshape(constant.shape)
            values.append((constant.buffer, turned))
    if faults:
        raise PatchError(
            "Weights must fit the inference file. Received: "
            f"{strict_json.summary(faults)}."
        )
    by_buffer = _by_buffer(values)
    return _pieces(file, by_buffer, _users(file, by_buffer), variable_buffers(file))


def weights_of(manifest: manifests.Manifest) -> set[str]:
    """The weights that an inference file is made of.

    Raises:
      PatchError: If a fold is malformed.
    """
    found = {constant.variable for constant in manifest.constants} - set(manifest.folds)
    try:
        for expression in manifest.folds.values():
            found |= folds.weights(expression).keys()
    except folds.FoldError as error:
        raise PatchError(str(error)) from error
    return found


def _constants(
    template: tflite_file.TfliteFile,
    manifest: manifests.Manifest,
    tensors: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The constants that the weights change, and what is wrong with them."""
    there = {constant.variable for constant in manifest.constants}
    known = there - set(manifest.folds)
    found = {n: np.asarray(t) for n, t in tensors.items() if n in known}
    strays = sorted(set(manifest.folds) - there)
    faults = [f"a fold of {name[:80]!r}, no constant of the file" for name in strays]
    for name in sorted(there & set(manifest.folds)):
        expression = manifest.folds[name]
        try:
            shapes = folds.weights(expression)
            known |= shapes.keys()
            if shapes.keys() & tensors.keys():
                frozen = _frozen(template, shapes.keys() - tensors.keys(), shapes)
                found[name] = folds.evaluate(expression, {**frozen, **tensors})
        except folds.FoldError as error:
            faults.append(f"{name[:80]!r}: {error}")
    strangers = [name[:80] for name in sorted(set(tensors) - known)]
    return found, [*(f"{name!r}, no weight of the file" for name in strangers), *faults]


def _frozen(
    template: tflite_file.TfliteFile,
    names: Iterable[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, np.ndarray]:
    """Weights that do not train, as the file keeps them beside its constants."""
    found = {}
    for name in names:
        buffer = template.metadata.get(folds.METADATA_PREFIX + name)
        size = template.buffers[buffer].size if buffer is not None else -1
        if buffer is not None and size == 4 * math.prod(shapes[name]):
            stored = np.frombuffer(template.buffer_bytes(buffer), "<f4")
            found[name] = stored.reshape(shapes[name])
    return found


def variable_buffers(file: tflite_file.TfliteFile) -> dict[str, int]:
    """Finds the buffer of every variable's initial value.

    Args:
      file: A file with variables.

    Returns:
      The variable's `shared_name` in the file -> buffer; a `container`, if there is
      one, goes before it with a slash. Several may have one buffer, as long as the
      converter's sharing is not undone.

    Raises:
      PatchError: If a variable is initialised by something else than a constant, or
        twice from different ones.
    """
    found: dict[str, int] = {}
    faults: list[str] = []
    for index in _initialisations(file):
        graph = file.subgraphs[index]
        makers = {out: op for op in graph.operators for out in op.outputs}
        for operator in graph.operators:
            if operator.name != "ASSIGN_VARIABLE":
                continue
            if len(faults) >= strict_json.MOST_FAULTS:
                break
            target, value = (*operator.inputs, -1, -1)[:2]
            handle = makers.get(target)
            where = f"operator {operator.index} of subgraph {index}"
            if (
                handle is None
                or handle.name != "VAR_HANDLE"
                or value < 0
                or value in makers
            ):
                faults.append(f"no VAR_HANDLE with a constant in {where}")
                continue
            options = handle.options
            parts = (options.get("container"), options.get("shared_name", ""))
            name = "/".join(part for part in parts if part)
            buffer = graph.tensors[value].buffer
            if not file.buffers[buffer].size:
                faults.append(f"no constant for {name[:80]!r} in {where}")
            elif found.setdefault(name, buffer) != buffer:
                faults.append(f"{name[:80]!r} a second time in {where}")
    if faults:
        raise PatchError(
            "Every variable must be initialised once, from a constant. Received: "
            f"{strict_json.summary(faults)}."
        )
    return found


def _initialisations(file: tflite_file.TfliteFile) -> list[int]:
    """Returns the subgraphs that CALL_ONCE operators run."""
    calls = (
        operator.options.get("init_subgraph_index")
        for graph in file.subgraphs
        for operator in graph.operators
        if operator.name == "CALL_ONCE"
    )
    return sorted({index for index in calls if index is not None})


def _parsed(file: tflite_file.TfliteFile | bytes) -> tflite_file.TfliteFile:
    return file if isinstance(file, tflite_file.TfliteFile) else tflite_file.parse(file)


def _pieces(
    file: tflite_file.TfliteFile,
    values: Mapping[int, np.ndarray],
    users: Mapping[int, list[tflite_file.Tensor]],
    initial: Mapping[str, int],
) -> list[memoryview]:
    """The new file of `patch`, uncopied.

    Args:
      file: As of `patch`.
      values: As of `patch`.
      users: As `_users` finds them.
      initial: As `variable_buffers` finds them.
    """
    variables = collections.defaultdict(list)
    for name, buffer in initial.items():
        variables[buffer].append(name)
    faults: list[str] = []
    described = set(file.metadata.values())
    for buffer in sorted(values):
        if buffer in described:
            faults.append(f"buffer {buffer}, which is metadata")
            continue
        faults += _faults(file, users, buffer, values[buffer])
        if len(variables[buffer]) > 1:
            sharing = [name[:80] for name in variables[buffer][:8]]
            faults.append(f"buffer {buffer}, shared by variables {sharing}")
    faults += _overlaps(file, values)
    if faults:
        raise PatchError(
            "A patched buffer must be the constant of one tensor and of at most one "
            "variable, its new value finite, of that tensor's shape and dtype. "
            f"Received: {strict_json.summary(faults)}."
        )
    source = memoryview(file.data)
    pieces = []
    position = 0
    for buffer in sorted(values, key=lambda buffer: file.buffers[buffer].offset):
        span = file.buffers[buffer]
        array = values[buffer]
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        pieces.append(source[position : span.offset])
        pieces.append(array.reshape(-1).view(np.uint8).data)
        position = span.offset + span.size
    return [*pieces, source[position:]]


def _users(
    file: tflite_file.TfliteFile, wanted: Container[int]
) -> dict[int, list[tflite_file.Tensor]]:
    """The tensors of each buffer that is wanted."""
    users = collections.defaultdict(list)
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            if tensor.buffer in wanted:
                users[tensor.buffer].append(tensor)
    return users


def _faults(
    file: tflite_file.TfliteFile,
    users: Mapping[int, list[tflite_file.Tensor]],
    buffer: int,
    value: np.ndarray,
) -> list[str]:
    if not 0 <= buffer < len(file.buffers) or not file.buffers[buffer].size:
        return [f"buffer {buffer}, which is unknown or empty"]
    tensors = users.get(buffer, [])
    if len(tensors) != 1:
        names = [tensor.name[:80] for tensor in tensors[:8]]
        return [f"buffer {buffer} with the tensors {names}"]
    (tensor,) = tensors
    dtype = tflite_file.NUMPY_DTYPES.get(tensor.dtype)
    faults = []
    if (
        dtype is None
        or tensor.sparsity is not None
        or value.dtype.newbyteorder("<") != np.dtype(dtype)
        or value.shape != tensor.shape
        or value.nbytes != file.buffers[buffer].size
    ):
        faults.append(
            f"{value.dtype} {value.shape} of {value.nbytes} bytes for buffer {buffer}, "
            f"{tensor.dtype} {tensor.shape} of {file.buffers[buffer].size} bytes"
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        faults.append(f"numbers that are not finite for buffer {buffer}")
    return faults


def _overlaps(file: tflite_file.TfliteFile, patched: Iterable[int]) -> list[str]:
    """Returns the patched buffers whose bytes another buffer has too."""
    wanted, faults, reach, last = set(patched), [], 0, 0
    spans = sorted((b.offset, b.size, i) for i, b in enumerate(file.buffers) if b.size)
    for offset, size, index in spans:
        if offset < reach and wanted & {index, last}:
            faults.append(f"buffers {last} and {index}, which overlap")
        if offset + size > reach:
            reach, last = offset + size, index
    return faults


def _by_buffer(pairs: Iterable[tuple[int, np.ndarray]]) -> dict[int, np.ndarray]:
    values: dict[int, np.ndarray] = {}
    for buffer, array in pairs:
        if buffer in values:
            raise PatchError(
                "Every variable must have a buffer of its own. Received: buffer "
                f"{buffer} for two."
            )
        values[buffer] = np.asarray(array)
    return values


def _same_names(given: Iterable[str], wanted: Iterable[str], what: str) -> None:
    missing = sorted(set(wanted) - set(given))
    surplus = sorted(set(given) - set(wanted))
    if missing or surplus:
        raise PatchError(
            f"The tensors must be the manifest's {what}. Received: missing "
            f"{[name[:80] for name in missing[:20]]}, surplus "
            f"{[name[:80] for name in surplus[:20]]}."
        )
