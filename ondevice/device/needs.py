"""What memory a file will need before it runs, counted from its graph.

A runtime lays the tensors of a signature into one arena, where those that never live at
the same time may share a place. An arena is at least what lives at once at the worst
operator, and TFLite's planner, which places the largest first, comes near it. What
kernels and delegates take besides is not counted: `ondevice.benchmark` measures.

Source: tensorflow/lite/arena_planner.cc (a tensor lives from the operator that makes it
to the last one that reads it; inputs, outputs and what nothing reads to the end;
variables always).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from checkpoints import patch, tflite_file

# Of every tensor in an arena, in bytes: kDefaultTensorAlignment of
# tensorflow/lite/util.h.
_ALIGNMENT = 64


class Operator(Protocol):
    """What reads and makes tensors, told by their numbers; -1 is none."""

    @property
    def inputs(self) -> Sequence[int]: ...

    @property
    def outputs(self) -> Sequence[int]: ...


class Graph(Protocol):
    """A subgraph, as `checkpoints.tflite_file` or TensorFlow's schema has it."""

    @property
    def operators(self) -> Sequence[Operator]: ...

    @property
    def inputs(self) -> Sequence[int]: ...

    @property
    def outputs(self) -> Sequence[int]: ...


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes.

    Attributes:
      file: Of the file itself, which holds the constants.
      variables: Of the variables' values.
      signatures: Key -> what lives at once in it, at least; the primary graph is ""
        where there are no signatures. Runtimes keep it from the first call on.
    """

    file: int
    variables: int
    signatures: dict[str, int]


def of_file(file: tflite_file.TfliteFile) -> Needs:
    """Counts what a file needs. A side that is unknown until it runs counts as it is
    in the file, mostly 1."""
    graphs = {s.key: s.subgraph for s in file.signatures} or {"": 0}
    return Needs(
        file=len(file.data),
        variables=_variables(file),
        signatures={key: _at_once(file, index) for key, index in graphs.items()},
    )


def told(needs: Mapping[str, Any]) -> str:
    """Says what `Needs` hold, as a dictionary, in a line."""
    calls = sorted(needs["signatures"].items(), key=lambda call: -call[1])
    parts = [(key or "a call", size) for key, size in calls]
    parts += [("variables", needs["variables"]), ("file", needs["file"])]
    return ", ".join(f"{what} {size / 1e6:.1f} MB" for what, size in parts)


def _at_once(
    file: tflite_file.TfliteFile, index: int, within: tuple[int, ...] = ()
) -> int:
    """The most bytes of a subgraph's tensors that live at one operator."""
    graph = file.subgraphs[index]
    calls = [0] * (len(graph.operators) + 1)  # By what one calls, as a WHILE its body.
    within = (*within, index)
    for place, operator in enumerate(graph.operators):
        # A subgraph that calls itself is no program; `soundness` says so.
        called = [i for i in operator.calls if i not in within]
        calls[place] = sum(_at_once(file, i, within) for i in called)
    lives = lifetimes(graph)
    always = (t.index for t in graph.tensors if t.is_variable)
    lives |= dict.fromkeys(always, (0, len(graph.operators)))
    alive = alive_at(graph, lives, lambda t: _bytes(file, graph.tensors[t]))
    return max(own + called for own, called in zip(alive, calls, strict=True))


def lifetimes(graph: Graph) -> dict[int, tuple[int, int]]:
    """For each tensor the first and the last operator at which it must be there."""
    end = len(graph.operators)
    lives = dict.fromkeys(graph.inputs, (0, end))
    for place, operator in enumerate(graph.operators):
        for tensor in operator.outputs:
            lives.setdefault(tensor, (place, place))
        for tensor in operator.inputs:
            if tensor in lives:
                born, dies = lives[tensor]
                lives[tensor] = born, max(dies, place)
    for tensor in graph.outputs:
        if tensor in lives:
            lives[tensor] = lives[tensor][0], end
    return lives


def alive_at(
    graph: Graph,
    lives: Mapping[int, tuple[int, int]],
    size: Callable[[int], int],
) -> list[int]:
    """Bytes of the tensors that are there at each operator, and after the last.

    Args:
      graph: The subgraph.
      lives: Of its tensors, as `lifetimes` gives them.
      size: Bytes of a tensor, by its number.
    """
    changes = [0] * (len(graph.operators) + 2)
    for tensor, (born, dies) in lives.items():
        taken = size(tensor)
        changes[born] += taken
        changes[dies + 1] -= taken
    return list(itertools.accumulate(changes))[:-1]


def _bytes(file: tflite_file.TfliteFile, tensor: tflite_file.Tensor) -> int:
    """Of a tensor in the arena: none of a constant, of a string or a resource."""
    dtype = tflite_file.NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None or file.buffers[tensor.buffer].size:
        return 0
    size = math.prod(tensor.shape) * np.dtype(dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _variables(file: tflite_file.TfliteFile) -> int:
    try:
        buffers = patch.variable_buffers(file).values()
    except patch.PatchError:  # Some are not initialised from constants.
        return 0
    return sum(file.buffers[buffer].size for buffer in buffers)
