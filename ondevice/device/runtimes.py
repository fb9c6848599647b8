"""Which runtime runs a .tflite, and how its interpreter is made.

`auto` takes the first installed of `NAMES`. The runtimes differ in speed and in
operators (only tensorflow before 2.20 has Flex), not in how they are called.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import numpy as np

AUTO = "auto"
NAMES = ("ai_edge_litert", "tflite_runtime", "tensorflow")
FLEX = "tensorflow"

# Where each keeps its Interpreter. Importing a submodule of tensorflow imports it all.
_MODULES = {
    "ai_edge_litert": "ai_edge_litert.interpreter",
    "tflite_runtime": "tflite_runtime.interpreter",
    "tensorflow": "tensorflow.lite.python.interpreter",
}

# The distribution that each comes with.
DISTRIBUTIONS = {
    "ai_edge_litert": "ai-edge-litert",
    "tflite_runtime": "tflite-runtime",
    "tensorflow": "tensorflow",
}


class RuntimeChoiceError(ValueError):
    """A runtime that is unknown or not installed, or threads that make no sense."""

    exit_status = 2  # Of a command: a wrong flag.


class RuntimeFailure(ValueError):
    """A model that a runtime does not run."""


@functools.cache
def installed() -> tuple[str, ...]:
    """Returns the names of the runtimes that are installed; imports none of them."""
    return tuple(name for name in NAMES if importlib.util.find_spec(name) is not None)


def choose(runtime: str = AUTO, flex: bool = False) -> str:
    """Returns the name of the runtime that `runtime` stands for.

    Args:
      runtime: `auto` or one of `NAMES`.
      flex: Whether the file needs TensorFlow's own kernels; `auto` is then the runtime
        that has them.

    Raises:
      RuntimeChoiceError: If it is unknown or not installed, or if none is; the error
        lists those installed.
    """
    there = installed()
    if runtime == AUTO and flex:
        if FLEX not in there:
            raise RuntimeChoiceError(
                f"A file built with --ops=select must run on {FLEX!r} before 2.20, "
                f"which alone has Flex. Received: {runtime!r}; installed: "
                f"{list(there)}."
            )
        return FLEX
    if runtime == AUTO and there:
        return there[0]
    if runtime not in there:
        raise RuntimeChoiceError(
            f"A runtime must be installed: {AUTO!r} or one of {list(NAMES)}. Received: "
            f"{runtime!r}; installed: {list(there)}."
        )
    return runtime


def interpreter_class(runtime: str = AUTO) -> type:
    """Imports a runtime and returns its Interpreter class.

    Raises:
      RuntimeChoiceError: As `choose`; or if the import fails.
    """
    name = choose(runtime)
    try:
        return importlib.import_module(_MODULES[name]).Interpreter
    except ImportError as error:
        raise RuntimeChoiceError(
            f"A runtime must import. Received: {error}; from {name!r}, installed: "
            f"{list(installed())}."
        ) from error


def create(
    model: bytes | str,
    runtime: str = AUTO,
    threads: int | None = None,
    every_tensor: bool = False,
) -> Any:
    """Makes an interpreter and allocates its tensors.

    tflite-runtime 2.14 applies XNNPACK only if the tensors are allocated before the
    first signature is called; without that inference takes seven times as long.

    Args:
      model: Content of a .tflite, or the path of one.
      runtime: As `choose` takes it.
      threads: At least 1; None leaves it to the runtime.
      every_tensor: Whether `get_tensor` must give what any operator has computed:
        memory is then not used again, and no delegate replaces operators.

    Returns:
      The interpreter.

    Raises:
      RuntimeChoiceError: As `choose`; or if `threads` is below 1.
      RuntimeFailure: If the runtime refuses the model.
    """
    if threads is not None and threads < 1:
        raise RuntimeChoiceError(
            f"The threads must be at least 1. Received: {threads}."
        )
    name = choose(runtime)
    interpreter_type = interpreter_class(name)
    given: dict[str, Any] = {
        "model_content" if isinstance(model, bytes) else "model_path": model
    }
    if every_tensor:
        resolvers = importlib.import_module(_MODULES[name]).OpResolverType
        given["experimental_preserve_all_tensors"] = True
        given["experimental_op_resolver_type"] = (
            resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
    try:
        interpreter = interpreter_type(**given, num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise RuntimeFailure(
            f"The runtime {name!r} must be able to run the model. Received: "
            f"{' '.join(str(error).split())}; installed: {list(installed())}."
        ) from error
    return interpreter


def run(interpreter: Any, image: np.ndarray) -> list[np.ndarray]:
    """Runs the primary subgraph of a file with one input.

    Args:
      interpreter: As `create` makes it.
      image: float32, of the input's shape.

    Returns:
      The outputs in the file's order, their own arrays. Where input or outputs are
      integers, they are what their scales make of them.
    """
    (entry,) = interpreter.get_input_details()
    scale, zero = entry["quantization"]
    if np.issubdtype(entry["dtype"], np.integer) and scale:
        levels = np.iinfo(entry["dtype"])
        image = np.clip(np.round(image / scale) + zero, levels.min, levels.max)
        image = image.astype(entry["dtype"])
    interpreter.set_tensor(entry["index"], image)
    interpreter.invoke()
    found = []
    for detail in interpreter.get_output_details():
        output = np.array(interpreter.get_tensor(detail["index"]))
        scale, zero = detail["quantization"]
        if np.issubdtype(output.dtype, np.integer) and scale:
            output = (output.astype(np.float32) - zero) * np.float32(scale)
        found.append(output)
    return found
