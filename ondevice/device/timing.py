"""How long files take, one against another, on a machine that others use too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from ondevice.device import runtimes


def ratios(
    files: Sequence[bytes], runs: int, threads: int
) -> dict[str, list[float | None]]:
    """The first file's time over each one's, in every installed runtime.

    The files run by turns, and each time is held against the first file's in the same
    turn, so that what else the machine does meets all of them.

    Args:
      files: Frozen .tflite with one input in float32.
      runs: Turns that count, after one that does not.
      threads: Of the runtime.

    Returns:
      Runtime -> the median ratio for each file: 2 is twice as fast as the first. None
      where the runtime does not run the file, or not the first.
    """
    found: dict[str, list[float | None]] = {}
    for runtime in runtimes.installed():
        running = [_opened(data, runtime, threads) for data in files]
        times: list[list[float]] = [[] for _ in files]
        for turn in range(runs + 1):
            for run, taken in zip(running, times):
                if run is not None and turn:
                    taken.append(_seconds(run))
                elif run is not None:
                    run()
        found[runtime] = [
            statistics.median(a / b for a, b in zip(times[0], taken))
            if taken and times[0]
            else None
            for taken in times
        ]
    return found


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _opened(data: bytes, runtime: str, threads: int) -> Callable[[], Any] | None:
    """Invokes a file on an image of grey; None where the runtime refuses it."""
    try:
        interpreter = runtimes.create(data, runtime, threads)
    except runtimes.RuntimeFailure as error:
        logging.warning("%s", error)
        return None
    (entry,) = interpreter.get_input_details()
    image = np.full(entry["shape"], 0.5, np.float32)
    interpreter.set_tensor(entry["index"], image)
    return interpreter.invoke
