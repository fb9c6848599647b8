"""Whether a .tflite may be given to an interpreter.

Interpreters trust what a converter wrote: a tensor that nobody has computed is read
through a null pointer, a constant that an operator writes to lies in read-only memory,
a subgraph that calls itself takes the stack. `tflite_file` proves that a file holds
together as data; this module, that it does as a program. What a kernel makes of its
operands it cannot tell: `ondevice.device.trial` finds that out in a process apart.

Source: tensorflow/lite/core/interpreter_builder.cc and core/subgraph.cc.
"""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterator

import numpy as np

from checkpoints import strict_json
from checkpoints.tflite_types import (
    NUMPY_DTYPES,
    Operator,
    Subgraph,
    TfliteError,
    TfliteFile,
)

# Bytes of one tensor, the most that a .tflite of old could hold.
MAX_TENSOR = 2**31

# Bits of an element; strings have a table of their own, handles none.
_BITS = {name: 8 * np.dtype(code).itemsize for name, code in NUMPY_DTYPES.items()} | {
    "BFLOAT16": 16,
    "INT4": 4,
}
# The first input that an operator may do without; others that are left out, -1, are
# read through a null pointer.
_OPTIONAL = {
    "CONV_2D": 2,
    "CONV_3D": 2,
    "CONV_3D_TRANSPOSE": 3,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 2,
    "TRANSPOSE_CONV": 3,
} | dict.fromkeys(
    (
        "BIDIRECTIONAL_SEQUENCE_LSTM",
        "BIDIRECTIONAL_SEQUENCE_RNN",
        "LSTM",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    ),
    1,
)


def require(file: TfliteFile) -> None:
    """Refuses a file that no interpreter should be given.

    Raises:
      TfliteError: Naming what is wrong with it, and where.
    """
    found = faults(file)
    if found:
        raise TfliteError(
            "The operators of a .tflite must read what is there before them, and write "
            f"where nothing is. Received: {strict_json.summary(found)}."
        )


def faults(file: TfliteFile) -> list[str]:
    """Returns what is wrong with a parsed .tflite as a program."""
    found = []
    for graph in file.subgraphs:
        where = f" of subgraph {graph.index}"
        each = itertools.chain(_tensors(file, graph), _flow(file, graph))
        first = itertools.islice(each, strict_json.MOST_FAULTS)
        found += [fault + where for fault in first]
    for signature in file.signatures:
        graph = file.subgraphs[signature.subgraph]
        for what, named, there in (
            ("input", signature.inputs, set(graph.inputs)),
            ("output", signature.outputs, set(graph.outputs)),
        ):
            found += [
                f"{what} {name[:80]!r} of signature {signature.key[:80]!r}, tensor "
                f"{tensor}, which is no {what} of subgraph {graph.index}"
                for name, tensor in named.items()
                if tensor not in there
            ]
    return found + _cycle(file)


def _tensors(file: TfliteFile, graph: Subgraph) -> Iterator[str]:
    """Tensors that no memory fits."""
    strings: dict[tuple[int, int], int] = {}  # The first of each.
    for tensor in graph.tensors:
        stored = file.buffers[tensor.buffer].size
        elements = math.prod(tensor.shape)
        bits = _BITS.get(tensor.dtype, 0) * elements
        if bits > 8 * MAX_TENSOR:
            yield f"tensor {tensor.index} {tensor.shape} of {bits // 8} bytes"
        if not stored or tensor.sparsity is not None:
            continue
        if tensor.dtype == "STRING":
            strings.setdefault((tensor.buffer, elements), tensor.index)
        elif stored != (bits + 7) // 8:
            yield (
                f"tensor {tensor.index} of {tensor.dtype} {tensor.shape} with {stored} "
                "bytes"
            )
    for index in strings.values():
        try:
            file.string_offsets(graph.index, index)
        except TfliteError as error:
            yield str(error).rstrip(".")


def _flow(file: TfliteFile, graph: Subgraph) -> Iterator[str]:
    """Operators that read what is not there, or write where something is."""
    constants = {t.index for t in graph.tensors if file.buffers[t.buffer].size}
    for index in sorted(constants.intersection(graph.inputs)):
        yield f"input {index}, which is a constant,"
    held = constants.union(graph.inputs)
    # What has memory of its own, or nothing to hold, may be read unwritten.
    blank = {t.index for t in graph.tensors if t.is_variable or 0 in t.shape} | {-1}
    for operator in graph.operators:
        needed = 0 if operator.custom else len(operator.inputs)
        needed = min(needed, _OPTIONAL.get(operator.name, needed))
        if -1 in operator.inputs[:needed]:
            yield f"{_told(operator)} lacks an input"
        unread = [i for i in operator.inputs if i not in held and i not in blank]
        if unread:
            yield f"{_told(operator)} reads tensors {unread[:8]} that nothing made"
        twice = [i for i in operator.outputs if i in held]
        if twice or len(set(operator.outputs)) != len(operator.outputs):
            yield f"{_told(operator)} writes to {twice[:8] or 'one tensor twice'}"
        held.update(operator.outputs)
    missing = [i for i in graph.outputs if i not in held and i not in blank]
    if missing:
        yield f"outputs {missing[:8]} that nothing made"


def _told(operator: Operator) -> str:
    return f"operator {operator.index} ({operator.name[:80]})"


def _cycle(file: TfliteFile) -> list[str]:
    """Subgraphs that call themselves, by whatever way."""
    calls = [
        {called for operator in graph.operators for called in operator.calls}
        for graph in file.subgraphs
    ]
    callers = collections.defaultdict(list)
    for caller, called in enumerate(calls):
        for index in called:
            callers[index].append(caller)
    # Whoever calls nobody that is left is no part of a cycle.
    left = {caller: len(called) for caller, called in enumerate(calls)}
    free = [index for index, count in left.items() if not count]
    while free:
        index = free.pop()
        del left[index]
        for caller in callers[index]:
            left[caller] -= 1
            if not left[caller]:
                free.append(caller)
    return [f"subgraphs {sorted(left)[:8]}, which call each other in turn"] * bool(left)
