"""tf.Module -> .tflite: the one place for converter options, and what follows them.

The converter leaves four things to be done, and all are done here: the contract's names
are put on the signatures' tensors; every variable gets a buffer of its own, since equal
initial values share one; buffers are aligned as the runtimes' kernels expect; and the
manifest is embedded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import flatbuffers
import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests
from checkpoints import patch, tflite_file
from ondevice import precision as precisions
from ondevice import quantise

# Alignment of constants, as `force_align: 16` of the schema's Buffer.data asks for; the
# Python packer does not look at it.
_ALIGNMENT = 16

_OPERATOR_SETS = {
    "builtin": (tf.lite.OpsSet.TFLITE_BUILTINS,),
    "select": (tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS),
}


class ConversionError(ValueError):
    """A graph that the converter refuses, or a file that is not what was asked for."""


def trainable(
    module: tf.Module,
    functions: Mapping[str, Callable],
    signatures: Sequence[manifests.SignatureSpec],
    ops: str = "builtin",
) -> bytes:
    """Converts a module with signatures.

    Args:
      module: Holds every variable.
      functions: Key -> concrete function; inputs `in_0`, ..., outputs `out_0`, ...
      signatures: The contract that names them.
      ops: `builtin` or `select`.

    Returns:
      The .tflite, without a manifest, its signatures named as the contract says.

    Raises:
      ConversionError: If the converter refuses the graph.
    """
    with tempfile.TemporaryDirectory() as directory, _quietly():
        tf.saved_model.save(
            module,
            directory,
            signatures=dict(functions),
            # Without it saving traces the gradients of the gradients, and fails.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=[s.key for s in signatures]
        )
        converter.experimental_enable_resource_variables = True
        converted = _convert(converter, ops)
    model = schema.ModelT.InitFromPackedBuf(converted, 0)
    _name_signatures(model, signatures)
    _unshare_variables(model)
    return _pack(model)


def inference(
    function: Callable,
    image_shape: tuple[int | None, ...],
    weights: Mapping[str, np.ndarray],
    names: Sequence[str],
    precision: precisions.Precision = precisions.FLOAT32,
) -> tuple[bytes, tuple[manifests.ConstantSpec, ...]]:
    """Converts a pure function of weights and one image into a frozen file.

    With float32 weights their places in the file are found by converting with weights
    that no two share, so that each constant tells which variable it is and how its axes
    lie.

    Args:
      function: From (weights by name, image) to a tuple of outputs.
      image_shape: Of the image, batch included; None is a side that may change.
      weights: Name -> float32 array; where they stay so the shapes count alone.
      names: The name of the input, then one for each output.
      precision: Of weights and activations.

    Returns:
      In float32 the .tflite with probe weights, and where each lies in it;
      otherwise the .tflite with the weights, and nothing.

    Raises:
      ConversionError: If a weight is not found exactly once.
    """
    random = np.random.default_rng(0)
    stored = weights
    patchable = precision.weights == "float32"
    if patchable:
        stored = {
            name: random.standard_normal(value.shape, np.float32)
            for name, value in weights.items()
        }

    def call(image):
        constants = {name: tf.constant(value) for name, value in stored.items()}
        outputs = function(constants, image)
        return {f"out_{i}": output for i, output in enumerate(outputs)}

    concrete = tf.function(
        call,
        input_signature=[tf.TensorSpec(image_shape, tf.float32, "in_0")],
        autograph=False,
    ).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())
    with _quietly():
        model = schema.ModelT.InitFromPackedBuf(_converted(converter, precision), 0)
    _name_outputs(model, names)
    if precision.weights == "int8" and precision.activations != "dynamic":
        quantise.store_weights(model)
    data = _pack(model)
    return data, _find_constants(tflite_file.parse(data), stored) if patchable else ()


def embed(data: bytes, manifest: manifests.Manifest) -> bytes:
    """Puts the manifest into the file as metadata."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    entry = schema.MetadataT()
    entry.name = manifests.METADATA_NAME.encode()
    entry.buffer = len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(manifests.to_json(manifest).encode(), np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return _pack(model)


def with_buffers(
    data: bytes, specs: Sequence[manifests.VariableSpec]
) -> tuple[manifests.VariableSpec, ...]:
    """The variables with the buffers that hold their initial values.

    Raises:
      ConversionError: If the file's variables are not the ones given, or two of them
        share a buffer: a patch of one would change the other.
    """
    buffers = patch.variable_buffers(tflite_file.parse(data))
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps TensorFlow's notes on saving, which ask nothing of anyone, off the log."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _converted(
    converter: tf.lite.TFLiteConverter, precision: precisions.Precision
) -> bytes:
    """Converts a frozen graph; int8 weights beside float32 activations come later."""
    # Under Optimize.DEFAULT float16 is the converter's float16 quantisation, and no
    # type its dynamic range quantisation.
    if precision.weights == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision.activations != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision.activations != "int8":
        return _convert(converter, "builtin")
    return _convert(
        converter,
        "builtin",
        lambda: quantise.integer_only(converter, precision.images),
    )


def _convert(
    converter: tf.lite.TFLiteConverter,
    ops: str,
    convert: Callable[[], bytes] | None = None,
) -> bytes:
    converter.target_spec.supported_ops = list(_OPERATOR_SETS[ops])
    try:
        return (convert or converter.convert)()
    except Exception as error:  # the converter raises classes of its own, unexported
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConversionError(
            f"The graph must convert with --ops={ops}. Received: {' '.join(lines[:4])}"
        ) from error


def _name_signatures(
    model: schema.ModelT, signatures: Sequence[manifests.SignatureSpec]
) -> None:
    """Replaces `in_i` and `out_i` by the names of the contract."""
    contracts = {s.key: s for s in signatures}
    for definition in model.signatureDefs:
        signature = contracts[definition.signatureKey.decode()]
        for maps, prefix, specs in (
            (definition.inputs, "in_", signature.inputs),
            (definition.outputs, "out_", signature.outputs),
        ):
            if len(maps) != len(specs):
                raise ConversionError(
                    f"Signature {signature.key!r} must keep its {len(specs)} tensors "
                    f"called {prefix}*. Received: {len(maps)}, the others were pruned."
                )
            for entry in maps:
                place = int(entry.name.decode().removeprefix(prefix))
                entry.name = specs[place].name.encode()


def _name_outputs(model: schema.ModelT, names: Sequence[str]) -> None:
    """Puts names on a frozen file's tensors, and its outputs into the names' order.

    The converter orders outputs as it likes; its signature tells which is which.
    """
    graph, definition = model.subgraphs[0], model.signatureDefs[0]
    indices = {
        entry.name.decode(): entry.tensorIndex
        for entry in (*definition.inputs, *definition.outputs)
    }
    keys = ["in_0", *(f"out_{i}" for i in range(len(names) - 1))]
    for key, name in zip(keys, names, strict=True):
        graph.tensors[indices[key]].name = name.encode()
    graph.outputs = [indices[key] for key in keys[1:]]
    renamed = dict(zip(keys, names))
    for entry in (*definition.inputs, *definition.outputs):
        entry.name = renamed[entry.name.decode()].encode()


def _unshare_variables(model: schema.ModelT) -> None:
    """Gives each variable's initial value a tensor and a buffer of its own."""
    codes = [code.builtinCode for code in model.operatorCodes]

    def operators(graph: schema.SubGraphT, code: int) -> list[schema.OperatorT]:
        return [o for o in graph.operators or () if codes[o.opcodeIndex] == code]

    initialisers = {
        operator.builtinOptions.initSubgraphIndex
        for graph in model.subgraphs
        for operator in operators(graph, schema.BuiltinOperator.CALL_ONCE)
    }
    assignments = [
        (model.subgraphs[index], operator)
        for index in sorted(initialisers)
        for operator in operators(
            model.subgraphs[index], schema.BuiltinOperator.ASSIGN_VARIABLE
        )
    ]
    values = {id(graph.tensors[o.inputs[1]]) for graph, o in assignments}
    taken = {
        tensor.buffer
        for graph in model.subgraphs
        for tensor in graph.tensors
        if id(tensor) not in values
    }
    assigned: set[int] = set()
    for graph, operator in assignments:
        old = graph.tensors[operator.inputs[1]]
        tensor = old
        if id(old) in assigned:  # one constant tensor may serve two assignments
            tensor = schema.TensorT()
            vars(tensor).update(vars(old))
            operator.inputs = [operator.inputs[0], len(graph.tensors)]
            graph.tensors.append(tensor)
        assigned.add(id(tensor))
        if tensor.buffer in taken:
            buffer = schema.BufferT()
            buffer.data = np.array(model.buffers[old.buffer].data)
            tensor.buffer = len(model.buffers)
            model.buffers.append(buffer)
        taken.add(tensor.buffer)


class _AlignedBuffer(schema.BufferT):
    """A buffer that packs its bytes at a multiple of 16."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        data = None
        if self.data is not None and len(self.data):
            stored = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(stored), _ALIGNMENT)
            builder.head -= len(stored)
            builder.Bytes[builder.head : builder.head + len(stored)] = stored
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _pack(model: schema.ModelT) -> bytes:
    for buffer in model.buffers:
        buffer.__class__ = _AlignedBuffer
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


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
        raise ConversionError(
            "Every weight must lie in the inference file as it is, axes apart. "
            f"Received: {faults} are not found there."
        )
    return tuple(found)
