"""tf.Module -> .tflite.

    module = trainable.of_keras(model, loss="softmax_cross_entropy")
    convert.write(module, "out/overview")

What the converter leaves to be done in the file is done by `rewrite`; `resident` and
`waiting` say what is to stay in memory, and what is not to lie there early.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import atomic, folds, patch, tflite_file
from checkpoints import manifest as manifests
from ondevice import converter, keras_files, quantise, resident, rewrite, waiting
from ondevice import precision as precisions
from ondevice.device import trial
from signatures import contract, folding, keras_model
from signatures.gradients import graph

_PACKAGES = ("tensorflow", "keras", "numpy")


ConversionError = rewrite.ConversionError


class UnfoundError(ConversionError):
    """A weight that does not lie in the frozen file as it is."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """A .tflite that lacks its manifest, which tells of it.

    Attributes:
      file: The file, parsed.
      model: Its content, as it is packed.
    """

    file: tflite_file.TfliteFile
    model: schema.ModelT

    def with_manifest(self, manifest: manifests.Manifest) -> bytes:
        """Returns the file, the manifest embedded; the content has it from then on."""
        _add_manifest(self.model, manifest)
        return rewrite.pack(self.model)


def trainable(
    module: tf.Module,
    functions: Mapping[str, Callable],
    signatures: Sequence[manifests.SignatureSpec],
    ops: str = "builtin",
) -> Converted:
    """Converts a module with signatures.

    Args:
      module: Holds every variable.
      functions: Key -> concrete function; inputs `in_0`, ..., outputs `out_0`, ...
      signatures: The contract that names them.
      ops: `builtin` or `select`.

    Returns:
      The .tflite, its signatures named as the contract says.

    Raises:
      ConversionError: If the converter refuses the graph.
    """
    with tempfile.TemporaryDirectory() as directory, converter.quietly():
        tf.saved_model.save(
            module,
            directory,
            signatures=dict(functions),
            # Without it saving traces the gradients of the gradients, and fails.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converted = converter.saved_model(
            directory, [s.key for s in signatures], ops
        )
    model = schema.ModelT.InitFromPackedBuf(converted, 0)
    rewrite.name_signatures(model, signatures)
    rewrite.share_constants(model)
    rewrite.unshare_variables(model)
    rewrite.drop_buffers(model)
    rewrite.callees_first(model)
    resident.keep(model)
    if ops == "builtin":
        waiting.add(model)
    return Converted(tflite_file.parse(rewrite.pack(model)), model)


def inference(
    function: Callable,
    inputs: Sequence[tf.TensorSpec],
    weights: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    precision: precisions.Precision = precisions.FLOAT32,
    patchable: bool = True,
) -> tuple[bytes, tuple[manifests.ConstantSpec, ...]]:
    """Converts a pure function of weights and inputs into a frozen file.

    With float32 weights their places in the file are found by converting with weights
    that no two share, so that each constant tells which variable it is and how its axes
    lie.

    Args:
      function: From (weights by name, *inputs) to a tuple of outputs.
      inputs: Named; batch included, None is a side that may change.
      weights: Name -> float32 array; where they stay so the shapes count alone.
      outputs: A name for each.
      precision: Of weights and activations.
      patchable: Whether to look for them.

    Returns:
      In float32, and patchable, the .tflite with probe weights, and where each lies in
      it; otherwise the .tflite with the weights, and nothing.

    Raises:
      UnfoundError: If a weight is not found exactly once.
      ConversionError: If the converter refuses.
    """
    random = np.random.default_rng(0)
    stored = weights
    patchable = patchable and precision.weights == "float32"
    if patchable:
        stored = {
            name: random.standard_normal(value.shape, np.float32)
            for name, value in weights.items()
        }

    def call(*images):
        constants = {name: tf.constant(value) for name, value in stored.items()}
        found = function(constants, *images)
        return {f"out_{i}": output for i, output in enumerate(found)}

    concrete = tf.function(
        call,
        input_signature=[
            tf.TensorSpec(s.shape, s.dtype, f"in_{i}") for i, s in enumerate(inputs)
        ],
        autograph=False,
    ).get_concrete_function()
    made = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    with converter.quietly():
        model = schema.ModelT.InitFromPackedBuf(_converted(made, precision), 0)
    rewrite.name_tensors(model, [s.name for s in inputs], outputs)
    if precision.weights == "int8" and precision.activations != "dynamic":
        quantise.store_weights(model)
    data = rewrite.pack(model)
    return data, _find_constants(tflite_file.parse(data), stored) if patchable else ()


def versions() -> dict[str, str]:
    """Of the packages that make a file."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def embed(data: bytes, manifest: manifests.Manifest) -> bytes:
    """Puts the manifest into the file as metadata."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    _add_manifest(model, manifest)
    return rewrite.pack(model)


def _add_manifest(model: schema.ModelT, manifest: manifests.Manifest) -> None:
    content = manifests.to_json(manifest).encode()
    rewrite.add_metadata(model, manifests.METADATA_NAME, content)


def with_buffers(
    file: tflite_file.TfliteFile, specs: Sequence[manifests.VariableSpec]
) -> tuple[manifests.VariableSpec, ...]:
    """The variables with the buffers that hold their initial values.

    Raises:
      ConversionError: If the file's variables are not the ones given, or two of them
        share a buffer: a patch of one would change the other.
    """
    buffers = patch.variable_buffers(file)
    names = {spec.name for spec in specs}
    taken = list(buffers.values())
    shared = sorted(name for name, b in buffers.items() if taken.count(b) > 1)
    if shared:
        raise ConversionError(
            f"Every variable must have a buffer of its own. Received: {shared} share."
        )
    if names != buffers.keys():
        raise ConversionError(
            "The file must initialise every variable. "
            f"Received: left out {sorted(names - buffers.keys())}, "
            f"unknown {sorted(buffers.keys() - names)}."
        )
    return tuple(dataclasses.replace(s, buffer=buffers[s.name]) for s in specs)


def _converted(
    made: tf.lite.TFLiteConverter, precision: precisions.Precision
) -> bytes:
    """Converts a frozen graph; int8 weights beside float32 activations come later."""
    # Under Optimize.DEFAULT float16 is the converter's float16 quantisation, and no
    # type its dynamic range quantisation.
    if precision.weights == "float16":
        made.optimizations = [tf.lite.Optimize.DEFAULT]
        made.target_spec.supported_types = [tf.float16]
    elif precision.activations != "float32":
        made.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision.activations != "int8":
        return converter.run(made, "builtin")
    return converter.run(
        made,
        "builtin",
        lambda: quantise.integer_only(made, precision.images),
    )


@converter.uncollected()
def write(
    module: keras_model.KerasTrainable, directory: str | os.PathLike[str]
) -> manifests.Manifest:
    """Writes a Keras model's files: model.tflite, inference.tflite and manifest.json.

    Args:
      module: From `trainable.of_keras`.
      directory: Made where it is not there.

    Returns:
      The manifest of model.tflite.

    Raises:
      GradientError: If a layer has no gradient in builtin operators; names it.
      ConversionError: If the converter refuses.
      OSError: If a file cannot be written.
    """
    signatures = module.signature_specs
    made = trainable(module, module.functions(signatures), signatures, module.ops)
    manifest = dataclasses.replace(
        keras_files.described(module, versions()),
        variables=with_buffers(made.file, module.specs),
        census=made.file.census(),
    )
    frozen = _inference_of(module, module.parameters(), precisions.FLOAT32)
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    model = made.with_manifest(manifest)
    contents = {
        "model.tflite": model,
        "inference.tflite": frozen,
        "manifest.json": manifests.to_json(manifest).encode(),
    }
    atomic.write_together({folder / name: data for name, data in contents.items()})
    trial.record(model, frozen)
    return manifest


def write_inference(
    module: keras_model.KerasTrainable,
    path: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    precision: precisions.Precision = precisions.FLOAT32,
) -> None:
    """Writes a Keras model's inference file anew, BatchNorm folded in.

    Args:
      module: From `trainable.of_keras`.
      path: Of the file.
      checkpoint: What an interpreter learnt; None for the module's own weights.
      precision: Of weights and activations.

    Raises:
      CheckpointError: If the checkpoint is damaged, or another model's.
      ConversionError: If the converter refuses.
      OSError: If a file cannot be read or written.
    """
    weights = keras_files.learnt(module, checkpoint)
    frozen = _inference_of(module, weights, precision)
    atomic.write(path, [frozen])
    trial.record(frozen)


def _inference_of(
    module: keras_model.KerasTrainable,
    weights: Mapping[str, np.ndarray],
    precision: precisions.Precision,
) -> bytes:
    """The inference file of a Keras model, its manifest embedded.

    Its constants are weights, or expressions of them that the manifest holds, so that a
    patch fills it with what an interpreter learnt. Where a constant cannot be told so
    the file is made of the weights as they are, and must be made anew for others.
    """
    plan = module.plan
    specs = [
        tf.TensorSpec((plan.infer_batch, *s.shape), tf.as_dtype(s.dtype), s.name)
        for s in plan.inputs
    ]
    names = [spec.name for spec in plan.outputs]
    floats = {n: w for n, w in weights.items() if w.dtype == np.float32}
    others = {n: w for n, w in weights.items() if n not in floats}

    def function(values, *images):
        constants = {name: tf.constant(value) for name, value in others.items()}
        return module.inference({**constants, **values}, *images)

    expressions: dict[str, folding.Expression] = {}
    try:
        folded = folding.Folded(function, floats, specs)
        values = folded.values(floats)
        data, constants = inference(folded, specs, values, names, precision)
        expressions = folded.expressions if constants else {}
    except (folding.FoldingError, UnfoundError) as error:
        logging.warning("The inference file can be made anew, not patched. %s", error)
        data, constants = inference(
            lambda values, *images: graph.forward(
                lambda _, *given: function(values, *given), [], *images
            ),
            specs,
            floats,
            names,
            precision,
            patchable=False,
        )
    manifest = dataclasses.replace(
        keras_files.described(module, versions()),
        kind="inference",
        signatures=tuple(s for s in module.signature_specs if s.key == contract.INFER),
        constants=constants,
        census=tflite_file.parse(data).census(),
        folds={n: e for n, e in expressions.items() if e[0] != folds.WEIGHT},
    )
    data = keras_files.of_inference(data, module, manifest, floats)
    if constants:  # Probes lie where the weights belong.
        used = {name for e in expressions.values() for name in folds.weights(e)}
        data = patch.patch_inference(data, manifest, {n: floats[n] for n in used})
    return data


def _find_constants(
    file: tflite_file.TfliteFile, probes: Mapping[str, np.ndarray]
) -> tuple[manifests.ConstantSpec, ...]:
    """Which constant is which weight, by value, and how its axes lie."""
    by_content: dict[bytes, tuple[tflite_file.Tensor, np.ndarray]] = {}
    for tensor in file.subgraphs[0].tensors:
        value = file.constant(0, tensor.index)
        if value is not None and value.dtype == np.float32:
            by_content[np.sort(value, axis=None).tobytes()] = (tensor, value)
    found, faults = [], []
    for name, probe in probes.items():
        match = by_content.get(np.sort(probe, axis=None).tobytes())
        if match is None:
            faults.append(name)
            continue
        tensor, value = match
        for axes in itertools.permutations(range(probe.ndim)):
            if np.array_equal(probe.transpose(axes).ravel(), value.ravel()):
                shape = tuple(value.shape)
                found.append(manifests.ConstantSpec(name, tensor.buffer, shape, axes))
                break
        else:
            faults.append(name)
    if faults:
        raise UnfoundError(
            "Every weight must lie in the inference file as it is, axes apart. "
            f"Received: {faults} are not found there."
        )
    return tuple(found)
