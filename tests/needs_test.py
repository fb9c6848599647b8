"""Tests of what memory a file is said to need."""

from __future__ import annotations

import dataclasses

import tflite
from absl.testing import absltest

from checkpoints import tflite_file
from ondevice.device import needs
from tests import tiny, tiny_builds
from tests.tflite_bytes import model_bytes

RELU = ((tflite.BuiltinOperator.RELU, None),)


def chain(*operators) -> tflite_file.TfliteFile:
    """Tensors of 1, 3, 2 and 1 thousand floats, and a constant; 0 goes in, 3 out."""
    sizes = (1000, 3000, 2000, 1000)
    tensors = [((size,), "FLOAT32", 0) for size in sizes]
    data = model_bytes(
        tensors=[*tensors, ((6,), "FLOAT32", 1)], operators=operators, codes=RELU
    )
    return tflite_file.parse(data)


def at_once(file: tflite_file.TfliteFile) -> int:
    (found,) = needs.of_file(file).signatures.values()
    return found


class AtOnceTest(absltest.TestCase):
    def test_a_tensor_lives_from_its_maker_to_its_last_reader(self):
        # At the second operator 1, 2, and what went in; a constant takes nothing.
        file = chain((0, [0, 4], [1]), (0, [1], [2]), (0, [2], [3]))
        self.assertEqual(at_once(file), 4032 + 12032 + 8000)

    def test_one_that_is_read_later_lives_on(self):
        file = chain((0, [0], [1]), (0, [1], [2]), (0, [1, 2], [3]))
        self.assertEqual(at_once(file), 4032 + 12032 + 8000 + 4032)

    def test_a_variable_is_there_throughout(self):
        file = chain((0, [0], [1]), (0, [1], [2]), (0, [2], [3]))
        (graph,) = file.subgraphs
        tensors = [
            dataclasses.replace(t, is_variable=t.index == 3) for t in graph.tensors
        ]
        kept = dataclasses.replace(graph, tensors=tuple(tensors))
        found = at_once(dataclasses.replace(file, subgraphs=(kept,)))
        self.assertEqual(at_once(file), 4032 + 12032 + 8000)
        self.assertEqual(found, at_once(file) + 4032)

    def test_training_needs_more_than_inference(self):
        found = needs.of_file(tflite_file.parse(tiny_builds.whole().model))
        self.assertGreater(found.signatures["train"], 2 * found.signatures["infer"])
        # Saving hands every variable over.
        self.assertGreaterEqual(found.signatures["save"], found.variables)

    def test_what_a_while_calls_counts_where_it_is_called(self):
        # The tiny detector's step is a WHILE over the samples, and holds most there.
        file = tflite_file.parse(tiny_builds.whole().model)
        (train,) = [s for s in file.signatures if s.key == "train"]
        operators = file.subgraphs[train.subgraph].operators
        (called,) = [o.calls for o in operators if o.name == "WHILE"]
        alone = dataclasses.replace(
            file,
            subgraphs=tuple(
                dataclasses.replace(g, operators=()) if g.index != train.subgraph else g
                for g in file.subgraphs
            ),
        )

        def at_once(of, index):
            moved = dataclasses.replace(train, subgraph=index)
            return needs.of_file(dataclasses.replace(of, signatures=(moved,)))

        whole, passed = (
            [at_once(of, i).signatures["train"] for i in (train.subgraph, *called)]
            for of in (file, alone)
        )
        # Without operators a graph holds what is passed to it and back.
        inside = sum(whole[1:]) - sum(passed[1:])
        self.assertGreater(inside, sum(passed[1:]) / 2)
        self.assertEqual(whole[0] - passed[0], inside)

    def test_an_inference_file_has_no_variables(self):
        found = needs.of_file(tflite_file.parse(tiny_builds.whole().inference))
        self.assertGreater(min(found.signatures.values()), 0)
        self.assertEqual(found.variables, 0)

    def test_told(self):
        described = {"file": 2e6, "variables": 0, "signatures": {"a": 1e6, "b": 3e6}}
        self.assertEqual(
            needs.told(described), "b 3.0 MB, a 1.0 MB, variables 0.0 MB, file 2.0 MB"
        )
        described["signatures"] = {"": 1e6}
        self.assertStartsWith(needs.told(described), "a call 1.0 MB")

    def test_variables_that_constants_do_not_initialise_are_not_counted(self):
        self.assertGreater(needs.of_file(tflite_file.parse(tiny.shared())).variables, 0)


if __name__ == "__main__":
    absltest.main()
