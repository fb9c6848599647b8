"""Tests of patching, against what an interpreter makes of the patched file."""

from __future__ import annotations

import dataclasses
import functools
import random
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest, patch, tflite_file
from ondevice.device import runtimes
from tests import manifest_test, tflite_bytes, tiny
from tests.soak import limits


def other_state() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    state = {
        v.name: generator.standard_normal(v.shape).astype(v.dtype)
        for v in tiny.VARIABLES
    }
    return state | {"step": np.array(9, np.int32)}


def saved_by(data: bytes) -> dict[str, np.ndarray]:
    """Returns the variables that a fresh interpreter starts with."""
    runner = runtimes.create(data).get_signature_runner("save")
    found = runner(format_version=np.array(1, np.int32))
    del found["format_version"]
    return found


class VariableBuffersTest(absltest.TestCase):
    def test_finds_the_initial_values(self):
        file = tflite_file.parse(tiny.trainable())
        buffers = patch.variable_buffers(file)
        self.assertEqual(set(buffers), {v.name for v in tiny.VARIABLES})
        kernel = np.frombuffer(file.buffer_bytes(buffers["head/kernel"]), "<f4")
        np.testing.assert_array_equal(kernel.reshape(2, 6), tiny.KERNEL)

    def test_shows_what_the_converter_shares(self):
        buffers = patch.variable_buffers(tflite_file.parse(tiny.shared()))
        self.assertEqual(buffers["head/kernel/m"], buffers["head/kernel/v"])

    def test_none_in_a_frozen_file(self):
        file = tflite_file.parse(tiny.inference()[0])
        self.assertEqual(patch.variable_buffers(file), {})

    def test_refuses_a_variable_without_a_constant(self):
        file = tflite_file.parse(tiny.trainable())
        buffers = list(file.buffers)
        of_step = patch.variable_buffers(file)["step"]
        buffers[of_step] = tflite_file.BufferRange(0, 0)
        file = dataclasses.replace(file, buffers=tuple(buffers))
        with self.assertRaisesRegex(patch.PatchError, "no constant for 'step'"):
            patch.variable_buffers(file)

    def test_a_long_name_before_many_faults_takes_little(self):
        file = tflite_file.parse(tiny.trainable())
        graph = file.subgraphs[-1]
        assign = next(op for op in graph.operators if op.name == "ASSIGN_VARIABLE")
        operators = tuple(
            dataclasses.replace(op, options={"shared_name": "a" * 100_000})
            for op in graph.operators
            if op.name == "VAR_HANDLE"
        ) + (assign,) * 20_000
        empty = (tflite_file.BufferRange(0, 0),) * len(file.buffers)
        graph = dataclasses.replace(graph, operators=operators)
        file = dataclasses.replace(
            file, subgraphs=(*file.subgraphs[:-1], graph), buffers=empty
        )
        read = functools.partial(patch.variable_buffers, file)
        self.assertFalse(limits.held(read, 2**20))

    def test_a_mutated_file_only_errs(self):
        data = tiny.trainable()
        generator = random.Random(2)
        parsed = 0
        for _ in range(150):
            mutated = bytearray(data)
            for _ in range(generator.choice((1, 4))):
                at = generator.randrange(len(data))
                mutated[at] = generator.choice((0, 1, 2, 0xFF, mutated[at] ^ 16))
            try:
                file = tflite_file.parse(bytes(mutated))
                parsed += 1
                manifest.of_file(file)
                patch.variable_buffers(file)
                patch.patch(file, {205: np.ones(6, np.float32)})
            except (tflite_file.TfliteError, manifest.ManifestError, patch.PatchError):
                pass
        self.assertGreater(parsed, 10)

    def test_refuses_an_assignment_without_a_value(self):
        file = tflite_file.parse(tiny.trainable())
        graph = file.subgraphs[-1]
        for inputs in ((), graph.operators[1].inputs[:1], (-1, -1)):
            cut = dataclasses.replace(graph.operators[1], inputs=inputs)
            self.assertEqual(cut.name, "ASSIGN_VARIABLE")
            operators = (graph.operators[0], cut, *graph.operators[2:])
            broken = dataclasses.replace(
                file,
                subgraphs=(
                    *file.subgraphs[:-1],
                    dataclasses.replace(graph, operators=operators),
                ),
            )
            with self.assertRaisesRegex(patch.PatchError, "no VAR_HANDLE with"):
                patch.variable_buffers(broken)


class PatchTrainableTest(parameterized.TestCase):
    def test_an_interpreter_starts_from_the_new_weights(self):
        data, state = tiny.trainable(), other_state()
        described = manifest.of_file(tflite_file.parse(data))
        before = saved_by(data)
        after = saved_by(patch.patch_trainable(data, described, state))
        self.assertEqual(set(after), set(state))
        for name, value in state.items():
            np.testing.assert_array_equal(after[name], value, err_msg=name)
            self.assertTrue((before[name] != value).any(), name)

    def test_nothing_but_the_buffers_differs(self):
        data = tiny.trainable()
        file = tflite_file.parse(data)
        described = manifest.of_file(file)
        patched = patch.patch_trainable(data, described, other_state())
        self.assertLen(patched, len(data))
        allowed = np.zeros(len(data), bool)
        for variable in described.variables:
            span = file.buffers[variable.buffer]
            allowed[span.offset : span.offset + span.size] = True
        differ = np.frombuffer(data, np.uint8) != np.frombuffer(patched, np.uint8)
        self.assertTrue(differ.any())
        self.assertFalse((differ & ~allowed).any())
        back = patch.patch_trainable(patched, described, saved_by(data))
        self.assertEqual(back, data)

    def test_missing_and_surplus_tensors(self):
        data, state = tiny.trainable(), other_state()
        del state["step"]
        described = manifest.of_file(tflite_file.parse(data))
        with self.assertRaisesRegex(
            patch.PatchError, r"missing \['step'\], surplus \['other'\]"
        ):
            patch.patch_trainable(data, described, state | {"other": np.zeros(1)})

    def test_manifest_that_names_other_buffers(self):
        data = tiny.trainable()
        described = manifest.of_file(tflite_file.parse(data))
        wrong = dataclasses.replace(described.variables[0], buffer=3)
        described = dataclasses.replace(
            described, variables=(wrong, *described.variables[1:])
        )
        with self.assertRaisesRegex(patch.PatchError, r"\['head/bias'\]"):
            patch.patch_trainable(data, described, other_state())


def _weights(state):
    """The state without slots and step."""
    return {name: value for name, value in state.items() if name.count("/") == 1}


class PatchInferenceTest(absltest.TestCase):
    def _infer(self, data: bytes) -> np.ndarray:
        interpreter = runtimes.create(data)
        entry, out = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(entry[0]["index"], np.array([[2, -3]], np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(out[0]["index"])

    def test_permuted_weights(self):
        data, described = tiny.inference()
        state = _weights(other_state())
        before = self._infer(data)
        after = self._infer(patch.patch_inference(data, described, state))
        expected = [[2, -3]] @ state["head/kernel"] + state["head/bias"]
        # One product of two terms: two roundings at most.
        np.testing.assert_allclose(after, expected, rtol=1e-6, atol=1e-6)
        self.assertGreater(np.abs(before - after).max(), 0.1)

    def test_weights_that_are_not_given_stay(self):
        data, described = tiny.inference()
        state = _weights(other_state())
        whole = patch.patch_inference(data, described, state)
        for name in state:
            data = patch.patch_inference(data, described, {name: state[name]})
        self.assertEqual(data, whole)

    def test_weights_that_the_file_has_not(self):
        data, described = tiny.inference()
        with self.assertRaisesRegex(patch.PatchError, "'head/bias/m', no weight"):
            patch.patch_inference(data, described, other_state())

    def test_a_fold_of_no_constant(self):
        data, described = tiny.inference()
        kernel = ["weight", "head/kernel", list(tiny.KERNEL.shape)]
        other = dataclasses.replace(described, folds={"nowhere": kernel})
        with self.assertRaisesRegex(patch.PatchError, "fold of 'nowhere', no constant"):
            patch.patch_inference(data, other, {"head/kernel": tiny.KERNEL})

    def test_shape_that_does_not_turn(self):
        data, described = tiny.inference()
        state = {"head/kernel": np.zeros((3, 5), np.float32)}
        with self.assertRaisesRegex(patch.PatchError, r"\(3, 5\) for \(6, 2\)"):
            patch.patch_inference(data, described, state)


class WeightsOfTest(absltest.TestCase):
    def test_constants_and_what_others_are_made_of(self):
        fold = ["Mul", ["weight", "a", [2]], ["Neg", ["weight", "b", [2]]]]
        constants = tuple(
            manifest.ConstantSpec(name, buffer, (2,), (0,))
            for buffer, name in enumerate(("c", "folded"))
        )
        made = manifest_test.example(constants=constants, folds={"folded": fold})
        self.assertEqual(patch.weights_of(made), {"a", "b", "c"})
        broken = dataclasses.replace(made, folds={"folded": ["Mul"]})
        with self.assertRaises(patch.PatchError):
            patch.weights_of(broken)


class RefusalTest(parameterized.TestCase):
    def test_variables_that_share_a_constant(self):
        file = tflite_file.parse(tiny.shared())
        buffer = patch.variable_buffers(file)["head/kernel/m"]
        with self.assertRaisesRegex(
            patch.PatchError,
            r"shared by variables \['head/kernel/m', 'head/kernel/v'\]",
        ):
            patch.patch(file, {buffer: np.ones((2, 6), np.float32)})

    def test_constants_that_share_a_buffer(self):
        data = tflite_bytes.model_bytes((((2, 3), "FLOAT32", 1),) * 2)
        with self.assertRaisesRegex(patch.PatchError, r"tensors \['t0', 't1'\]"):
            patch.patch(data, {1: np.ones((2, 3), np.float32)})

    def test_buffers_that_overlap(self):
        data = tflite_bytes.model_bytes(buffers=(b"", bytes(24), bytes(24)))
        file = tflite_file.parse(data)
        first = file.buffers[1]
        moved = tflite_file.BufferRange(first.offset + 4, 24)
        file = dataclasses.replace(file, buffers=(*file.buffers[:2], moved))
        with self.assertRaisesRegex(patch.PatchError, "1 and 2, which overlap"):
            patch.patch(file, {1: np.ones((2, 3), np.float32)})

    def test_metadata(self):
        file = tflite_file.parse(tflite_bytes.model_bytes())
        file = dataclasses.replace(file, metadata={"x": 1})
        with self.assertRaisesRegex(patch.PatchError, "buffer 1, which is metadata"):
            patch.patch(file, {1: np.ones((2, 3), np.float32)})

    def test_metadata_is_looked_through_once(self):
        file = tflite_file.parse(tiny.trainable())
        found = mock.MagicMock(wraps=file.metadata)
        found.get.side_effect = file.metadata.get
        values = {
            buffer: np.frombuffer(file.buffer_bytes(buffer), "<f4")
            for buffer in patch.variable_buffers(file).values()
        }
        with self.assertRaises(patch.PatchError):  # Their shapes are others.
            patch.patch(dataclasses.replace(file, metadata=found), values)
        self.assertEqual(found.values.call_count, 1)

    def test_variables_of_long_names(self):
        file = tflite_file.parse(tiny.shared())
        names = {"a" * 9_000: "head/kernel/m", "b" * 9_000: "head/kernel/v"}
        buffers = patch.variable_buffers(file)
        renamed = {long: buffers[name] for long, name in names.items()}
        (buffer,) = set(renamed.values())
        with mock.patch.object(patch, "variable_buffers", return_value=renamed):
            with self.assertRaisesRegex(patch.PatchError, "'a{80}', 'b{80}'"):
                patch.patch(file, {buffer: np.zeros((2, 6), np.float32)})

    def test_every_fault_is_named_at_once(self):
        data = tflite_bytes.model_bytes(
            tuple(((2, 3), "FLOAT32", i) for i in range(1, 5)),
            (b"",) + (bytes(24),) * 4,
        )
        values = {
            0: np.zeros((2, 3), np.float32),
            1: np.zeros((2, 2), np.float32),
            2: np.zeros((2, 3), np.int32),
            3: np.full((2, 3), np.nan, np.float32),
            99: np.zeros((2, 3), np.float32),
        }
        with self.assertRaises(patch.PatchError) as caught:
            patch.patch(data, values)
        for words in (
            "buffer 0, which is unknown or empty",
            "float32 (2, 2) of 16 bytes for buffer 1",
            "int32 (2, 3) of 24 bytes for buffer 2",
            "not finite for buffer 3",
            "buffer 99, which is unknown or empty",
        ):
            self.assertIn(words, str(caught.exception))

    def test_big_endian_values_are_turned(self):
        data = tflite_bytes.model_bytes()
        values = {1: np.arange(6, 12, dtype=">f4").reshape(2, 3)}
        patched = tflite_file.parse(patch.patch(data, values))
        np.testing.assert_array_equal(patched.constant(0, 0), values[1])

    def test_malformed_file(self):
        with self.assertRaises(tflite_file.TfliteError):
            patch.patch(b"text", {})


if __name__ == "__main__":
    absltest.main()
