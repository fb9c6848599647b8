"""Tests of the command that lists and extracts weights, and of how they are named."""

from __future__ import annotations

import collections
import contextlib
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors

from checkpoints import tflite_file
from ondevice import extraction, weights
from ondevice.device import runtimes
from ondevice.rebuild import naming, specs
from tests import rewritten, shared_data, tflite_bytes, tiny_detector

TINY = tiny_detector.ALL


def _extracted(data, layout="keras", known=True):
    """(detector, name -> array, constants) of a file's bytes."""
    file = tflite_file.parse(data)
    with tiny_detector.known() if known else contextlib.nullcontext():
        detector, named = naming.name_all(file)
    found = extraction.extract(file, named, layout)
    assert not found.refused
    return detector, found.arrays, named


def _saved(tmp_path, data):
    path = tmp_path / "vendor.tflite"
    path.write_bytes(data)
    return str(path)


def _run(*arguments):
    command = [sys.executable, "-m", "ondevice.weights", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("name", TINY)
def test_a_known_detectors_weights_have_the_rebuilds_names_and_layout(name):
    data = tiny_detector.vendor_file(0, TINY[name])
    expected = tiny_detector.weights(spec=TINY[name])
    for content in (data, rewritten.shuffled(data)):
        detector, found, _ = _extracted(content)
        assert detector == name
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, key)
        rest = set(found) - set(expected)
        assert all(key.startswith("depthwise") and key.endswith("bias") for key in rest)
        assert not any(found[key].any() for key in rest)


@pytest.mark.parametrize("name", TINY)
def test_layers_of_an_unknown_network_are_numbered(name):
    data = tiny_detector.vendor_file(0, TINY[name])
    _, known, _ = _extracted(data)
    detector, found, named = _extracted(data, known=False)
    assert detector is None
    assert all(one.kind for one in named)
    assert "conv2d/kernel" in found and "conv2d_1/kernel" in found
    assert not any("classifier" in key for key in found)
    # The heads alone are called otherwise.
    same = {key for key in known if not key.startswith(("classifier", "regressor"))}
    for key in same - {key for key in same if key.startswith("conv2d_")}:
        np.testing.assert_array_equal(found[key], known[key], key)
    assert sorted(a.tobytes() for a in found.values()) == sorted(
        a.tobytes() for a in known.values()
    )


def test_a_bias_that_layers_share_is_there_for_each():
    data = shared_data.vendor("palm_detection_lite").read_bytes()
    _, found, named = _extracted(data, known=False)
    biases = [x for x in named if x.kind == "depthwise" and x.attribute == "bias"]
    assert len(biases) == 23 and len({one.tensor for one in biases}) == 4
    file = tflite_file.parse(data)
    kernels = {x.tensor for x in named if x.attribute == "kernel"}
    assert not kernels.intersection(one.tensor for one in biases)
    # What misleads: a bias that has a kernel's name, and is no kernel.
    called = {file.subgraphs[0].tensors[one.tensor].name for one in biases}
    assert any(name.endswith(("/depthwise", "/Conv2D")) for name in called)
    assert found["depthwise_conv2d_22/kernel"].shape == (5, 5, 128, 1)


@pytest.mark.parametrize("name", ["palm_tiny", "palm_tiny_hourglass"])
def test_one_altered_constant_is_the_one_that_differs(name, monkeypatch):
    # One is enough to be compared with.
    monkeypatch.setattr(specs, "PRESETS", {name: TINY[name]})
    data = tiny_detector.vendor_file(0, TINY[name])
    _, before, named = _extracted(data, known=False)
    readers = collections.defaultdict(list)
    for one in named:
        readers[one.tensor].append(one.name)
    file = tflite_file.parse(data)
    stored = [t for t in file.subgraphs[0].tensors if file.buffers[t.buffer].size]
    assert set(readers) == {t.index for t in stored if t.dtype == "FLOAT32"}
    for tensor, names in readers.items():

        def alter(model, tensor=tensor):
            buffer = model.buffers[model.subgraphs[0].tensors[tensor].buffer]
            buffer.data = np.array(buffer.data, np.uint8)
            buffer.data[1] ^= 1

        _, after, _ = _extracted(rewritten.edited(data, alter), known=False)
        differing = [k for k in before if before[k].tobytes() != after[k].tobytes()]
        # Layers without a bias may share a constant of zeros.
        assert sorted(differing) == sorted(names)


def _constant(kind, attribute, axes, multiplier=1):
    return naming.Constant("x", kind, attribute, axes, 0, 0, 0, multiplier)


@pytest.mark.parametrize(
    "kind, attribute, axes, keras, pytorch",
    [
        ("conv", "kernel", "OHWI", (3, 4, 5, 2), (2, 5, 3, 4)),
        ("transpose_conv", "kernel", "OHWI", (3, 4, 2, 5), (5, 2, 3, 4)),
        ("dense", "kernel", "OI", (3, 2), (2, 3)),
        ("prelu", "alpha", "HWC", (2, 3, 4), (4, 2, 3)),
        ("conv", "bias", "O", (2,), (2,)),
        ("", "", "", (2, 3), (2, 3)),
    ],
)
def test_layouts(kind, attribute, axes, keras, pytorch):
    shape = (2, 3, 4, 5)[: len(axes) or 2]
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    one = _constant(kind, attribute, axes)
    assert naming.arranged(value, one, "tflite").tobytes() == value.tobytes()
    for target, expected in (("keras", keras), ("pytorch", pytorch)):
        found = naming.arranged(value, one, target)
        assert found.shape == expected and found.flags.c_contiguous
        assert sorted(found.ravel()) == sorted(value.ravel())
        if value.ndim == 4:  # The last output of the first row and column, input 3.
            place = {"O": 1, "H": 0, "W": 0, "I": 3}
            lies = {
                ("conv", "keras"): "HWIO",
                ("conv", "pytorch"): "OIHW",
                ("transpose_conv", "keras"): "HWOI",
                ("transpose_conv", "pytorch"): "IOHW",
            }[kind, target]
            assert found[tuple(place[axis] for axis in lies)] == value[1, 0, 0, 3]


def test_depthwise_layouts():
    value = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    one = _constant("depthwise", "kernel", "1HWC")
    assert naming.arranged(value, one, "keras").shape == (2, 3, 4, 1)
    assert naming.arranged(value, one, "pytorch")[3, 0, 1, 2] == value[0, 1, 2, 3]
    # Two outputs for each of two channels: channel 1's second is the fourth.
    two = _constant("depthwise", "kernel", "1HWC", 2)
    found = naming.arranged(value, two, "keras")
    assert found.shape == (2, 3, 2, 2) and found[1, 2, 1, 1] == value[0, 1, 2, 3]


def test_slopes_of_channels_are_a_vector_in_pytorch():
    value = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    found = naming.arranged(value, _constant("prelu", "alpha", "HWC"), "pytorch")
    np.testing.assert_array_equal(found, [0, 1, 2, 3])


@pytest.fixture(scope="module")
def others():
    """A file with an embedding, a recurrent and a dense layer, and its Keras model."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,), batch_size=1, dtype="int32"),
            keras.layers.Embedding(5, 3, name="words"),
            keras.layers.LSTM(4, unroll=True, name="memory"),
            keras.layers.Dense(6, bias_initializer="normal", name="out"),
        ]
    )
    return tf.lite.TFLiteConverter.from_keras_model(model).convert(), model


def test_weights_of_networks_of_others_are_all_there(others):
    data, model = others
    detector, found, named = _extracted(data, known=False)
    assert detector is None
    stored = [array.T if array.ndim == 2 else array for array in found.values()]
    stored += list(found.values())
    for weight in model.weights:
        value = weight.numpy()
        assert any(
            value.shape == array.shape and np.array_equal(value, array)
            for array in stored
        ), weight.path
    out = model.get_layer("out").kernel.numpy()
    (layer,) = [k for k, a in found.items() if a.shape == out.shape]
    np.testing.assert_array_equal(found[layer], out)
    assert layer.startswith("dense") and layer.endswith("/kernel")
    # No rule knows what is looked up: it keeps the name it has in the file.
    (words,) = [one for one in named if found[one.name].shape == (5, 3)]
    tensor = tflite_file.parse(data).subgraphs[0].tensors[words.tensor]
    assert (words.kind, words.name) == ("", tensor.name)
    np.testing.assert_array_equal(
        found[words.name], model.get_layer("words").embeddings.numpy()
    )


def test_names_are_unique_whatever_the_file_calls_them():
    rows = [((2, 3), "FLOAT32", 1)] * 3
    data = rewritten.edited(
        tflite_bytes.model_bytes(rows),
        lambda model: [
            setattr(tensor, "name", name)
            for tensor, name in zip(
                model.subgraphs[0].tensors,
                (b"__metadata__", b"__metadata__", b"a\x1b[31m\0b"),
                strict=True,
            )
        ],
    )
    _, named = naming.name_all(tflite_file.parse(data))
    assert [one.name for one in named] == [
        "__metadata__#0",
        "__metadata__#1",
        "a?[31m?b",
    ]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_what_is_written_is_what_is_listed(tmp_path, ending):
    path = _saved(tmp_path, tiny_detector.vendor_file())
    output = str(tmp_path / f"w.{ending}")
    done = _run(path, f"--output={output}", "--layout=pytorch")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout.splitlines()[-1])
    _, expected, _ = _extracted(
        tiny_detector.vendor_file(), layout="pytorch", known=False
    )
    if ending == "npz":
        with np.load(output, allow_pickle=False) as stored:
            found = dict(stored)
    else:
        found = safetensors.load_file(output)
    assert set(found) == set(expected) == {c["name"] for c in listed["constants"]}
    for constant in listed["constants"]:
        array = found[constant["name"]]
        np.testing.assert_array_equal(array, expected[constant["name"]])
        assert list(array.shape) == constant["shape"]
        assert constant["largest"] == pytest.approx(abs(array).max())
    assert listed["numbers"] == sum(array.size for array in found.values())
    assert "p_re_lu/alpha" in done.stderr and "[4]" in done.stderr


@pytest.mark.parametrize("runtime", runtimes.installed()[:2])
@pytest.mark.parametrize(
    "name",
    ["face_detection_short_range", "palm_detection_builtin_256_integer_quant", None],
)
def test_an_interpreter_has_the_same_bits(tmp_path, name, runtime):
    if name:
        path = str(shared_data.shared("models", f"{name}.tflite"))
    else:
        path = _saved(tmp_path, tiny_detector.vendor_file())
    output = [str(tmp_path / f"{via}.safetensors") for via in ("one", "two")]
    parsed = weights.weights(path, output[0])
    found = weights.weights(path, output[1], via="interpreter", runtime=runtime)
    assert parsed["constants"] == found["constants"] and parsed["numbers"] > 3_000
    one, two = (open(each, "rb").read() for each in output)
    assert one == two


def test_an_interpreter_has_the_same_bits_of_sparse_weights():
    path = str(shared_data.vendor("face_detection_full_range_sparse"))
    parsed = weights.weights(path)
    found = weights.weights(path, via="interpreter", runtime="ai_edge_litert")
    assert parsed["constants"] == found["constants"] and len(found["constants"]) == 182


def test_an_interpreter_fails_on_the_custom_operator(tmp_path):
    spec = tiny_detector.HOURGLASS
    data = rewritten.with_custom_operator(tiny_detector.vendor_file(0, spec))
    path, output = _saved(tmp_path, data), tmp_path / "w.npz"
    done = _run(path, "--via=interpreter", f"--output={output}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and not output.exists()
    assert "must be able to run the file" in done.stderr
    assert rewritten.CUSTOM in done.stderr
    # The parser reads the same file, and so the weights.
    expected = tiny_detector.weights(spec=spec)
    _, found, _ = _extracted(data)
    np.testing.assert_array_equal(
        found["conv2d_transpose/kernel"], expected["conv2d_transpose/kernel"]
    )


def test_what_cannot_be_decoded_is_told_and_the_rest_is_read(tmp_path):
    rows = (((2, 3), "FLOAT32", 1), ((7,), "FLOAT32", 1))
    path = _saved(tmp_path, tflite_bytes.model_bytes(rows))
    done = _run(path)
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert [constant["name"] for constant in found["constants"]] == ["t0"]
    assert "must have 28 bytes" in found["refused"]["t1"]


def test_few_bytes_make_no_large_arrays():
    row = ((2**26,), "FLOAT32", 1)
    file = tflite_file.parse(tflite_bytes.model_bytes([row]))
    _, named = naming.name_all(file)
    with pytest.raises(tflite_file.TfliteError, match="must not take more than"):
        extraction.extract(file, named)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "one argument"),
        (("no.tflite",), "must exist"),
        (("FILE", "--output=w.txt"), "safetensors or .npz"),
        (("FILE", "--output=FILE"), "another file than"),
        (("FILE", "--runtime=auto"), "with --via=interpreter"),
        (("FILE", "--layout=onnx"), "layout"),
    ],
)
def test_mistakes_of_the_command_line(tmp_path, arguments, message):
    path = _saved(tmp_path, tflite_bytes.model_bytes())
    done = _run(*(argument.replace("FILE", path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("error: ")


def test_a_file_that_is_none_is_one_line(tmp_path):
    done = _run(_saved(tmp_path, b"text" * 99))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_no_hostile_file_gives_another_error():
    spec = tiny_detector.HOURGLASS
    data = rewritten.with_custom_operator(tiny_detector.vendor_file(0, spec))
    generator, read = random.Random(0), 0
    # One detector is enough to be compared with.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(specs, "PRESETS", {spec.name: spec})
        for _ in range(300):
            mutated = bytearray(data)
            for _ in range(generator.choice((1, 3, 8))):
                at = generator.randrange(len(data))
                mutated[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF))
            try:
                file = tflite_file.parse(bytes(mutated))
                _, named = naming.name_all(file)
                found = extraction.extract(file, named, "pytorch")
            except tflite_file.TfliteError:
                continue
            read += len(found.arrays) > 0
    assert 0 < read < 300
