"""Tests of ondevice/pytorch.py and verification/torch_parity.py."""

import collections
import contextlib
import json

import numpy as np
import pytest
import torch

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice import commands, fresh, pytorch, torch_models
from ondevice.device import opening, runtimes, session
from ondevice.rebuild import specs, state_dicts, topology
from ondevice.verification import torch_parity
from tests import shared_data, tiny_builds, tiny_detector


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The vendor's file of the tiny detector."""
    path = tmp_path_factory.mktemp("vendor") / "tiny.tflite"
    path.write_bytes(tiny_detector.vendor_file())
    return str(path)


@pytest.fixture(scope="module")
def tuned(source):
    """A module that was fine-tuned, with a class layer of three classes."""
    torch.manual_seed(0)
    with tiny_detector.known():
        model = torch_models.load(source)
    model.classifier_4 = torch.nn.Conv2d(6, 2 * 3, 1)
    model.classifier_8 = torch.nn.Conv2d(8, 6 * 3, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


@pytest.fixture(scope="module")
def imported(source, tuned, tmp_path_factory):
    """What `import` prints, and where it wrote."""
    directory = tmp_path_factory.mktemp("import")
    torch.save(tuned.state_dict(), directory / "W.pth")
    # TensorFlow's takes longer to start than the others to run.
    quick = tuple(n for n in runtimes.installed() if n != "tensorflow")
    with tiny_detector.known(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtimes, "installed", lambda: quick)
        found = pytorch.bring_back(
            source,
            str(directory / "W.pth"),
            directory / "out",
            ("a", "b", "c"),
            batch_size=2,
        )
    return found, directory / "out"


def _failing(found):
    return [one["name"] for one in found["checks"] if not one["holds"]]


@pytest.fixture
def one_runtime(monkeypatch):
    """For speed: what is tested is not the runtimes."""
    first = runtimes.installed()[:1]
    monkeypatch.setattr(runtimes, "installed", lambda: first)


@pytest.mark.usefixtures("one_runtime")
class TestExport:
    def test_the_file_is_the_vendors_to_the_bit(self, source, tmp_path):
        path = tmp_path / "W.pth"
        with tiny_detector.known():
            found = pytorch.export(source, str(path))
            model = torch_models.load(source, path)
        assert found["verified"] and not _failing(found)
        vendors = tiny_detector.weights()
        assert found["parameters"] == sum(value.size for value in vendors.values())
        kernel = model.state_dict()["conv2d_1.weight"].numpy()  # [O, I, H, W]
        expected = vendors["conv2d_1/kernel"].transpose(3, 2, 0, 1)  # [H, W, I, O]
        assert kernel.tobytes() == expected.tobytes()

    def test_a_module_that_is_another_one_writes_nothing(
        self, source, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(
            torch_parity.torch_network, "same_padding", lambda size, k, s: (k // 2,) * 2
        )
        with tiny_detector.known():
            found = pytorch.export(source, str(tmp_path / "W.pth"))
        assert not found["verified"]
        assert any("against the PyTorch module" in name for name in _failing(found))
        assert not (tmp_path / "W.pth").exists()


class TestImport:
    def test_the_files_are_the_module(self, imported):
        found, directory = imported
        assert found["verified"] and not _failing(found)
        names = {(one["name"], one["runtime"]) for one in found["checks"]}
        assert {runtime for _, runtime in names} >= {"", runtimes.NAMES[0]}
        assert any(name.startswith("model.tflite") for name, _ in names)
        assert ("TRANSPOSE in inference.tflite", "") in names
        manifest = manifests.of_file(tflite_file.read(directory / "model.tflite"))
        assert (manifest.heads, manifest.classes) == ("plain", ("a", "b", "c"))

    def test_the_weights_are_the_files(self, imported, tuned):
        file = tflite_file.read(imported[1] / "model.tflite")
        state = weights.of_trainable(file, manifests.of_file(file))
        expected = tuned.state_dict()["depthwise_conv2d.weight"].numpy()  # [C, 1, H, W]
        np.testing.assert_array_equal(
            state["depthwise_conv2d/kernel"], expected.transpose(2, 3, 0, 1)
        )

    def test_the_file_trains_on(self, imported):
        with session.Session(imported[1] / "model.tflite") as opened:
            batch = tiny_builds.batch(opened.manifest)
            first, *others = (
                float(opened.train(**batch, learning_rate=1e-3).class_loss)
                for _ in range(8)
            )
        assert others[-1] < 0.95 * first

    def test_labels_are_known_to_be_drawn_by_weights_that_were_trained(self, imported):
        with tiny_detector.known():
            model = imported[1] / "model.tflite"
            with opening.open_labeller(None, model) as opened:
                assert opened.trained

    def test_faults_write_nothing(self, source, tuned, tmp_path):
        state = dict(tuned.state_dict())
        torch.save(state, tmp_path / "W.pth")
        given = source, str(tmp_path / "W.pth"), tmp_path / "out"
        with tiny_detector.known():
            with pytest.raises(commands.UsageError, match="the 3 classes.*1, palm"):
                pytorch.bring_back(*given)
            with pytest.raises(ValueError, match="blocks:99"):
                pytorch.bring_back(*given, ("a", "b", "c"), "blocks:99")
            del state["conv2d.bias"]
            torch.save(state, tmp_path / "W.pth")
            with pytest.raises(state_dicts.StateDictError, match="missing conv2d.bias"):
                pytorch.bring_back(*given, ("a", "b", "c"))
        assert not (tmp_path / "out").exists()

    def test_nothing_is_made_for_a_folder_that_takes_no_files(
        self, source, tuned, tmp_path, monkeypatch
    ):
        path = tmp_path / "W.pth"
        torch.save(tuned.state_dict(), path)
        monkeypatch.delattr(fresh, "make")
        with tiny_detector.known(), pytest.raises(OSError):
            pytorch.bring_back(source, str(path), path, ("a", "b", "c"))

    def test_files_that_differ_remove_an_earlier_imports(
        self, source, tuned, imported, tmp_path, monkeypatch
    ):
        torch.save(tuned.state_dict(), tmp_path / "W.pth")
        (tmp_path / "model.tflite").write_bytes(b"earlier")
        model = (imported[1] / "model.tflite").read_bytes()
        # A trainable file is no frozen one: it has more operators than the vendor's.
        manifest = manifests.of_file(tflite_file.parse(model))
        wrong = fresh.Files(model, model, manifest, ())
        monkeypatch.setattr(fresh, "make", lambda *given: wrong)
        monkeypatch.setattr(torch_parity, "parity", lambda *given: [])
        with tiny_detector.known():
            found = pytorch.bring_back(
                source, str(tmp_path / "W.pth"), tmp_path, ("a", "b", "c")
            )
        assert any("that the vendor's file has not" in n for n in _failing(found))
        assert not found["verified"] and not (tmp_path / "model.tflite").exists()


def test_operators_are_counted_as_the_layers_that_they_are():
    """Of an int8 file, which adds the bias of a transpose convolution behind it."""
    name = "palm_detection_builtin_256_integer_quant.tflite"
    path = shared_data.shared("models", name)
    kinds = torch_parity._kinds(tflite_file.read(path))
    layers = topology.draw(specs.PRESETS["palm_256"])
    assert kinds == collections.Counter(x.kind for x in layers if x.kind != "input")


class TestCommand:
    @pytest.mark.parametrize(
        "arguments, told",
        [
            ([], "one of"),
            (["export", "--classes=a"], "--classes must not go with export"),
            (["export"], "--output must"),
            (["import", "--state_dict=none.pth"], "--state_dict must exist"),
            (
                ["export", "--output=W.pth", f"--photographs={__file__}"],
                "folder with images",
            ),
        ],
    )
    def test_a_wrong_flag_has_status_2(self, arguments, told, capsys):
        with contextlib.ExitStack() as stack:
            stack.callback(pytorch.FLAGS.unparse_flags)
            status = commands.execute(
                pytorch.main, pytorch.__doc__, ["pytorch", *arguments], pytorch.FLAGS
            )
        assert status == 2
        assert told in capsys.readouterr().err

    @pytest.mark.usefixtures("one_runtime")
    def test_export_prints_one_object(self, source, tmp_path, capsys):
        with tiny_detector.known():
            status = commands.execute(
                pytorch.main,
                pytorch.__doc__,
                ["", "export", f"--source={source}", f"--output={tmp_path}/W.pth"],
                pytorch.FLAGS,
            )
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (status, found["verified"], found["tensors"]) == (0, True, 45)
