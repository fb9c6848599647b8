"""Tests of docs/routes: the same steps on three routes, other tools, and the tables."""

from __future__ import annotations

import collections
import json
import stat

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from checkpoints import manifest as manifests  # noqa: E402
from checkpoints import tflite_file  # noqa: E402
from docs.routes import converting, page, training  # noqa: E402
from ondevice import fresh  # noqa: E402
from ondevice.rebuild import state_dicts, topology  # noqa: E402
from signatures import optimizers  # noqa: E402
from tests import tiny_detector  # noqa: E402

CLASSES = ("a", "b", "c")
RATE = 1e-2


@pytest.fixture(name="known", autouse=True)
def _known():
    with tiny_detector.known():
        yield


def _job(trainable):
    return training.Job(
        spec="palm_tiny",
        classes=CLASSES,
        trainable=trainable,
        data="",
        vendor="",
        epochs=1,
        places=1,
        rate=RATE,
    )


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    """A job of which the class heads train, and the start of every route."""
    folder = tmp_path_factory.mktemp("job")
    with tiny_detector.known():
        job = _job("classifier")
        random = np.random.default_rng(0)
        weights = {
            name: (random.standard_normal(shape) / np.prod(shape[:-1]) ** 0.5)
            for name, shape in topology.variables(job.layers).items()
        }
        weights = {name: value.astype(np.float32) for name, value in weights.items()}
        state = state_dicts.of_weights(job.spec, job.layers, weights)
        (folder / "start.pth").write_bytes(state_dicts.dump(state))
        recipe = tiny_detector.recipe(
            classes=CLASSES,
            trainable="classifier",
            heads=manifests.PLAIN,
            batch_size=training.BATCH,
            settings=optimizers.Settings("adam", 1.0),
        )
        fresh.make(recipe, weights).write(folder / "start", True)
    return folder


def _targets(random):
    anchors = tiny_detector.SPEC.anchors
    held = random.random((training.BATCH, anchors)) < 0.1
    chosen = random.integers(0, len(CLASSES), held.shape)
    boxes = random.standard_normal((training.BATCH, anchors, 18))
    return {
        "class_targets": np.eye(len(CLASSES), dtype="f4")[chosen] * held[..., None],
        "box_targets": boxes.astype(np.float32),
        "anchor_weights": np.ones(held.shape, np.float32),
        "sample_weights": np.ones(training.BATCH, np.float32),
    }


def _losses(route, folder, job, images, targets):
    """What four steps on the same pictures lose, and the names of what they read."""
    trainer = training.ROUTES[route](job, folder)
    if job.features:
        each = [trainer.features_of(image) for image in images]
        read = {name: np.stack([one[name] for one in each]) for name in each[0]}
    else:
        read = {"image": images}
    found = [trainer.step({**read, **targets}, RATE) for _ in range(4)]
    trainer.save()
    return found


def test_three_routes_take_the_same_steps(folder):
    random = np.random.default_rng(1)
    images = random.random((training.BATCH, 32, 32, 3), np.float32)
    targets, job = _targets(random), _job("classifier")
    found = {
        route: _losses(route, folder, job, images, targets)
        for route in training.ROUTES
    }
    first, last = found["tflite"][0], found["tflite"][-1]
    assert last < 0.98 * first
    for losses in found.values():
        np.testing.assert_allclose(losses, found["tflite"], rtol=1e-5)
    learnt = _learnt(folder, job)
    before = training.start(job, folder)
    assert learnt["pytorch"].keys() == learnt["tensorflow"].keys() == before.keys()
    for name, value in before.items():
        ours, theirs = learnt["pytorch"][name], learnt["tensorflow"][name]
        if name in job.trained:
            moved = np.abs(ours - value).max()
            assert moved > RATE
            assert np.abs(ours - theirs).max() < 0.05 * moved
        else:
            np.testing.assert_array_equal(ours, value)
            np.testing.assert_array_equal(theirs, value)


def _learnt(folder, job):
    path = folder / training.STATE_DICT
    state = state_dicts.load(path.read_bytes(), str(path))
    with np.load(folder / training.WEIGHTS) as stored:
        return {
            "pytorch": state_dicts.to_weights(job.spec, job.layers, state),
            "tensorflow": dict(stored),
        }


def test_where_all_of_it_trains_steps_read_images(folder):
    random = np.random.default_rng(2)
    images = random.random((training.BATCH, 32, 32, 3), np.float32)
    targets, job = _targets(random), _job("all")
    assert not job.features
    found = [
        _losses(route, folder, job, images, targets)
        for route in ("pytorch", "tensorflow")
    ]
    np.testing.assert_allclose(*found, rtol=1e-3)


class TestConvert:
    tool = converting.Tool("some_tool", "some tool", "some", ("torch",))

    def _environment(self, tmp_path, script):
        python = tmp_path / "some" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(python.stat().st_mode | stat.S_IEXEC)

    def _convert(self, tmp_path):
        return converting.convert(self.tool, tmp_path, "palm_tiny", tmp_path)

    def test_is_given_the_module_and_the_output(self, tmp_path):
        self._environment(tmp_path, 'echo "$@" > "$6"')
        found = self._convert(tmp_path)
        assert found["error"] is None
        assert (tmp_path / "some_tool.tflite").read_text().split() == [
            *("-m", "docs.routes.peers", "some_tool", "palm_tiny"),
            str(tmp_path / "module.pth"),
            str(tmp_path / "some_tool.tflite"),
        ]

    def test_the_last_line_is_the_error_and_is_kept(self, tmp_path):
        self._environment(tmp_path, "echo first >&2; echo 'It: failed' >&2; exit 1")
        assert self._convert(tmp_path)["error"] == "It: failed"
        self._environment(tmp_path, "exit 0")
        assert self._convert(tmp_path)["error"] == "It: failed"

    def test_without_an_environment(self, tmp_path):
        assert self._convert(tmp_path)["error"].startswith("not installed")

    def test_a_failed_export_is_the_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(converting, "EXPORTER", "some")
        self._environment(tmp_path, 'echo "no $3" >&2; exit 1')
        tool = converting.Tool("other", "other", "none", (), source="export_old")
        found = converting.convert(tool, tmp_path, "palm_tiny", tmp_path)
        assert found["error"] == "no export_old"


def test_census_tells_what_the_vendors_file_has_not(folder, tmp_path):
    vendor = tflite_file.parse(tiny_detector.vendor_file())
    path = folder / "start" / "inference.tflite"
    assert converting.census(path, vendor)["more"] == {}
    found = converting.census(folder / "start" / "model.tflite", vendor)
    counted = collections.Counter(tflite_file.read(path).census())
    assert found["operators"] > counted.total()
    assert found["more"]["VAR_HANDLE"] > 0


def _times(ratio):
    apart, ratios = {"regressors": 2e-6}, {"cpu_median": ratio}
    return {"error": None, "apart": apart, "ratio": ratios}


@pytest.fixture(name="results")
def _results(tmp_path):
    """What the parts leave: one tool that works, one that fails in one runtime."""
    census = {"bytes": 1000, "operators": 9, "transposes": 0, "more": {}, "fewer": {}}
    other = {**census, "operators": 12, "transposes": 2}
    other |= {"more": {"TRANSPOSE": 2, "MUL": 2}, "fewer": {"PRELU": 1}}
    tools = {
        "ondevice": {"error": None, **census},
        "tinynn": {"error": None, **other},
        "onnx2tf": {"error": "It: failed"},
    }
    runtime = {
        "vendor.tflite": _times(1.0),
        "ondevice.tflite": _times(1.01),
        "tinynn.tflite": _times(2.5),
        **{page.trained("all", r): _times(1.02) for r in training.ROUTES},
    }
    broken = {**runtime, "tinynn.tflite": {"error": "no such version"}}
    speeds = {"ai_edge_litert": runtime, "tflite_runtime": broken}
    detector = {"spec": "x", "vendor": census, "tools": tools}
    reached = {
        "class_accuracy": 0.5, "recall": 0.75, "losses": [2.0, 1.0, 0.5, 0.25],
        "step_cpu_ms": 4.0, "features_cpu_ms": 20.0, "cpu_seconds": 60.0,
        "ready_seconds": 3.0, "peak_memory": 5e8, "megabytes": 100,
        "megabytes_in_all": 200, **census,
    }  # fmt: skip
    problem = {"job": {"epochs": 2}, **dict.fromkeys(training.ROUTES, reached)}
    train = {"all": problem}
    environments = {"tinynn": {"megabytes": 700, "versions": {"torch": "2.13"}}}
    names = ("palm_full", "face_front")
    detectors = dict.fromkeys(names, detector)
    convert = {"environments": environments, "detectors": detectors}
    for part, found in (
        ("train", train),
        ("convert", convert),
        ("speed", dict.fromkeys(names, speeds)),
    ):
        (tmp_path / f"{part}.json").write_text(json.dumps(found))
    return tmp_path


TABLES = ("routes", "installed", "failures", "palm_full", "face_front")


def test_tables_are_filled_in_again_and_again(results):
    document = results / "routes.md"
    places = "".join(f"<!-- table: {t} -->\nold\n<!-- end -->\n" for t in TABLES)
    document.write_text(f"# Title\n{places}the end\n")
    page.write(results, document)
    once = document.read_text()
    page.write(results, document)
    assert document.read_text() == once
    assert once.startswith("# Title\n") and once.endswith("the end\n")
    assert "old" not in once
    lines = once.splitlines()
    assert "| onnx2tf | fails |  |  |  |  |  |  |" in lines
    assert (
        "| TinyNeuralNetwork | 12 | 2 | +2 TRANSPOSE, +2 MUL, -1 PRELU | 1,000 "
        "| 2.0e-06 | 2.50 | fails |" in lines
    )
    assert "- onnx2tf, palm_full: `It: failed`" in lines
    said = "- TinyNeuralNetwork, face_front, in tflite-runtime: `no such version`"
    assert said in lines
    (row,) = (line for line in lines if line.startswith("| `all` | PyTorch |"))
    assert row.startswith("| `all` | PyTorch | 0.500 | 0.750 | 2.0000 | 0.3750 | 20 |")
    assert row.endswith("| 9 | 0 | 1,000 | 1.02 | 1.02 |")
    assert (results / "routes.png").stat().st_size > 5000


def test_a_document_without_a_place_for_a_table_is_refused(results):
    document = results / "routes.md"
    document.write_text("# Title\n")
    with pytest.raises(ValueError, match="one place for the table .*Received: 0"):
        page.write(results, document)
    assert document.read_text() == "# Title\n"
