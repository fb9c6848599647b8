"""Control dependencies: what a step makes of variables alone waits until it is read.

Runtimes that delegate run an operator as soon as its inputs are there, wherever it
stands in the file, and keep the result until it is read (see `rule.late_zero`). So the
optimizer's slots, and weights that are turned for the backward pass, would lie beside
the activations through the whole step. The metadata of a file can say what an operator
waits for: here for the gradient that it is read with.

A runtime that finds such metadata no longer keeps the order of operators on variables
by itself; so that order is written down, too. One that does not know it, or delegates
nothing, takes no notice.

Sources: tensorflow/lite/graph_info.h (what dependencies do), Subgraph's
OpMightHaveSideEffect in tensorflow/lite/core/subgraph.cc (the order kept without them),
tensorflow/compiler/mlir/lite/experimental/remat/metadata_util.cc (the format).
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence

from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import wire
from ondevice import rewrite
from signatures import contract

NAME = "model_control_dependencies"
_VERSION = 1

_READ = schema.BuiltinOperator.READ_VARIABLE
_TRANSPOSE = schema.BuiltinOperator.TRANSPOSE
_CONTROL = (
    schema.BuiltinOperator.CALL_ONCE,
    schema.BuiltinOperator.IF,
    schema.BuiltinOperator.WHILE,
)

# (the operator that comes first, the one that waits), by their places in the file.
Edges = Sequence[tuple[int, int]]


def add(model: schema.ModelT) -> None:
    """Lets the steps of a trainable file wait, and moves what waits to where it does.

    A step is a signature that gives the norm of a gradient.
    """
    steps = {}
    for definition in model.signatureDefs:
        outputs = {o.name.decode(): o.tensorIndex for o in definition.outputs}
        if outputs.pop(contract.GRADIENT_NORM, None) is not None:
            steps[definition.subgraphIndex] = list(outputs.values())
    dependencies: list[Edges] = []
    for index, subgraph in enumerate(model.subgraphs):
        graph = _Graph(model, subgraph)
        if index in steps:
            waits = graph.waits(steps[index])
            order = graph.order(waits)
            subgraph.operators = [subgraph.operators[i] for i in order]
            place = {i: n for n, i in enumerate(order)}
            graph = _Graph(model, subgraph)
            late = [(place[first], place[i]) for i, first in waits.items()]
            dependencies.append([*graph.by_variable(), *late])
        else:
            dependencies.append(graph.by_place())
    if steps:
        rewrite.add_metadata(model, NAME, serialized(dependencies))


class _Graph:
    """A subgraph's operators, by their places."""

    def __init__(self, model: schema.ModelT, subgraph: schema.SubGraphT) -> None:
        operators = subgraph.operators
        self._codes = [
            model.operatorCodes[operator.opcodeIndex].builtinCode
            for operator in operators
        ]
        self._made = {t: i for i, o in enumerate(operators) for t in o.outputs}
        self._sources = [
            [self._made[t] for t in o.inputs if t in self._made] for o in operators
        ]
        self._readers: dict[int, list[int]] = collections.defaultdict(list)
        for i, sources in enumerate(self._sources):
            for source in sources:
                self._readers[source].append(i)
        handles = {
            t
            for t, tensor in enumerate(subgraph.tensors)
            if tensor.type == schema.TensorType.RESOURCE
        }
        self._handles = [
            handles.intersection((*o.inputs, *o.outputs)) for o in operators
        ]
        # Made of variables and constants alone.
        self._alone: set[int] = set()
        given = set(subgraph.inputs)
        for i, operator in enumerate(operators):
            if self._codes[i] in _CONTROL or given.intersection(operator.inputs):
                continue
            if len(operator.outputs) and self._alone.issuperset(self._sources[i]):
                self._alone.add(i)
        # The first that reads what each of these makes, in the end, with others.
        self._reader: dict[int, int] = {}
        for i in sorted(self._alone, reverse=True):
            readers = self._readers[i]
            found = [self._reader.get(j) if j in self._alone else j for j in readers]
            if known := [j for j in found if j is not None]:
                self._reader[i] = min(known)

    def waits(self, losses: Iterable[int]) -> dict[int, int]:
        """What waits for what: operator -> the one that comes first.

        Args:
          losses: Tensors; what they are computed from waits for nothing.
        """
        forward: set[int] = set()
        found = [self._made[t] for t in losses if t in self._made]
        while found:
            i = found.pop()
            if i not in forward:
                forward.add(i)
                found += self._sources[i]
        waits = {}
        for i in sorted(self._alone - forward):
            if self._codes[i] in (_READ, _TRANSPOSE):
                first = self._read_with(i)
                if first is not None and first not in forward:
                    waits[i] = first
        return waits

    def _read_with(self, i: int) -> int | None:
        """The last of what is read together with what an operator makes, in the end.

        None where that is read first with nothing else.
        """
        reader = self._reader.get(i)
        if reader is None:
            return None
        return max(set(self._sources[reader]) - self._alone, default=None)

    def order(self, waits: Mapping[int, int]) -> list[int]:
        """All operators; what waits, and what that alone makes, before its reader."""
        places = list(range(len(self._codes)))
        moved: set[int] = set()
        for i in sorted(self._alone):
            if i in waits or moved.intersection(self._sources[i]):
                moved.add(i)
                places[i] = self._reader.get(i, i)
        return sorted(range(len(places)), key=lambda i: (places[i], i))

    def by_place(self) -> Edges:
        """The order that runtimes keep by themselves."""
        return list(itertools.pairwise(self._stateful()))

    def by_variable(self) -> Edges:
        """The order of what goes to one variable, or into other subgraphs."""
        edges = []
        last: dict[int, int] = {}  # Of the operators on each handle.
        between: list[int] = []  # Operators since the last control flow.
        control: list[int] = []  # The last control flow.
        for i in self._stateful():
            if self._codes[i] in _CONTROL:
                edges += [(before, i) for before in (*control, *between)]
                last, between, control = {}, [], [i]
                continue
            before = {last[handle] for handle in self._handles[i] if handle in last}
            edges += [(j, i) for j in sorted(before) or control]
            last |= dict.fromkeys(self._handles[i], i)
            between.append(i)
        return edges

    def _stateful(self) -> list[int]:
        return [
            i
            for i, code in enumerate(self._codes)
            if self._handles[i] or code in _CONTROL
        ]


def serialized(dependencies: Sequence[Edges]) -> bytes:
    """The metadata's content: for each subgraph the edges of its operators."""
    numbers = [_VERSION, len(dependencies)]
    for edges in dependencies:
        numbers.append(len(edges))
        numbers += [2 * place for edge in edges for place in edge]  # Signed, zigzag.
    return b"".join(map(wire.encode_varint, numbers))
