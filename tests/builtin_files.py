"""Converts functions with builtin operators only, and runs them in every runtime."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from tflite_runtime import interpreter as runtime

INTERPRETERS: dict[str, Callable] = {
    "tf_lite": tf.lite.Interpreter,
    "tflite_runtime": runtime.Interpreter,
    "ai_edge_litert": litert.Interpreter,
}


def convert(functions: Mapping[str, tf.types.experimental.GenericFunction]) -> bytes:
    """One file with a signature for each function.

    Args:
      functions: tf.functions with an input signature of static shapes, which return a
        dictionary of tensors.

    Returns:
      The .tflite.
    """
    module = tf.Module()
    module.functions = dict(functions)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(
            module,
            folder,
            signatures={k: f.get_concrete_function() for k, f in functions.items()},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=sorted(functions)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return converter.convert()


def census(content: bytes) -> collections.Counter:
    """Counts the operators of all subgraphs, custom ones by their own name.

    Raises:
      AssertionError: If a tensor's shape depends on run time.
    """
    import tflite

    model = tflite.Model.GetRootAsModel(content, 0)
    names = {
        value: name
        for name, value in vars(tflite.BuiltinOperator).items()
        if isinstance(value, int)
    }
    found: collections.Counter = collections.Counter()
    for s in range(model.SubgraphsLength()):
        subgraph = model.Subgraphs(s)
        for t in range(subgraph.TensorsLength()):
            tensor = subgraph.Tensors(t)
            if tensor.ShapeSignatureLength() and -1 in tensor.ShapeSignatureAsNumpy():
                raise AssertionError(f"Dynamic shape: {tensor.Name()!r}.")
        for o in range(subgraph.OperatorsLength()):
            code = model.OperatorCodes(subgraph.Operators(o).OpcodeIndex())
            builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = names[builtin]
            if name == "CUSTOM":
                name = code.CustomCode().decode()
            found[name] += 1
    return found


def run(
    content: bytes, name: str, inputs: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """Runs signatures in one runtime.

    Args:
      content: The .tflite.
      name: A key of INTERPRETERS.
      inputs: For each signature its inputs by name.

    Returns:
      For each signature its outputs by name.
    """
    interpreter = INTERPRETERS[name](model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return {
        key: dict(interpreter.get_signature_runner(key)(**values))
        for key, values in inputs.items()
    }
