"""A tiny trainable .tflite, converted with tensorflow, for tests that need a real one.

Two numbers of an image, times a kernel, are the logits of 3 anchors and 2 classes. All
signatures of the contract are there, with momentum, but the gradients are a toy's.
"""

from __future__ import annotations

import copy
import functools
import os
import tempfile

import flatbuffers
import numpy as np

from checkpoints import manifest, patch, tflite_file
from signatures import contract

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SIZES = contract.Dimensions(
    batch=2, size=4, anchors=3, coordinates=4, classes=2, features=((2,),)
)
KERNEL = np.arange(12, dtype=np.float32).reshape(2, 6) / 10
VARIABLES = (
    manifest.VariableSpec("head/bias", (6,), "float32", manifest.WEIGHT),
    manifest.VariableSpec("head/bias/m", (6,), "float32", manifest.SLOT),
    manifest.VariableSpec("head/kernel", (2, 6), "float32", manifest.WEIGHT),
    manifest.VariableSpec("head/kernel/m", (2, 6), "float32", manifest.SLOT),
    manifest.VariableSpec("head/kernel/v", (2, 6), "float32", manifest.SLOT),
    manifest.VariableSpec("step", (), "int32", manifest.STEP),
)
OPTIMIZER = {"name": "momentum", "clip_norm": 1.0}
FINGERPRINT = "ab" * 32


@functools.cache
def shared() -> bytes:
    """Returns the file as the converter makes it: the zero slots share buffers."""
    return _convert(select=False)


@functools.cache
def trainable() -> bytes:
    """Returns the file with a buffer for each variable and the manifest embedded."""
    return _finish(shared(), "builtin")


@functools.cache
def select() -> bytes:
    """Returns the select-ops file, which saves and restores by itself."""
    return _finish(_convert(select=True), "select")


@functools.cache
def inference() -> tuple[bytes, manifest.Manifest]:
    """Returns an inference file that stores the kernel turned, and its manifest."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 2], tf.float32)])
    def infer(x):
        turned = tf.constant(KERNEL.T.copy())
        return tf.matmul(x, turned, transpose_b=True) + tf.range(1.0, 7.0)

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [infer.get_concrete_function()]
    )
    data = converter.convert()
    file = tflite_file.parse(data)
    buffers = {
        t.shape: t.buffer
        for t in file.subgraphs[0].tensors
        if file.constant(0, t.index) is not None
    }
    constants = (
        manifest.ConstantSpec("head/bias", buffers[6,], (6,), (0,)),
        manifest.ConstantSpec("head/kernel", buffers[6, 2], (6, 2), (1, 0)),
    )
    return data, describe(file, "builtin", constants)


def describe(
    file: tflite_file.TfliteFile,
    ops: str,
    constants: tuple[manifest.ConstantSpec, ...] = (),
) -> manifest.Manifest:
    """Returns the manifest of a tiny file; variables only where it has no constants."""
    buffers = patch.variable_buffers(file)
    table = contract.signatures(SIZES, VARIABLES)
    if ops == "select":
        text = (manifest.TensorSpec("checkpoint_path", (), "string"),)
        table = tuple(
            manifest.SignatureSpec(s.key, text, text) if s.key in ("save", "restore")
            else s
            for s in table
        )
    return manifest.Manifest(
        kind="inference" if constants else "trainable",
        source={"name": "tiny", "sha256": ""},
        spec="tiny",
        classes=("a", "b"),
        input_size=SIZES.size,
        input_range=(0.0, 1.0),
        anchors={},
        keypoints=0,
        trainable="all",
        optimizer=OPTIMIZER,
        losses={"score": 1.0},
        batch_size=SIZES.batch,
        ops=ops,
        signatures=() if constants else table,
        variables=()
        if constants
        else tuple(
            manifest.VariableSpec(v.name, v.shape, v.dtype, v.role, buffers[v.name])
            for v in VARIABLES
        ),
        constants=constants,
        fingerprint=FINGERPRINT,
        census=file.census(),
        versions={},
    )


def embed(data: bytes, text: bytes, unshare: bool = False) -> bytes:
    """Adds the manifest's text to a file; optionally gives each variable a buffer."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)

    def add(content) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        model.buffers.append(buffer)
        return len(model.buffers) - 1

    codes = [code.builtinCode for code in model.operatorCodes]
    assign = schema.BuiltinOperator.ASSIGN_VARIABLE
    for graph in model.subgraphs[-1:] if unshare else ():
        for operator in graph.operators:
            if codes[operator.opcodeIndex] == assign:
                tensor = copy.copy(graph.tensors[operator.inputs[1]])
                tensor.buffer = add(bytes(model.buffers[tensor.buffer].data))
                graph.tensors.append(tensor)
                operator.inputs = [operator.inputs[0], len(graph.tensors) - 1]
    entry = schema.MetadataT()
    entry.name, entry.buffer = manifest.METADATA_NAME, add(text)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _finish(data: bytes, ops: str) -> bytes:
    # The buffers' numbers are those of the file without metadata: `add` only appends.
    apart = tflite_file.parse(embed(data, b"x", unshare=True))
    described = manifest.to_json(describe(apart, ops)).encode()
    return embed(data, described, unshare=True)


def _convert(select: bool) -> bytes:
    import tensorflow as tf

    module = _module(select)
    functions = {
        key: getattr(module, key).get_concrete_function()
        for key in ("train", "infer", "save", "restore", "evaluate", "features")
    }
    functions["train_features"] = module.train_features.get_concrete_function()
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            directory, signature_keys=list(functions)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if select:
            converter.target_spec.supported_ops += [tf.lite.OpsSet.SELECT_TF_OPS]
        converter.experimental_enable_resource_variables = True
        return converter.convert()


def _module(select: bool):
    import tensorflow as tf

    specs = {
        signature.key: [
            tf.TensorSpec(s.shape, s.dtype, s.name) for s in signature.inputs
        ]
        for signature in contract.signatures(SIZES, VARIABLES)
    }
    if select:
        path = [tf.TensorSpec([], tf.string, "checkpoint_path")]
        specs |= {"save": path, "restore": path}

    class Tiny(tf.Module):
        def __init__(self):
            super().__init__()
            initial = {"head/kernel": KERNEL, "head/bias": np.arange(1, 7)}
            self.all = [
                tf.Variable(
                    initial.get(v.name, np.zeros(v.shape)), name=v.name, dtype=v.dtype
                )
                for v in VARIABLES
            ]
            self.bias, self.bias_m, self.kernel, self.kernel_m = self.all[:4]
            self.kernel_v, self.step = self.all[4:]

        def _features(self, image):
            return tf.reduce_mean(image, [1, 2])[:, :2]

        def _losses(self, features, class_targets, sample_weights):
            logits = tf.matmul(features, self.kernel) + self.bias
            wrong = logits - tf.reshape(class_targets, [-1, 6])
            wrong *= sample_weights[:, None]
            loss = tf.reduce_sum(wrong * wrong)
            return wrong, {"loss": loss, "class_loss": loss, "box_loss": loss * 0.0}

        def _step(self, features, class_targets, sample_weights, rate):
            wrong, losses = self._losses(features, class_targets, sample_weights)
            gradients = (
                (self.kernel, self.kernel_m, tf.matmul(features, wrong, True)),
                (self.bias, self.bias_m, tf.reduce_sum(wrong, 0)),
            )
            for variable, slot, gradient in gradients:
                slot.assign(0.9 * slot + gradient)
                variable.assign_sub(rate * slot)
            self.kernel_v.assign(self.kernel_v + gradients[0][2] ** 2)
            self.step.assign_add(1)
            return losses | {"gradient_norm": tf.reduce_sum(wrong)}

        @tf.function(input_signature=specs["train"])
        def train(self, image, classes, boxes, anchors, samples, learning_rate):
            return self._step(self._features(image), classes, samples, learning_rate)

        @tf.function(input_signature=specs["train_features"])
        def train_features(self, feature, classes, boxes, anchors, samples, rate):
            return self._step(feature, classes, samples, rate)

        @tf.function(input_signature=specs["evaluate"])
        def evaluate(self, image, classes, boxes, anchors, samples):
            return self._losses(self._features(image), classes, samples)[1]

        @tf.function(input_signature=specs["features"])
        def features(self, image):
            return {"feature_0": self._features(image)}

        @tf.function(input_signature=specs["infer"])
        def infer(self, image):
            logits = tf.matmul(self._features(image), self.kernel) + self.bias
            logits = tf.reshape(logits, [1, 3, 2])
            boxes = tf.concat([logits, -logits], -1)
            return {"regressors": boxes, "classificators": logits}

        @tf.function(input_signature=specs["save"])
        def save(self, argument):
            if select:
                names = [v.name for v in VARIABLES]
                tf.raw_ops.Save(
                    filename=argument,
                    tensor_names=names,
                    data=[v.read_value() for v in self.all],
                )
                return {"checkpoint_path": argument}
            values = {s.name: v.read_value() for s, v in zip(VARIABLES, self.all)}
            return {"format_version": argument} | values

        @tf.function(input_signature=specs["restore"])
        def restore(self, argument, *values):
            if select:
                for spec, variable in zip(VARIABLES, self.all):
                    value = tf.raw_ops.Restore(
                        file_pattern=argument, tensor_name=spec.name, dt=variable.dtype
                    )
                    variable.assign(tf.ensure_shape(value, variable.shape))
                return {"checkpoint_path": argument}
            for variable, value in zip(self.all, values):
                variable.assign(value)
            return {"restored": argument * 0 + len(values)}

    return Tiny()
