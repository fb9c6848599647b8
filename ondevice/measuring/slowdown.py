"""What may make seven classes several times as slow as one, way by way.

A report on the same detector found 0.07 to 0.09 s with one class, 0.23 to 0.32 s with
seven, more with more classes, and no gain by float16. Each way here is a thing that its
author may have done; all run in turn with the right way, so that each shows what it
costs and whether that grows with the number of classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ondevice.detection import anchors, decoding
from ondevice.measuring import classes, slow_ways, timing

SECTION = "slowdown"

# Numbers of classes that the report compares.
CLASSES = (1, 7)


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of running a detector.

    Attributes:
      form: How its graph was written down.
      trained: Whether the heads of several classes are trained; one class always has
        the vendor's.
      run: From a file's content, a runtime and threads to `infer`.
      detect: From regressors, logits, centres and size to detections.
    """

    form: str = slow_ways.STATIC
    trained: bool = True
    run: Callable[[bytes, str, int], Callable] = slow_ways.prepared
    detect: Callable[..., Any] = decoding.detect


RIGHT = "right way"
WAYS = {
    RIGHT: Way(),
    "dynamic batch": Way(form=slow_ways.DYNAMIC),
    "transposes around operators": Way(form=slow_ways.TRANSPOSED),
    "no allocate_tensors before the signature": Way(run=slow_ways.unallocated),
    "resize_tensor_input before each call": Way(run=slow_ways.resized),
    "interpreter made for each call": Way(run=slow_ways.reopened),
    "numpy suppression class by class": Way(detect=slow_ways.thresholded),
    "Python loop, threshold first": Way(detect=slow_ways.loop_thresholded),
    "Python loop, threshold last": Way(detect=slow_ways.loop),
    "numpy suppression without a threshold": Way(detect=slow_ways.unthresholded),
    "untrained heads, detected as here": Way(trained=False),
    "untrained heads, numpy suppression class by class": Way(
        trained=False, detect=slow_ways.thresholded
    ),
}


def graph_of(way: Way, count: int) -> slow_ways.Graph:
    """The graph that a way runs with a number of classes."""
    return slow_ways.Graph(count, way.form, way.trained or count == 1)


def graphs(counts: Iterable[int]) -> list[slow_ways.Graph]:
    """Every graph that the ways need, once."""
    wanted = (graph_of(way, count) for way in WAYS.values() for count in counts)
    return list(dict.fromkeys(wanted))


def measure(
    files: Mapping[slow_ways.Graph, bytes],
    spec: anchors.AnchorSpec,
    runtimes: Sequence[str],
    threads: Sequence[int],
    images: Sequence[np.ndarray],
    rounds: int,
    progress: classes.Progress,
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Measures every way in every runtime.

    Args:
      files: Graph -> .tflite: all of `graphs`, for 1 class and other numbers.
      spec: Parameters of the anchors.
      runtimes: Names of installed runtimes.
      threads: Numbers of threads.
      images: [1, S, S, 3] float32 each.
      rounds: Calls of each.
      progress: Wraps the rounds.

    Returns:
      Rows, and ratios by name: each way with several classes over itself with one, and
      each way with one class over the right way.

    Raises:
      RuntimeFailure: If a runtime does not run a file.
    """
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[str, Any]] = {}
    counts = list(dict.fromkeys(graph.classes for graph in files))
    keys = [(name, count) for name in WAYS for count in counts]
    for place in [(runtime, number) for runtime in runtimes for number in threads]:
        where = f"{place[0]}, {place[1]} thread{'s' if place[1] > 1 else ''}"
        times = timing.measure(
            [_contender(*key, files, spec, place) for key in keys],
            images,
            rounds,
            warmup=1,
            progress=lambda turns: progress(turns, f"{SECTION}, {where}"),
        )
        by_key = dict(zip(keys, times))
        for (name, count), found in by_key.items():
            rows += found.rows(SECTION)
            said, one = f"{SECTION}: {name}, {where}", by_key[name, 1]
            if count != 1:
                ratios[f"{said}, {count} classes over 1"] = timing.ratio(found, one)
            elif name != RIGHT:
                right = by_key[RIGHT, 1]
                ratios[f"{said}, over the {RIGHT}"] = timing.ratio(one, right)
    return rows, ratios


def _contender(
    name: str,
    count: int,
    files: Mapping[slow_ways.Graph, bytes],
    spec: anchors.AnchorSpec,
    place: tuple[str, int],
) -> timing.Contender:
    way = WAYS[name]
    runtime, threads = place
    infer = way.run(files[graph_of(way, count)], runtime, threads)
    labels = {
        "contender": name, "runtime": runtime, "threads": threads, "classes": count,
    }  # fmt: skip
    stages = {classes.INFER: infer, classes.DETECT: classes.decoder(spec, way.detect)}
    return timing.Contender(labels, stages)
