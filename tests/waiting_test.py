"""Tests of what a step waits for, by the metadata of its file."""

from __future__ import annotations

import collections

import numpy as np
from absl.testing import absltest, parameterized
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import rewrite, waiting
from signatures import contract
from tests import tiny_detector


def dependencies(data: bytes) -> list[list[tuple[int, int]]]:
    """Reads the metadata: varints, the places zigzag."""
    file = tflite_file.parse(data)
    content = iter(file.buffer_bytes(file.metadata[waiting.NAME]))

    def number() -> int:
        value, shift = 0, 0
        for byte in content:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        return value

    assert number() == 1
    found = [
        [(number() // 2, number() // 2) for _ in range(number())]
        for _ in range(number())
    ]
    assert not [*content]
    return found


def without(data: bytes) -> bytes:
    """The file, its operators where they are, without the dependencies."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.metadata = [m for m in model.metadata if m.name != waiting.NAME.encode()]
    return rewrite.pack(model)


def step_of(*operators: tuple[str, list[int], list[int]]) -> schema.ModelT:
    """A step from tensor 0, a number, to 1, the loss, and 2, the gradient's norm.

    Tensors 10 and more are variables' handles.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    definition = schema.SignatureDefT()
    kinds = vars(schema.TensorType)
    graph.tensors, graph.operators, model.operatorCodes = [], [], []
    for i in range(12):
        tensor = schema.TensorT()
        tensor.type = kinds["RESOURCE" if i >= 10 else "FLOAT32"]
        graph.tensors.append(tensor)
    for name, inputs, outputs in operators:
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = vars(schema.BuiltinOperator)[name]
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = inputs, outputs
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0], [1, 2]
    definition.outputs = []
    for name, place in (("loss", 1), (contract.GRADIENT_NORM, 2)):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name.encode(), place
        definition.outputs.append(entry)
    definition.subgraphIndex = 0
    model.subgraphs, model.signatureDefs, model.buffers = [graph], [definition], []
    return model


def names(model: schema.ModelT) -> list[str]:
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    codes = [o.opcodeIndex for o in model.subgraphs[0].operators]
    return [kinds[model.operatorCodes[code].builtinCode] for code in codes]


class EdgesTest(parameterized.TestCase):
    def test_a_slot_and_what_is_made_of_it_move_to_the_gradient(self):
        model = step_of(
            ("VAR_HANDLE", [], [10]),
            ("READ_VARIABLE", [10], [3]),
            ("EXP", [3], [4]),
            ("ABS", [0], [1]),
            ("NEG", [0], [5]),
            ("MUL", [4, 5], [2]),
            ("ASSIGN_VARIABLE", [10, 2], []),
        )
        waiting.add(model)
        self.assertEqual(
            names(model),
            ["VAR_HANDLE", "ABS", "NEG", "READ_VARIABLE", "EXP", "MUL"]
            + ["ASSIGN_VARIABLE"],
        )
        self.assertEqual(
            bytes(model.buffers[0].data),
            waiting.serialized([[(0, 3), (3, 6), (2, 3)]]),
        )

    def test_what_is_assigned_first_waits_for_no_gradient(self):
        model = step_of(
            ("VAR_HANDLE", [], [10]),
            ("READ_VARIABLE", [10], [3]),
            ("EXP", [3], [4]),
            ("ASSIGN_VARIABLE", [10, 4], []),
            ("ABS", [0], [1]),
            ("NEG", [0], [5]),
            ("MUL", [4, 5], [2]),
        )
        before = names(model)
        waiting.add(model)
        self.assertEqual(names(model), before)
        self.assertEqual(
            bytes(model.buffers[0].data), waiting.serialized([[(0, 1), (1, 3)]])
        )

    def test_content(self):
        self.assertEqual(
            waiting.serialized([[(0, 1), (3, 300)], []]),
            bytes([1, 2, 2, 0, 2, 6, 0xD8, 4, 0]),
        )

    @parameterized.parameters(*manifests.TARGETS)
    def test_what_comes_first_comes_first_in_the_file(self, target):
        data = tiny_detector.with_adam(target)
        file, found = tflite_file.parse(data), dependencies(data)
        self.assertLen(found, len(file.subgraphs))
        for graph, edges in zip(file.subgraphs, found):
            ready = set()
            makers = {t: i for i, o in enumerate(graph.operators) for t in o.outputs}
            for i, operator in enumerate(graph.operators):
                needed = {makers[t] for t in operator.inputs if t in makers}
                needed |= {first for first, waits in edges if waits == i}
                self.assertLessEqual(needed, ready)
                ready.add(i)

    @parameterized.parameters(*manifests.TARGETS)
    def test_slots_wait_and_weights_do_not(self, target):
        data = tiny_detector.with_adam(target)
        file = tflite_file.parse(data)
        manifest = manifests.of_file(file)
        (index,) = (s.subgraph for s in file.signatures if s.key == contract.TRAIN)
        names = [operator.name for operator in file.subgraphs[index].operators]
        reads = {i for i, name in enumerate(names) if name == "READ_VARIABLE"}
        waits = {
            i
            for first, i in dependencies(data)[index]
            if i in reads and names[first] != "VAR_HANDLE"
        }
        roles = collections.Counter(v.role for v in manifest.variables)
        self.assertLen(reads, len(manifest.variables))
        self.assertLen(waits, roles[manifests.SLOT])
        self.assertLess(max(reads - waits), min(waits))

    @parameterized.product(
        runtime=("ai_edge_litert", "tflite_runtime", "tensorflow"),
        target=manifests.TARGETS,
    )
    def test_steps_are_the_same_without(self, runtime, target):
        data = tiny_detector.with_adam(target)
        (losses, one), (others, two) = (
            tiny_detector.three_steps(model, runtime, 1e-4)
            for model in (data, without(data))
        )
        self.assertEqual(losses, others)
        self.assertLess(losses[-1], losses[0])
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        manifest = manifests.of_file(tflite_file.parse(data))
        (step,) = (v.name for v in manifest.variables if v.role == manifests.STEP)
        self.assertEqual(int(one[step].item()), 3)


if __name__ == "__main__":
    absltest.main()
