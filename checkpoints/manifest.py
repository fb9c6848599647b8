"""The manifest: what a .tflite of ours is, as data, beside the file and inside it.

`manifest.json` lies beside the model; the same JSON is embedded in the .tflite as the
metadata entry `METADATA_NAME`, so that a lone file suffices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from checkpoints import shapes, strict_json

if TYPE_CHECKING:  # Reading a manifest needs neither numpy nor the schema.
    from checkpoints import tflite_types

METADATA_NAME = "ondevice.manifest"
FORMAT_VERSION = 1

# What a variable of a trainable file is for.
# State is what a step updates without a gradient: the moving statistics of BatchNorm.
WEIGHT, STATE, SLOT, STEP = "weight", "state", "slot", "step"
ROLES = (WEIGHT, STATE, SLOT, STEP)
PARAMETERS = (WEIGHT, STATE)  # What inference depends on.
KERAS = "keras"  # The spec of what is no detector.
KINDS = ("trainable", "inference")
OPS = ("builtin", "select")
# The runtimes that a trainable file's formulations are chosen for: it gives the same
# numbers in every one, and is fast in these.
ANY, TFLITE_RUNTIME = TARGETS = ("any", "tflite_runtime")
# Forms of a detector's class heads. The first keeps the vendor's score, and tells
# classes apart in a branch beside the network. In the second the vendor's own class
# heads are as wide as there are classes, and their logits are the answer: what a
# network has that was fine-tuned elsewhere. With one class both are the vendor's.
SCORE_AND_CLASSES, PLAIN = HEADS = ("score_and_classes", "plain")
DTYPES = ("float32", "float16", "float64", "int8", "int32", "int64", "uint8", "bool")


class ManifestError(ValueError):
    """A manifest that is missing, malformed or contradicts itself."""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A named tensor of a signature.

    Attributes:
      name: Name in the signature.
      shape: Static shape; () is a scalar.
      dtype: A numpy dtype's name, `float32` or `int32`; `string` under --ops=select.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class SignatureSpec:
    """One signature: its key, what goes in and what comes out."""

    key: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True)
class VariableSpec:
    """One variable of a trainable file.

    Attributes:
      name: `<layer>/<attribute>`, for a slot `<layer>/<attribute>/<slot>`, or `step`.
      shape: Static shape.
      dtype: A numpy dtype's name.
      role: One of `ROLES`.
      buffer: Index of the .tflite buffer that holds the initial value; its own alone.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    buffer: int = -1


@dataclasses.dataclass(frozen=True)
class ConstantSpec:
    """One weight of an inference file: the variable that it is, and how it lies there.

    Attributes:
      variable: Name of the variable in the trainable file.
      buffer: Index of the .tflite buffer that holds it; its own alone.
      shape: Shape in the inference file.
      permutation: Axes of the variable in the order in which the file stores them:
        `file = variable.transpose(permutation).reshape(shape)`.
    """

    variable: str
    buffer: int
    shape: tuple[int, ...]
    permutation: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a file of ours is.

    Attributes:
      kind: `trainable` or `inference`.
      source: {"name", "sha256"} of the vendor's file.
      spec: Name of the detector's spec, `palm_full` for one; `keras` for other models.
      classes: Class names in the order of the classificators' last axis.
      input_size: Side of the square input image in pixels.
      input_range: (low, high) that the pixels 0 and 255 map to.
      anchors: Parameters of `ondevice.detection.anchors.AnchorSpec`.
      keypoints: Keypoints of a detection.
      trainable: The `--trainable` choice.
      optimizer: {"name", "clip_norm", ...hyper-parameters}.
      losses: Weights of the loss's terms, `signatures.losses.LossWeights`.
      batch_size: Images in one training step.
      ops: `builtin` or `select`.
      signatures: In alphabetical order of their keys.
      variables: Trainable files: every variable, weights, statistics, slots, step.
      constants: Inference files: every weight, or constant made of weights.
      fingerprint: Hex SHA-256 over spec, classes, variables' names and shapes, and
        frozen constants; a checkpoint fits the files that carry the same one.
      census: Operator name -> count, over all subgraphs.
      versions: Package -> version that made the file.
      version: Version of this format.
      folds: Inference files: constants that are no weight, as expressions of weights;
        see `checkpoints.folds`. Left out of the file where there are none.
      heads: Form of the class heads, one of `HEADS`. Left out where it is the first.
      target: Runtimes that a trainable file is fast in, one of `TARGETS`. Left out
        where it is the first.
    """

    kind: str
    source: Mapping[str, str]
    spec: str
    classes: tuple[str, ...]
    input_size: int
    input_range: tuple[float, float]
    anchors: Mapping[str, Any]
    keypoints: int
    trainable: str
    optimizer: Mapping[str, Any]
    losses: Mapping[str, float]
    batch_size: int
    ops: str
    signatures: tuple[SignatureSpec, ...]
    variables: tuple[VariableSpec, ...]
    constants: tuple[ConstantSpec, ...]
    fingerprint: str
    census: Mapping[str, int]
    versions: Mapping[str, str]
    version: int = FORMAT_VERSION
    folds: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata=strict_json.OPTIONAL
    )
    heads: str = dataclasses.field(
        default=SCORE_AND_CLASSES, metadata=strict_json.OPTIONAL
    )
    target: str = dataclasses.field(default=ANY, metadata=strict_json.OPTIONAL)

    def signature(self, key: str) -> SignatureSpec:
        """Returns the signature called `key`.

        Raises:
          ManifestError: If there is none; the error lists the first of those there are.
        """
        for signature in self.signatures:
            if signature.key == key:
                return signature
        keys = strict_json.summary([repr(s.key[:80]) for s in self.signatures])
        raise ManifestError(
            f"Signature {key[:80]!r} is not in the file. Available: {keys or 'none'}."
        )


def fingerprint(
    spec: str,
    classes: tuple[str, ...],
    variables: tuple[VariableSpec, ...],
    frozen: Mapping[str, bytes],
) -> str:
    """Hex SHA-256 that tells which files one checkpoint fits.

    Args:
      spec: Name of the detector's spec.
      classes: Class names in order.
      variables: Every variable; names, shapes, dtypes and roles count, buffers do not.
      frozen: Name -> bytes of every weight that is a constant in the file.
    """
    digest = hashlib.sha256()
    described = [[v.name, list(v.shape), v.dtype, v.role] for v in variables]
    digest.update(json.dumps([spec, list(classes), sorted(described)]).encode())
    for name in sorted(frozen):
        digest.update(name.encode() + b"\0" + hashlib.sha256(frozen[name]).digest())
    return digest.hexdigest()


def to_json(manifest: Manifest) -> str:
    """Writes a manifest on one line, keys sorted: equal manifests give equal text."""
    return strict_json.dump(manifest)


def from_json(text: str | bytes | memoryview, size: int | None = None) -> Manifest:
    """Reads what `to_json` wrote.

    Args:
      text: The manifest.
      size: Bytes of the file that holds it, which bound the memory that it may take,
        see `strict_json.load`; None where it is the whole file.

    Raises:
      ManifestError: Naming every fault: unknown or missing keys, wrong types, another
        version, contradictions; or that it takes too much memory.
    """
    value, faults = strict_json.load(text, size)
    if isinstance(value, dict) and value.get("version") != FORMAT_VERSION:
        # Of another version nothing else can be told.
        faults.append(f"version {strict_json.shown(value.get('version'))}")
    elif not faults:
        manifest = strict_json.decode(Manifest, value, "manifest", faults)
        if not faults:
            faults = _contradictions(manifest)
    if faults:
        raise ManifestError(
            f"A manifest must be one JSON object of version {FORMAT_VERSION} with the "
            f"known keys, consistent in itself. Received: "
            f"{strict_json.summary(faults)}."
        )
    return manifest


def of_file(file: tflite_types.TfliteFile) -> Manifest | None:
    """Returns the manifest embedded in a .tflite, None where there is none.

    Raises:
      ManifestError: If it is malformed, or names a buffer that the file does not have.
    """
    buffer = file.metadata.get(METADATA_NAME)
    if buffer is None:
        return None
    manifest = from_json(file.buffer_bytes(buffer), len(file.data))
    holders = [v.buffer for v in manifest.variables]
    holders += [c.buffer for c in manifest.constants]
    wrong = [index for index in holders if index >= len(file.buffers)]
    if wrong:
        raise ManifestError(
            f"Buffers must be below {len(file.buffers)}, the file's number of them. "
            f"Received: {wrong[:8]}; in the embedded manifest."
        )
    return manifest


def _contradictions(manifest: Manifest) -> list[str]:
    """Returns what no type can tell."""
    faults = [
        f"{what} {strict_json.shown(found)}, none of {known}"
        for what, found, known in (
            ("kind", manifest.kind, KINDS),
            ("ops", manifest.ops, OPS),
            ("target", manifest.target, TARGETS),
            ("heads", manifest.heads, HEADS),
        )
        if found not in known
    ]
    if min(manifest.input_size, manifest.batch_size, manifest.keypoints) < 0:
        faults.append("a negative input_size, batch_size or keypoints")
    for what, names in (
        ("classes", manifest.classes),
        ("signatures", [s.key for s in manifest.signatures]),
        ("variables", [v.name for v in manifest.variables]),
        ("constants", [c.variable for c in manifest.constants]),
    ):
        if len(set(names)) != len(names):
            faults.append(f"{what} with one name twice")
    tensors = itertools.islice(_wrong_tensors(manifest), strict_json.MOST_FAULTS)
    return faults + list(tensors)


def _wrong_tensors(manifest: Manifest) -> Iterator[str]:
    """Yields what is wrong with variables, constants and inputs, one by one.

    What they are called is quoted in part, and of the wrong ones alone: a name may be
    as long as the file, and one signature's key is that of thousands of inputs.
    """
    for variable in manifest.variables:
        if variable.role not in ROLES:
            yield f"role {_of(variable.role, variable.name)}"
        if variable.dtype not in DTYPES:
            yield f"dtype {_of(variable.dtype, variable.name)}"
        if not shapes.is_possible(variable.shape):
            yield f"shape {_of(variable.shape, variable.name)}"
    for constant in manifest.constants:
        if sorted(constant.permutation) != list(range(len(constant.permutation))):
            yield f"permutation {_of(constant.permutation, constant.variable)}"
        if not shapes.is_possible(constant.shape):
            yield f"shape {_of(constant.shape, constant.variable)}"
    for signature in manifest.signatures:
        for spec in (*signature.inputs, *signature.outputs):
            if spec.dtype not in (*DTYPES, "string"):
                yield f"dtype {_of(spec.dtype, signature.key, spec.name)}"
            if not shapes.is_possible(spec.shape):
                yield f"shape {_of(spec.shape, signature.key, spec.name)}"


def _of(value: Any, *names: str) -> str:
    """A value that is wrong, and what it is of."""
    name = ".".join(name[:80] for name in names)
    return f"{strict_json.shown(value)} of {name!r}"
