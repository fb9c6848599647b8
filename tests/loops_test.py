"""Tests of where a file's loops stand, and of what their bodies keep in memory."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import fresh, resident, rewrite
from signatures import contract
from tests import rewritten, tiny_detector


def graph_of(tensors: int, *operators: schema.OperatorT) -> schema.SubGraphT:
    """A subgraph from tensor 0 to the last one; each is 4 MB."""
    graph = schema.SubGraphT()
    graph.tensors = [schema.TensorT() for _ in range(tensors)]
    for tensor in graph.tensors:
        tensor.shape, tensor.type = [1000, 1000], schema.TensorType.FLOAT32
    graph.operators = list(operators)
    graph.inputs, graph.outputs = [0], [tensors - 1]
    return graph


def relu(inputs: Sequence[int], output: int) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [output]
    return operator


def loop(condition: int, body: int) -> schema.OperatorT:
    operator, options = schema.OperatorT(), schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = condition, body
    operator.opcodeIndex, operator.builtinOptions = 1, options
    operator.inputs, operator.outputs = [0], [1]
    return operator


def once(initial: int) -> schema.OperatorT:
    operator, options = schema.OperatorT(), schema.CallOnceOptionsT()
    options.initSubgraphIndex = initial
    operator.opcodeIndex, operator.builtinOptions = 2, options
    operator.inputs, operator.outputs = [], []
    return operator


def model_of(
    *graphs: schema.SubGraphT, signatures: Sequence[int] = ()
) -> schema.ModelT:
    model = schema.ModelT()
    model.subgraphs, model.operatorCodes, model.signatureDefs = list(graphs), [], []
    for name in ("RELU", "WHILE", "CALL_ONCE"):
        code = schema.OperatorCodeT()
        code.builtinCode = vars(schema.BuiltinOperator)[name]
        model.operatorCodes.append(code)
    for index in signatures:
        definition = schema.SignatureDefT()
        definition.subgraphIndex = index
        model.signatureDefs.append(definition)
    return model


class CalleesFirstTest(absltest.TestCase):
    def test_loops_come_before_what_runs_them_and_signatures_without_come_first(self):
        outer, initial, condition, body, inner, plain = (
            graph_of(2),
            graph_of(1),
            graph_of(2),
            graph_of(2),
            graph_of(2),
            graph_of(3),
        )
        outer.operators = [once(1), loop(2, 3)]
        body.operators = [loop(2, 4)]
        plain.operators = [once(1)]
        model = model_of(
            outer, initial, condition, body, inner, plain, signatures=(0, 5)
        )
        rewrite.callees_first(model)
        self.assertEqual(
            [id(graph) for graph in model.subgraphs],
            [id(g) for g in (plain, initial, condition, inner, body, outer)],
        )
        self.assertEqual([d.subgraphIndex for d in model.signatureDefs], [5, 0])
        self.assertEqual(
            [o.builtinOptions.initSubgraphIndex for o in plain.operators], [1]
        )
        self.assertEqual(outer.operators[0].builtinOptions.initSubgraphIndex, 1)
        for graph, place, run in ((outer, 1, (2, 4)), (body, 0, (2, 3))):
            options = graph.operators[place].builtinOptions
            self.assertEqual(
                (options.condSubgraphIndex, options.bodySubgraphIndex), run
            )

    def test_a_trainable_file_begins_with_a_signature_and_loops_precede_steps(self):
        file = tflite_file.parse(tiny_detector.with_adam(manifests.ANY))
        loops = [
            (graph.index, called)
            for graph in file.subgraphs
            for operator in graph.operators
            if operator.name == "WHILE"
            for called in operator.calls
        ]
        self.assertLen(loops, 4)  # Of `evaluate` and of `train`.
        for caller, called in loops:
            self.assertLess(called, caller)
        keys = {s.subgraph: s.key for s in file.signatures}
        self.assertEqual(keys[0], contract.INFER)


def kept(model: schema.ModelT, index: int) -> list[int]:
    tensors = model.subgraphs[index].tensors
    return [i for i, tensor in enumerate(tensors) if tensor.isVariable]


def marked(data: bytes) -> int:
    """How many tensors of a file are."""
    graphs = tflite_file.parse(data).subgraphs
    return sum(tensor.is_variable for graph in graphs for tensor in graph.tensors)


class KeepTest(parameterized.TestCase):
    def chain(self, count: int, shape: Sequence[int] = (1000, 1000)) -> schema.ModelT:
        """A loop: 1 to 3 are read at its end, `count` operators pass one on between."""
        body = graph_of(count + 8)
        for tensor in body.tensors:
            tensor.shape = shape
        body.operators = [relu([0], i) for i in (1, 2, 3)]
        body.operators += [relu([i], i + 1) for i in range(3, count + 3)]
        body.operators += [
            relu([count + 3, 1], count + 4),
            relu([count + 4, 2], count + 5),
            relu([count + 5, 3], count + 6),
            relu([count + 6], count + 7),
        ]
        outer = graph_of(2)
        outer.operators = [loop(1, 2)]
        model = model_of(outer, graph_of(2), body, signatures=(0,))
        resident.keep(model)
        return model

    def test_what_lasts_through_the_worst_operator_stays(self):
        model = self.chain(100)
        # 0 is given, 104 and the like are passed on at once.
        self.assertEqual(kept(model, 2), [1, 2, 3])
        self.assertEqual(kept(model, 0) + kept(model, 1), [])

    def test_not_what_is_read_soon(self):
        self.assertEqual(kept(self.chain(20), 2), [])

    def test_not_where_little_is_kept(self):
        self.assertEqual(kept(self.chain(100, (100, 1000)), 2), [])

    def test_a_file_is_made_so(self):
        with mock.patch.object(resident, "_LARGE", 0), tiny_detector.known():
            data, _ = fresh.make_trainable(
                tiny_detector.recipe(), tiny_detector.weights(3), {}
            )
        self.assertGreater(marked(data), 20)

    @parameterized.product(
        runtime=("ai_edge_litert", "tflite_runtime", "tensorflow"),
        target=manifests.TARGETS,
    )
    def test_steps_are_the_same(self, runtime, target):
        plain = tiny_detector.with_adam(target)
        with mock.patch.object(resident, "_LARGE", 0):
            edited = rewritten.edited(plain, resident.keep)
        found = []
        for data, some in ((plain, False), (edited, True)):
            self.assertEqual(marked(data) > 20, some)
            found.append(tiny_detector.three_steps(data, runtime, 1e-3))
        (losses, one), (others, two) = found
        self.assertEqual(losses, others)
        self.assertLess(losses[-1], losses[0])
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


if __name__ == "__main__":
    absltest.main()
