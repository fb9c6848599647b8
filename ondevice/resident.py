"""What the body of a loop keeps for its backward pass stays in memory between calls.

When a loop has ended runtimes free the memory of its body. glibc's malloc gives more
than 32 MB back to the system, and the next call gets it page by page, each filled with
zeros: a twentieth of a step's time. Tensors that are marked as variables lie in an
arena of their own, which is not freed and where none shares its place. Those that are
there at the body's worst operator could share with little anyhow.

A runtime fills variables with zeros before each call; they are written before they are
read.

Sources: Eval in tensorflow/lite/kernels/while.cc (ReleaseMemory),
tensorflow/lite/arena_planner.cc (persistent_arena_), M_MMAP_THRESHOLD in mallopt(3).
"""

from __future__ import annotations

import math

from tensorflow.lite.python import schema_py_generated as schema

from ondevice import rewrite
from ondevice.device import needs

# Bytes at the worst operator; tflite-runtime 2.14 keeps what a loop is given beside it.
_LARGE = 16_000_000
# Operators: what does not last as long is the worst one's own work.
_LASTING = 60


def keep(model: schema.ModelT) -> None:
    """Marks what the bodies of a trainable file's loops keep, where that is much."""
    for graph in model.subgraphs:
        for loop in rewrite.operators(model, graph, schema.BuiltinOperator.WHILE):
            _keep_in(model.subgraphs[loop.builtinOptions.bodySubgraphIndex])


def _keep_in(graph: schema.SubGraphT) -> None:
    def size(tensor: int) -> int:
        held = graph.tensors[tensor]
        if held.type != schema.TensorType.FLOAT32 or held.shape is None:
            return 0
        return 4 * math.prod(map(int, held.shape))

    lives = needs.lifetimes(graph)
    alive = needs.alive_at(graph, lives, size)
    if max(alive) < _LARGE:
        return
    worst = alive.index(max(alive))
    given = {*graph.inputs, *graph.outputs}
    for tensor, (born, dies) in lives.items():
        lasting = born <= worst <= dies and dies - born > _LASTING
        if lasting and tensor not in given and size(tensor):
            graph.tensors[tensor].isVariable = True
