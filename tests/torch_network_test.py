"""Tests of ondevice/rebuild/torch_network.py and state_dicts.py."""

import dataclasses
import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from checkpoints import manifest as manifests
from ondevice.rebuild import (
    network,
    state_dicts,
    topology,
    torch_names,
    torch_network,
    trunks,
)
from ondevice.verification import check, compare
from tests import tiny_detector


def _weights(layers):
    random = np.random.default_rng(0)
    return {
        name: (random.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5).astype("f4")
        for name, shape in topology.variables(layers).items()
    }


def _made(spec, layers, state):
    model = torch_network.build(spec, layers)
    model.load_state_dict(state)
    return model


def _parity(spec, layers, weights, state):
    """How far a module is from the Keras model, over the largest output."""
    keras_model = network.build(layers, "tiny")
    network.assign(keras_model, weights)
    image = np.random.default_rng(1).random((2, 32, 32, 3), np.float32)
    with torch.no_grad():
        model = _made(spec, layers, state)
        got = model(torch.from_numpy(image).permute(0, 3, 1, 2))
    expected = keras_model(image)
    return max(
        compare.parity(ours.numpy(), np.asarray(expected[name]))
        for name, ours in zip(("regressors", "scores"), got)
    )


@pytest.mark.parametrize(
    "spec, classes",
    [
        (tiny_detector.SPEC, 1),
        (tiny_detector.SPEC, 3),
        (tiny_detector.HOURGLASS, 1),
        (tiny_detector.FACES, 1),
        (tiny_detector.FACES, 3),
    ],
)
def test_the_module_is_the_keras_model(spec, classes):
    layers = topology.draw(spec, classes, manifests.PLAIN)
    weights = _weights(layers)
    state = state_dicts.of_weights(spec.name, layers, weights)
    assert _parity(spec, layers, weights, state) <= check.PARITY


# Of TensorFlow's SAME: with stride 2 and an even side 3x3 pads (0, 1), 5x5 (1, 2).
@pytest.mark.parametrize(
    "size, kernel, stride, expected",
    [
        (192, 3, 2, (0, 1)),
        (192, 5, 2, (1, 2)),
        (24, 3, 1, (1, 1)),
        (24, 5, 1, (2, 2)),
        (24, 1, 1, (0, 0)),
        (7, 3, 2, (1, 1)),
    ],
)
def test_padding_is_tensorflows(size, kernel, stride, expected):
    assert torch_network.same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("channels", [3, 5, 6, 8])
def test_channels_are_padded_behind(channels):
    layer = topology.Layer("p", "channel_pad", ("x",), (2, 2, channels), "encoder")
    x = torch.rand(1, 3, 2, 2)
    padded = torch_network._computed(layer, [x], (2, 2, 3))
    assert padded.shape == (1, channels, 2, 2)
    assert torch.equal(padded[:, :3], x) and not padded[:, 3:].any()


def test_a_class_head_that_was_replaced_gives_as_many_logits():
    model = torch_network.build(tiny_detector.SPEC)
    model.classifier_4 = torch.nn.Conv2d(6, 2 * 5, 1)
    model.classifier_8 = torch.nn.Conv2d(8, 6 * 5, 1)
    image = torch.rand(1, 3, 32, 32)
    regressors, classificators = model(image)
    anchors = tiny_detector.SPEC.anchors
    assert regressors.shape == (1, anchors, 18)
    assert classificators.shape == (1, anchors, 5)
    # Cell by cell, in it anchor by anchor, in it class by class.
    layers = topology.draw(tiny_detector.SPEC, 5, manifests.PLAIN)
    again = _made(tiny_detector.SPEC, layers, model.state_dict())
    torch.testing.assert_close(again(image)[1], classificators, rtol=0, atol=0)
    heads = {}
    model.classifier_4.register_forward_hook(lambda *call: heads.update(y=call[2]))
    found = model(image)[1]
    assert torch.equal(found[0, 1, :], heads["y"][0, 5:10, 0, 0])


def test_features_of_a_trunk_give_the_outputs_again():
    layers = topology.draw(tiny_detector.SPEC)
    features = trunks.trunk_features(
        layers, topology.trained_variables(layers, "blocks:1")
    )
    model = torch_network.build(tiny_detector.SPEC)
    image = torch.rand(2, 3, 32, 32)
    found = model.run({"image": image})
    again = model.run({name: found[name] for name in features})
    assert 0 < len(again) < len(found)
    for name in (topology.REGRESSORS, topology.SCORES):
        assert torch.equal(again[name], found[name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spec", [tiny_detector.SPEC, tiny_detector.FACES])
def test_a_traced_module_reckons_with_no_sizes(spec):
    model = torch_network.build(spec)
    traced = torch.jit.trace(model, torch.rand(1, 3, 32, 32))
    kinds = [node.kind() for node in traced.inlined_graph.nodes()]
    assert "aten::constant_pad_nd" in kinds or "aten::pad" in kinds
    # The batch alone is read, by each head.
    assert kinds.count("aten::size") == sum(
        layer.kind == "reshape" for layer in topology.draw(spec)
    )


class TestStateDict:
    spec = dataclasses.replace(tiny_detector.SPEC, name="published")
    layers = topology.draw(spec)

    @pytest.fixture(autouse=True)
    def _published(self, monkeypatch):
        """A network whose depthwise modules have biases, as those published."""
        blocks = {x.group: 0 for x in self.layers if x.group.startswith("block:")}
        published = torch_names.Published(
            "stem",
            tuple(f"body.{i}" for i in range(len(blocks))),
            (("class_8", "reg_8"), ("class_4", "reg_4")),
            ("up.0", "up.1"),
        )
        plain = dataclasses.replace(self.spec, activation="relu")
        monkeypatch.setattr(TestStateDict, "spec", plain)
        monkeypatch.setattr(TestStateDict, "layers", topology.draw(plain))
        monkeypatch.setattr(torch_names, "PUBLISHED", {plain.name: published})

    def _state(self):
        weights = _weights(self.layers)
        return weights, state_dicts.of_weights(self.spec.name, self.layers, weights)

    def _read(self, state):
        return state_dicts.to_weights(self.spec.name, self.layers, state)

    def test_every_number_comes_back_to_the_bit(self):
        weights, state = self._state()
        content = state_dicts.dump(state)
        again = self._read(state_dicts.load(content, "W.pth"))
        assert {n: v.tobytes() for n, v in again.items()} == {
            n: v.tobytes() for n, v in weights.items()
        }

    def test_depthwise_biases_are_zeros_of_which_nothing_is_left(self):
        _, state = self._state()
        assert not state["body.0.convs.0.bias"].any()
        assert state["body.0.convs.0.bias"].shape == (4,)

    def test_a_depthwise_bias_is_passed_on(self):
        _, state = self._state()
        for name in state:
            if name.endswith("convs.0.bias"):
                state[name] = torch.randn(state[name].shape)
        weights = self._read(state)
        assert _parity(self.spec, self.layers, weights, state) <= check.PARITY

    def test_float16_is_read_and_float64_is_not(self):
        _, state = self._state()
        half = {name: tensor.half() for name, tensor in state.items()}
        found = self._read(half)
        np.testing.assert_array_equal(
            found["conv2d/bias"], half["stem.bias"].float().numpy()
        )
        state["stem.bias"] = state["stem.bias"].double()
        with pytest.raises(state_dicts.StateDictError, match="stem.bias of .*float64"):
            self._read(state)

    def test_every_fault_is_named_at_once(self):
        _, state = self._state()
        del state["stem.weight"]
        state["stranger"] = torch.zeros(3)
        state["class_8.bias"] = torch.zeros(7)
        state["up.1.bias"][0] = float("nan")
        with pytest.raises(state_dicts.StateDictError) as error:
            self._read(state)
        for part in (
            "missing stem.weight",
            "surplus stranger",
            "class_8.bias of shape (7,), not (2,)",
            "up.1.bias with numbers that are not finite",
        ):
            assert part in str(error.value)

    def test_a_tensor_without_numbers_is_named(self, tmp_path):
        _, state = self._state()
        state["stem.bias"] = torch.empty(state["stem.bias"].shape, device="meta")
        torch.save(state, tmp_path / "W.pth")
        found = state_dicts.load((tmp_path / "W.pth").read_bytes(), "W.pth")
        with pytest.raises(state_dicts.StateDictError, match="stem.bias of .*meta"):
            self._read(found)

    def test_a_tensor_that_is_negated_later_is_read(self):
        _, state = self._state()
        turned = torch.view_as_complex(torch.ones(*state["stem.bias"].shape, 2))
        state["stem.bias"] = turned.conj().imag  # A view of ones, to be negated.
        assert state["stem.bias"].is_neg()
        assert (self._read(state)["conv2d/bias"] == -1).all()

    def test_classes_are_counted_by_the_heads(self):
        layers = topology.draw(self.spec, 5, manifests.PLAIN)
        state = state_dicts.of_weights(self.spec.name, layers, _weights(layers))
        assert state_dicts.classes(self.spec.name, self.layers, state) == 5
        state["class_4.bias"] = torch.zeros(7)
        assert state_dicts.classes(self.spec.name, self.layers, state) is None
        del state["class_4.bias"]
        assert state_dicts.classes(self.spec.name, self.layers, state) is None


class _Opens:
    """Pickled, it opens a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


class TestFile:
    def test_code_in_a_file_does_not_run(self, tmp_path):
        opened = tmp_path / "opened"
        content = pickle.dumps({"weight": _Opens(str(opened))}, protocol=2)
        with pytest.raises(state_dicts.StateDictError, match="W.pth"):
            state_dicts.load(content, "W.pth")
        assert not opened.exists()

    def test_a_packed_file_is_not_unpacked(self, tmp_path):
        torch.save({"a": torch.zeros(10**6)}, tmp_path / "W.pth")
        packed = io.BytesIO()
        with zipfile.ZipFile(tmp_path / "W.pth") as old:
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
                for name in old.namelist():
                    new.writestr(name, old.read(name))
        with pytest.raises(state_dicts.StateDictError, match="bytes packed in"):
            state_dicts.load(packed.getvalue(), "W.pth")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip at all"])
    def test_what_is_no_state_dict_is_named(self, content):
        with pytest.raises(state_dicts.StateDictError, match="W.pth"):
            state_dicts.load(content, "W.pth")

    @pytest.mark.parametrize(
        "held, told", [([1, 2], "list"), ({"state_dict": {"a": 1}}, "state_dict")]
    )
    def test_other_content_is_named(self, tmp_path, held, told):
        torch.save(held, tmp_path / "W.pth")
        with pytest.raises(state_dicts.StateDictError, match=told):
            state_dicts.load((tmp_path / "W.pth").read_bytes(), "W.pth")
