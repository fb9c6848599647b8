"""Tests of the sections steps, infer, storage and startup, on tiny detectors."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import re

import numpy as np
import pytest

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice import convert, sources
from ondevice.device import runtimes, session
from ondevice.measuring import (
    bounds, classes, contest, inferring, startup, step_inputs, steps, storage, timing,
)  # fmt: skip
from ondevice.measuring.peers import keras_model
from tests import tiny_builds, tiny_detector

RUNTIME = runtimes.installed()[0]


def silent(items, _):
    """No progress bar."""
    return items


def written(directory: pathlib.Path, files, name: str = "x") -> pathlib.Path:
    """A folder with the files of a build."""
    folder = directory / name
    folder.mkdir()
    (folder / classes.MODEL).write_bytes(files.model)
    (folder / classes.INFERENCE).write_bytes(files.inference)
    return folder


class Held:
    """Stands for `contest.hold`: everyone takes part, at once, and is noted."""

    def __init__(self, seconds=None, memory=None) -> None:
        self.seconds, self.memory = seconds or {}, memory or {}
        self.tasks: list = []

    def __call__(self, section, tasks, rounds, progress, found):
        self.tasks.append(tasks)
        results = {}
        for key in tasks:
            taken = {timing.TOTAL: np.full(rounds, self.seconds.get(key, 1.0))}
            times = timing.Times(tasks[key].labels, taken, taken)
            results[key] = contest.Result(times, self.memory.get(key))
        return results


def steps_of(models, **changes) -> contest.Found:
    given = {
        "peers": (), "pythons": {}, "runtimes": (RUNTIME,), "threads": (1,),
        "rounds": 2, "progress": silent,
    }  # fmt: skip
    return steps.measure(models, **{**given, **changes})


def test_steps_are_taken_in_processes(tmp_path):
    """New classes: a step of everything and one of the class heads, on features."""
    folder = written(tmp_path, tiny_builds.new_classes())
    found = steps_of([folder / classes.MODEL])
    assert not found.missing
    rows = {r["signature"]: r for r in found.rows if r["contender"] == "ours"}
    assert set(rows) == {"train", "train_classes"}
    for row in rows.values():
        assert row["runtime"] == RUNTIME and row["rounds"] == 2
        assert (row["trainable"], row["batch"], row["classes"]) == ("all", 2, 2)
        assert 1e7 < row["peak_memory"] < 4e9
    said = f"steps: palm_tiny all, 2 classes, batch 2, {{}}, {RUNTIME}, 1 thread, over"
    arithmetic = found.ratios[f"{said.format('train')} arithmetic"]
    assert arithmetic["judged"] == timing.CPU
    on_features = found.ratios[f"{said.format('train_classes')} 1 ms a sample"]
    assert on_features["bound"] == 1
    # Two samples may take 2 ms.
    expected = rows["train_classes"]["cpu_ms"] / 2
    assert on_features["cpu_median"] == pytest.approx(expected, rel=1e-3)


def test_steps_are_held_against_peers(tmp_path, monkeypatch):
    ours = written(tmp_path, tiny_builds.whole()) / classes.MODEL
    flex = written(tmp_path, tiny_builds.whole(), "flex") / classes.MODEL
    held = Held(
        {("train", "ai_edge_litert"): 1.2, bounds.FLEX: 2.0, bounds.KERAS: 1.0},
        {("train", "ai_edge_litert"): 30, bounds.FLEX: 100},
    )
    monkeypatch.setattr(contest, "hold", held)
    read = manifests.of_file

    def of_file(file):
        """The second file read is the Flex build."""
        seen.append(file)
        found = read(file)
        return dataclasses.replace(found, ops="select") if len(seen) == 2 else found

    seen: list = []
    monkeypatch.setattr(manifests, "of_file", of_file)
    found = steps_of(
        [ours, flex],
        peers=tuple(steps.PEERS),
        pythons={"onnxruntime": "/there/python"},
        runtimes=("ai_edge_litert", "tensorflow"),
    )
    (tasks,) = held.tasks
    assert tasks[bounds.FLEX].options["file"] == str(flex)
    assert tasks[steps.ONNXRUNTIME].python == "/there/python"
    assert tasks[bounds.KERAS].python == ""
    assert tasks[bounds.KERAS].options["way"] == keras_model.TRAIN_ON_BATCH
    said = "steps: palm_tiny all, 1 class, batch 2, train, {}, 1 thread, over {}"
    ratio = found.ratios[said.format("ai_edge_litert", bounds.FLEX)]
    assert (ratio["cpu_median"], ratio["bound"], ratio["holds"]) == (0.6, 0.6, True)
    ratio = found.ratios[said.format("ai_edge_litert", bounds.KERAS)]
    assert (ratio["cpu_median"], ratio["holds"]) == (1.2, False)
    memory = found.ratios[said.format("ai_edge_litert", f"{bounds.FLEX}, memory")]
    assert memory == {"median": 0.3, "bound": 0.25, "judged": "memory", "holds": False}
    assert "bound" not in found.ratios[said.format("tensorflow", bounds.FLEX)]


def test_memory_of_a_sample(monkeypatch):
    subject = steps.Subject("palm_full", "all", 1, 0)
    monkeypatch.setattr(steps.activations, "of_sample", lambda *_: 100)
    found = contest.Found()
    steps._growth({(subject, "ai_edge_litert"): {1: 1000, 8: 2050}}, found)
    ((name, ratio),) = found.ratios.items()
    assert "from batch 1 to 8" in name
    assert (ratio["median"], ratio["bound"], ratio["holds"]) == (1.5, 1.0, False)
    steps._growth({(subject, "ai_edge_litert"): {8: 2050}}, found)
    assert len(found.ratios) == 1


def test_steps_refuse_a_frozen_file(tmp_path):
    folder = written(tmp_path, tiny_builds.whole())
    with pytest.raises(manifests.ManifestError, match="trainable file.*inference"):
        steps_of([folder / classes.INFERENCE])


@pytest.mark.parametrize("way", [keras_model.TRAIN_ON_BATCH, keras_model.FUNCTION])
def test_keras_trains_the_same_loss(way):
    """Also after the step that the peer takes while it is prepared."""
    files = tiny_builds.whole()
    with session.Session(files.model, RUNTIME, 1) as opened:
        before, expected = (
            opened.train(**step_inputs.of_signature(files.manifest, "train")).loss
            for _ in range(2)
        )
    assert abs(before - expected) > 1e-4 * expected
    with tiny_detector.known():
        call = keras_model.step(tflite_file.parse(files.model), files.manifest, way)
    assert float(call()) == pytest.approx(expected, rel=1e-5)


def test_inputs_are_of_the_contract():
    manifest = tiny_builds.new_classes().manifest
    for key in ("train", "train_classes"):
        given = step_inputs.of_signature(manifest, key)
        specs = {spec.name: spec.shape for spec in manifest.signature(key).inputs}
        assert {name: array.shape for name, array in given.items()} == specs
    assert set(np.unique(given["class_targets"])) <= {0, 1}
    assert (given["anchor_weights"] == 1).all()


def infer_of(folder, monkeypatch, digest=None):
    """Ratios of a folder's files over a vendor's with a digest, and what is missing."""
    held = Held({"infer": 1.5, "features": 1.05, classes.INFERENCE: 1.06})
    monkeypatch.setattr(contest, "hold", held)
    data = tiny_detector.vendor_file()

    def locate(name):
        if digest is None:
            raise sources.SourceError(f"{name} is nowhere")
        return sources.Source(name, data, digest)

    monkeypatch.setattr(sources, "locate", locate)
    found = inferring.measure([folder], "palm_full", (RUNTIME,), (1,), 2, silent)
    return found, held.tasks


def test_calls_are_held_against_the_vendors(tmp_path, monkeypatch):
    folder = written(tmp_path, tiny_builds.whole())
    found, _ = infer_of(folder, monkeypatch, "0" * 64)
    said = f"infer: palm_tiny all, 1 class, {RUNTIME}, 1 thread, {{}} over the vendor's"
    verdicts = {n: (r["bound"], r["holds"]) for n, r in found.ratios.items()}
    assert verdicts == {
        said.format("inference.tflite"): (1.05, False),
        said.format("infer"): (2.0, True),
    }


def test_the_vendors_file_may_be_any_file(tmp_path, monkeypatch):
    """The manifest names it, and only --source says where it lies."""
    folder = written(tmp_path, tiny_builds.whole())
    described = classes.manifest_of(folder)
    vendors = tmp_path / "vendors.tflite"
    vendors.write_bytes(b"vendor's")
    digest = hashlib.sha256(b"vendor's").hexdigest()
    moved = dataclasses.replace(described, source={"name": "x", "sha256": digest})
    monkeypatch.setattr(classes, "manifest_of", lambda _: moved)
    monkeypatch.setattr(contest, "hold", held := Held())
    found = inferring.measure([folder], str(vendors), (RUNTIME,), (1,), 2, silent)
    assert not found.missing and len(found.ratios) == 2
    assert set(held.tasks[0]) == {"vendor's file", "inference.tflite", "infer"}


def test_a_file_that_was_made_for_a_runtime_is_called_in_that(tmp_path, monkeypatch):
    folder = written(tmp_path, tiny_builds.whole())
    described = classes.manifest_of(folder)
    made_for = dataclasses.replace(described, target="tflite_runtime")
    monkeypatch.setattr(classes, "manifest_of", lambda _: made_for)
    monkeypatch.setattr(contest, "hold", held := Held())
    inferring.measure([folder], "palm_full", runtimes.NAMES, (1,), 2, silent)
    (tasks,) = held.tasks
    assert {task.labels["runtime"] for task in tasks.values()} == {"tflite_runtime"}


def test_frozen_trunks_are_held_closer(tmp_path, monkeypatch):
    """Of several classes only the features, which have none."""
    folder = written(tmp_path, tiny_builds.heads())
    found, _ = infer_of(folder, monkeypatch, "0" * 64)
    limits = {
        name.split(", ")[-1].split()[0]: ratio.get("bound")
        for name, ratio in found.ratios.items()
    }
    assert limits == {"inference.tflite": None, "infer": None, "features": 1.1}


@pytest.mark.parametrize(
    "digest, reason", [(None, "is nowhere"), ("1" * 64, "digest of tiny is 1+, not 0+")]
)
def test_without_the_vendors_file_nothing_is_compared(
    tmp_path, monkeypatch, digest, reason
):
    folder = written(tmp_path, tiny_builds.whole())
    found, tasks = infer_of(folder, monkeypatch, digest)
    assert not found.ratios and set(tasks[0]) == {"inference.tflite", "infer"}
    (entry,) = found.missing
    assert re.search(reason, entry["reason"])


def test_a_runtime_trains_the_file_that_was_made_for_it(tmp_path, monkeypatch):
    held = Held()
    monkeypatch.setattr(contest, "hold", held)
    models = []
    for target in manifests.TARGETS:
        files = tiny_builds.whole()
        described = dataclasses.replace(files.manifest, target=target)
        model = convert.embed(files.model, described)
        folder = written(tmp_path, dataclasses.replace(files, model=model), target)
        models.append(folder / classes.MODEL)
    steps_of(models, runtimes=("ai_edge_litert", "tflite_runtime"))
    (tasks,) = held.tasks
    taken = {key[1]: task.options["file"] for key, task in tasks.items() if key[1:]}
    assert taken["ai_edge_litert"] == str(models[0])
    assert taken["tflite_runtime"] == str(models[1])


def test_storage_is_measured(tmp_path):
    folder = written(tmp_path, tiny_builds.heads())
    found = storage.measure([folder / classes.MODEL], (RUNTIME,), 2, silent)
    stages = {(row["contender"], row["what"]) for row in found.rows}
    assert stages == {
        ("save", "save"),
        ("restore", "restore"),
        ("patch", "patch"),
        ("patch from files", "read model and checkpoint"),
        ("patch from files", "patch"),
        ("patch from files", "write"),
        ("patch from files", "total"),
    }
    limits = {name.split(", ")[-1] for name in found.ratios}
    assert limits == {"save over 20 ms", "restore over 20 ms", "patch over 50 ms"}
    # Nothing is promised of a tiny detector, and nothing is left behind.
    assert not any("bound" in ratio for ratio in found.ratios.values())
    assert sorted(p.name for p in folder.iterdir()) == [
        classes.INFERENCE,
        classes.MODEL,
    ]


def test_commands_are_found():
    found = startup.commands()
    assert {"train", "build", "benchmark", "inspect"} <= set(found)
    assert "convert" not in found


def test_start_up_is_measured(monkeypatch):
    monkeypatch.setattr(startup, "commands", lambda: ["train"])
    found = startup.measure((), 1, silent)
    taken = {row["contender"]: row["cpu_ms"] for row in found.rows}
    # Python starts, and then imports absl.
    assert 1 < taken["python alone"] < taken["train --help"]
    (name,) = found.ratios
    assert name == "startup: train --help over 500 ms"
    expected = taken["train --help"] / 500
    assert found.ratios[name]["cpu_median"] == pytest.approx(expected, rel=1e-2)
