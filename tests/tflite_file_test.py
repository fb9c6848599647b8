"""Tests of the .tflite reader: what it reads, and that a hostile file only errs."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc

import numpy as np
import pytest
import tflite
from absl.testing import absltest, parameterized

from checkpoints import (
    allowance,
    constants,
    flatbuffer,
    operator_options,
    tflite_file,
)
from tests import shared_data
from tests.tflite_bytes import PLAIN, SPARSE, model_bytes

MODELS = (
    "face_detection_back",
    "face_detection_front",
    "face_detection_full_range",
    "face_detection_short_range",
    "palm_detection_128",
    "palm_detection_builtin_256_integer_quant",
)


class ReadTest(parameterized.TestCase):
    @parameterized.parameters(*MODELS)
    def test_equals_the_generated_accessors(self, name):
        path = shared_data.shared("models", f"{name}.tflite")
        file = tflite_file.read(path)
        model = tflite.Model.GetRootAs(path.read_bytes())
        self.assertEqual(file.description, model.Description().decode())
        self.assertLen(file.subgraphs, model.SubgraphsLength())
        graph, raw = file.subgraphs[0], model.Subgraphs(0)
        self.assertEqual(graph.inputs, tuple(raw.InputsAsNumpy()))
        self.assertEqual(graph.outputs, tuple(raw.OutputsAsNumpy()))
        self.assertLen(graph.tensors, raw.TensorsLength())
        for tensor in graph.tensors:
            there = raw.Tensors(tensor.index)
            self.assertEqual(tensor.name, there.Name().decode())
            self.assertEqual(tensor.shape, tuple(np.ravel(there.ShapeAsNumpy())))
            self.assertEqual(getattr(tflite.TensorType, tensor.dtype), there.Type())
            self.assertEqual(tensor.buffer, there.Buffer())
            stored = model.Buffers(tensor.buffer).DataAsNumpy()
            value = file.constant(0, tensor.index)
            if isinstance(stored, int):
                self.assertIsNone(value)
            else:
                self.assertEqual(value.tobytes(), stored.tobytes())
                self.assertEqual(value.shape, tensor.shape)
            scale = there.Quantization().ScaleAsNumpy() if there.Quantization() else 0
            if isinstance(scale, int):
                self.assertIsNone(tensor.quantization)
            else:
                self.assertEqual(tensor.quantization.scale, tuple(scale.tolist()))
        self.assertLen(graph.operators, raw.OperatorsLength())
        for operator in graph.operators:
            there = raw.Operators(operator.index)
            code = model.OperatorCodes(there.OpcodeIndex())
            code = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            self.assertEqual(getattr(tflite.BuiltinOperator, operator.name), code)
            self.assertEqual(operator.inputs, tuple(there.InputsAsNumpy()))
            self.assertEqual(operator.outputs, tuple(there.OutputsAsNumpy()))
            if operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
                options = getattr(
                    tflite, operator_options.class_name(there.BuiltinOptionsType())
                )()
                table = there.BuiltinOptions()
                options.Init(table.Bytes, table.Pos)
                self.assertEqual(operator.options["stride_h"], options.StrideH())
                self.assertEqual(operator.options["padding"], options.Padding())

    def test_float16_stays_float16(self):
        file = tflite_file.read(
            shared_data.shared("models", "face_detection_short_range.tflite")
        )
        tensors = file.subgraphs[0].tensors
        kinds = {
            value.dtype
            for value in (file.constant(0, tensor.index) for tensor in tensors)
            if value is not None
        }
        self.assertIn(np.dtype(np.float16), kinds)

    def test_enumerations_have_names_and_equal_numbers(self):
        path = shared_data.shared("models", "palm_detection_128.tflite")
        file = tflite_file.read(path)
        first = file.subgraphs[0].operators[0]
        self.assertEqual(first.options["padding"], tflite.Padding.SAME)
        self.assertEqual(first.options["padding"].name, "SAME")

    def test_small_file(self):
        file = tflite_file.parse(
            model_bytes(
                tensors=(((2, 3), "FLOAT32", 1), ((), "RESOURCE", 0)),
                operators=((0, (0, -1), (0,)), (1, (0,), (0,)), (2, (0,), (0,))),
                codes=((142, None), (32, "FlexSave"), (32, "Mine")),
                signature=True,
            )
        )
        expected = [[0, 1, 2], [3, 4, 5]]
        np.testing.assert_array_equal(file.constant(0, 0), expected)
        self.assertIsNone(file.constant(0, 1))
        self.assertEqual(file.subgraphs[0].tensors[1].dtype, "RESOURCE")
        self.assertEqual(file.census(), {"FlexSave": 1, "Mine": 1, "VAR_HANDLE": 1})
        self.assertEqual((file.flex(), file.custom()), (("FlexSave",), ("Mine",)))
        self.assertEqual(file.subgraphs[0].operators[0].inputs, (0, -1))
        self.assertEqual(file.signatures[0].key, "run")
        self.assertEqual(dict(file.signatures[0].inputs), {"x": 0})

    def test_strings(self):
        stored = struct.pack("<iiii", 2, 16, 18, 21) + b"abcde"
        file = tflite_file.parse(model_bytes((((2,), "STRING", 1),), (b"", stored)))
        self.assertEqual(file.constant(0, 0).tolist(), [b"ab", b"cde"])

    def test_constant_is_read_only(self):
        value = tflite_file.parse(model_bytes()).constant(0, 0)
        self.assertFalse(value.flags.writeable)


class RefusalTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("empty", b"", "identifier"),
        ("text", b"Hello, this is a text file.\n" * 9, "identifier"),
        ("identifier_alone", b"\0\0\0\0TFL3", "vtable"),
        ("root_outside", b"\xff\xff\xff\x7fTFL3" + bytes(64), "inside the file"),
        ("missing_buffer", model_bytes((((2,), "FLOAT32", 7),)), "buffer must be"),
        ("negative_side", model_bytes((((-2, 3), "FLOAT32", 1),)), r"shape \(-2, 3\)"),
        ("huge_shape", model_bytes((((2**30,) * 4, "FLOAT32", 1),)), "elements"),
        ("rank", model_bytes((((1,) * 17, "FLOAT32", 1),)), "rank of at most"),
        ("no_code", model_bytes(operators=((0, (0,), (0,)),)), "operator code"),
        (
            "operand",
            model_bytes(operators=((0, (9,), (0,)),), codes=((0, None),)),
            r"in \[-1, 1\). Received: \[9\]; in operator 0 of subgraph 0",
        ),
        ("no_subgraph", model_bytes(subgraphs=0), "must have a subgraph"),
    )
    def test_malformed(self, data, message):
        with self.assertRaisesRegex(tflite_file.TfliteError, message):
            tflite_file.parse(data)

    @parameterized.named_parameters(
        ("size", model_bytes((((2, 2), "FLOAT32", 1),)), "16 bytes. Received: 24"),
        ("dtype", model_bytes((((2, 3), "RESOURCE", 1),)), "Received: RESOURCE"),
        ("string_count", model_bytes((((2,), "STRING", 1),)), "that many strings"),
        (
            "string_offsets",
            model_bytes(
                (((1,), "STRING", 1),), (b"", struct.pack("<iii", 1, 12, 999))
            ),
            "offsets must rise",
        ),
    )
    def test_constant_that_does_not_fit(self, data, message):
        file = tflite_file.parse(data)
        with self.assertRaisesRegex(tflite_file.TfliteError, message):
            file.constant(0, 0)

    def test_read_names_the_file(self):
        path = self.create_tempfile("x.tflite", "text").full_path
        with self.assertRaisesRegex(tflite_file.TfliteError, "x.tflite: .*identifier"):
            tflite_file.read(path)

    @parameterized.named_parameters(
        ("tensors", 100_000, 1), ("subgraphs_of_tensors", 4_000, 4_000)
    )
    def test_shared_tables_do_not_multiply(self, tensors, subgraphs):
        data = model_bytes(
            (((2, 3), "FLOAT32", 1),) * tensors, subgraphs=subgraphs, shared=True
        )
        plain = model_bytes((((2, 3), "FLOAT32", 1),) * 3_000)
        tracemalloc.start()
        started = time.process_time()
        tflite_file.parse(plain)
        tracemalloc.reset_peak()
        between = time.process_time()
        with self.assertRaisesRegex(tflite_file.TfliteError, "bytes of memory"):
            tflite_file.parse(data)
        ended = time.process_time()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Nine times as long; were tables multiplied, some thousands.
        self.assertLess(ended - between, 100 * (between - started))
        self.assertLess(peak, allowance.of(len(data)))


@pytest.mark.no_cover  # Measured, it takes twice as long.
class FuzzTest(parameterized.TestCase):
    """3,400 mutations in all; each parses, or raises TfliteError, in little memory."""

    def _survives(self, data: bytes) -> bool:
        try:
            file = tflite_file.parse(data)
        except tflite_file.TfliteError:
            return False
        for graph in file.subgraphs:
            for tensor in graph.tensors:
                try:
                    file.constant(graph.index, tensor.index)
                except tflite_file.TfliteError:
                    pass
                try:
                    constants.decoded(file, graph.index, tensor.index)
                except tflite_file.TfliteError:
                    pass
        return True

    @parameterized.named_parameters(
        ("vendor", "face_detection_short_range", 400),
        ("small", None, 1_500),
        ("sparse", "", 1_500),
    )
    def test_flips(self, name, rounds):
        if name:
            data = shared_data.shared("models", f"{name}.tflite").read_bytes()
        else:
            data = model_bytes(
                tensors=SPARSE if name == "" else PLAIN,
                operators=((0, (0,), (0,)),) * 3,
                codes=((142, None),),
                signature=True,
            )
        model = tflite_file.parse(data)
        weights = sum(span.size for span in model.buffers)
        self.assertTrue(self._survives(data))
        generator = random.Random(1)
        parsed = 0
        for i in range(rounds):
            if i == rounds - 100:  # Watching memory makes all of it slow.
                tracemalloc.start()
            mutated = bytearray(data)
            for _ in range(generator.choice((1, 2, 8))):
                # The tail holds the tables (and the small file holds little else).
                first = 0 if generator.random() < 0.2 else weights * len(data) // (
                    weights + len(data)
                )
                at = generator.randrange(first, len(data))
                byte = generator.choice((0, 1, 0x7F, 0x80, 0xFF, mutated[at] ^ 4))
                mutated[at] = byte
            parsed += self._survives(bytes(mutated))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertBetween(parsed, 1, rounds - 1)  # Both ends were reached.
        self.assertLess(peak, allowance.of(len(data)))

    def test_truncations(self):
        data = model_bytes(signature=True)
        end = len(data.rstrip(b"\0"))  # What follows may be padding.
        for length in range(end):
            with self.subTest(length=length):
                with self.assertRaises(tflite_file.TfliteError):
                    tflite_file.parse(data[:length])


class ReaderTest(absltest.TestCase):
    def test_vtable_may_not_lie_before_the_file(self):
        data = struct.pack("<I4si", 8, b"TFL3", 400)
        with self.assertRaisesRegex(flatbuffer.FlatbufferError, "vtable of the model"):
            flatbuffer.Reader(data).root()


if __name__ == "__main__":
    absltest.main()
