"""A .tflite in a runtime: a signature of a file of ours, or a frozen file as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ondevice.device import runtimes, session
from ondevice.measuring import step_inputs
from ondevice.measuring.peers import missing


def prepare(options: Mapping[str, Any]) -> Callable[[], Any]:
    """Opens the file.

    Args:
      options: "file", a path; "runtime"; "threads"; "signature", or None for a frozen
        file, whose first input gets noise.

    Raises:
      Missing: If the runtime is not installed, or does not run the file.
    """
    key, place = options["signature"], (options["runtime"], options["threads"])
    try:
        if key is None:
            return _frozen(runtimes.create(options["file"], *place))
        opened = session.Session(options["file"], *place)
        arrays = step_inputs.of_signature(opened.manifest, key)
        opened.call(key, arrays)
    except (runtimes.RuntimeFailure, runtimes.RuntimeChoiceError) as error:
        raise missing.Missing(str(error)) from error
    return lambda: opened.call(key, arrays)


def _frozen(interpreter: Any) -> Callable[[], Any]:
    entry = interpreter.get_input_details()[0]
    image = np.random.default_rng(0).random(entry["shape"], np.float32)
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def call() -> list[np.ndarray]:
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return call
