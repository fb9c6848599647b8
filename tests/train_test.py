"""Tests of the train command, in processes of their own that have no tensorflow."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags

from checkpoints import store
from ondevice import commands, train
from tests import conftest, small_data

LATEST, BEST = "latest.safetensors", "best.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data.annotated(tmp_path_factory.mktemp("data") / "hands", 11)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return small_data.environment(tmp_path_factory.mktemp("site"))


@pytest.fixture
def command(tiny_model, data, env):
    def run(directory, *arguments, model=None, optimizer="adam", data=data):
        return small_data.run(
            "train",
            f"--model={model or tiny_model(optimizer)}",
            f"--data={data}",
            f"--checkpoint_dir={directory}",
            "--threads=1",
            *arguments,
            env=env,
        )

    return run


def assert_same_run(first: pathlib.Path, second: pathlib.Path) -> None:
    """Weights, slots, step, header and metrics, bit for bit.

    The best epoch may have been saved before the run was given more epochs.
    """
    for name in (LATEST, BEST):
        tensors, header = store.load_file(first / name)
        others, other = store.load_file(second / name)
        assert set(tensors) == set(others)
        for key in tensors:
            np.testing.assert_array_equal(tensors[key], others[key], err_msg=key)
        for each in (header, other):
            del each.extra["run"]["settings"]["epochs"]
        assert header == other
    lines = [(d / "metrics.jsonl").read_bytes() for d in (first, second)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "momentum", "sgd"])
def test_two_processes_take_the_steps_of_one(command, tmp_path, optimizer):
    fixed = ["--schedule=constant", "--learning_rate=1e-5", "--seed=3"]
    steps = 20  # Of the optimizer.
    if optimizer == "adam":  # The file in which class heads may learn alone first.
        fixed, steps = [*fixed, "--head_epochs=1"], 15
    once = small_data.result(
        command(tmp_path / "once", "--epochs=4", *fixed, optimizer=optimizer)
    )
    twice = tmp_path / "twice"
    half = small_data.result(command(twice, "--epochs=2", *fixed, optimizer=optimizer))
    assert (half["epochs"], once["epochs"]) == (2, 4)
    assert 2 * half["steps"] == once["steps"] == 20  # 10 images, 2 a batch.
    before, _ = store.load_file(twice / LATEST)
    rest = small_data.result(
        command(twice, "--resume", "--epochs=4", optimizer=optimizer)
    )
    after, header = store.load_file(twice / LATEST)
    changed = [n for n in after if (after[n] != before[n]).any()]
    assert len(changed) > len(after) / 2  # It did train on.
    assert (header.step, header.epoch, header.seed) == (steps, 4, 3)
    assert_same_run(tmp_path / "once", twice)
    for name in ("seconds", "cpu_seconds", "peak_memory"):
        assert once.pop(name) > 0 and rest.pop(name) > 0
    assert once == rest


def test_interrupted_in_the_middle_of_an_epoch(tiny_model, tmp_path, env):
    data = small_data.annotated(tmp_path / "hands", 131)  # 59 steps an epoch.
    arguments = [
        f"--model={tiny_model('adam')}", f"--data={data}", "--threads=1",
        "--schedule=constant", "--head_epochs=0",
    ]  # fmt: skip
    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "ondevice.train", *arguments, "--epochs=1000"]
        + [f"--checkpoint_dir={stopped}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=conftest.ROOT,
    )
    deadline = time.monotonic() + 60
    while not (stopped / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (commands.INTERRUPTED, ""), errors
    assert errors.splitlines()[-1] == "error: interrupted"
    _, header = store.load_file(stopped / LATEST)
    state = header.extra["run"]["state"]
    assert header.step == state["steps"] > 0
    assert state["epoch_step"] == header.step - 59 * header.epoch

    (told,) = re.findall("To go on: (.*)", errors)
    epochs = f"--epochs={header.epoch + 1}"
    small_data.result(
        subprocess.run(
            [*shlex.split(told), epochs], capture_output=True, text=True, env=env,
            cwd=conftest.ROOT,
        )
    )  # fmt: skip
    whole = tmp_path / "whole"
    small_data.result(
        small_data.run(
            "train", *arguments, epochs, f"--checkpoint_dir={whole}", env=env
        )
    )
    assert_same_run(stopped, whole)


def test_result_and_files(command, tmp_path):
    found = small_data.result(command(tmp_path / "run", "--epochs=2"))
    assert list(found) == [
        "steps", "epochs", "loss", "class_accuracy", "best", "stopped", "seconds",
        "cpu_seconds", "peak_memory",
    ]  # fmt: skip
    lines = [
        json.loads(line)
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert found["loss"] == epochs[-1]["loss"]
    assert found["class_accuracy"] == epochs[-1]["validation"]["class_accuracy"]
    best = [line for line in epochs if line["best"]][-1]
    assert found["best"] == {"epoch": best["epoch"], **best["validation"]}
    _, header = store.load_file(tmp_path / "run" / BEST)
    assert header.epoch == best["epoch"]
    assert header.extra["run"]["settings"]["head_epochs"] == 1  # Of two, by default.
    assert (tmp_path / "run" / "training.png").stat().st_size > 1000


def test_boxes_are_drawn_and_kept_where_there_are_none(
    command, tmp_path, env, tiny_model
):
    data = small_data.folders(tmp_path / "data", 4)
    (data / "c").mkdir()
    done = command(tmp_path / "run", "--epochs=1", data=data)
    assert small_data.result(done)["epochs"] == 1
    assert "left out, as no class: folders ['c']" in done.stderr
    assert "drawing the boxes of 8 images" in done.stderr
    (kept,) = (tmp_path / "run").glob("labels-*.json")
    assert len(json.loads(kept.read_text())) == 8


def test_labels_are_shown_before_training(command, tmp_path, data):
    sheets = tmp_path / "sheets"
    done = command(tmp_path / "run", "--epochs=1", f"--show_labels={sheets}")
    small_data.result(done)
    assert sorted(path.name for path in sheets.iterdir()) == [
        "train-a-01.jpg", "train-b-01.jpg", "validation-a-01.jpg",
    ]  # fmt: skip
    assert "sheets: 2 sheets of labelled images" in done.stderr


def test_tensorflow_is_not_imported_though_it_is_there(tmp_path, tiny_model, data):
    pytest.importorskip("tensorflow")
    code = (
        "import runpy, sys\n"
        "try:\n"
        "    runpy.run_module('ondevice.train', run_name='__main__')\n"
        "except SystemExit as left:\n"
        "    if left.code: raise\n"
        "found = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "if found: sys.exit(f'imports {found}')\n"
    )
    arguments = [
        f"--model={tiny_model('adam')}", f"--data={data}", "--epochs=1",
        f"--checkpoint_dir={tmp_path / 'run'}", f"--show_labels={tmp_path / 'x'}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True,
        cwd=conftest.ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if importlib.util.find_spec("tensorboard") is not None:
        assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_no_plot_without_matplotlib(tmp_path, tiny_model, data):
    env = small_data.environment(tmp_path / "site", "matplotlib")
    done = small_data.run(
        "train", f"--model={tiny_model('adam')}", f"--data={data}", "--epochs=2",
        f"--checkpoint_dir={tmp_path / 'run'}", env=env,
    )  # fmt: skip
    small_data.result(done)
    assert done.stderr.count("pip install matplotlib") == 1
    assert not (tmp_path / "run" / "training.png").exists()


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tiny_model, data, env, tmp_path_factory):
    """A run of one epoch."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    done = small_data.run(
        "train", f"--model={tiny_model('adam')}", f"--data={data}", "--epochs=1",
        f"--checkpoint_dir={directory}", env=env,
    )  # fmt: skip
    small_data.result(done)
    return directory


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ((), 1, "must hold no run yet, or be resumed with --resume"),
        (("--resume", "--model=MOMENTUM"), 1, "another optimizer"),
        (("--resume", "--model=setup.cfg"), 1, "setup.cfg"),
        (("--resume", "--data=tests"), 1, "tests.*folder named by a class"),
        (("--resume", "--runtime=onnx"), 2, "runtime must be installed"),
    ],
    ids=["begun", "optimizer", "text", "data", "runtime"],
)
def test_refusals_leave_a_run_as_it_was(
    command, tmp_path, finished, tiny_model, arguments, status, message
):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    before = contents(directory)
    arguments = [a.replace("MOMENTUM", str(tiny_model("momentum"))) for a in arguments]
    done = command(directory, *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert done.stderr.count("error: ") == 1
    assert re.search(message, last), last
    assert contents(directory) == before


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (("--resume",), 1, "must find a checkpoint"),
        (("--data=nowhere",), 2, "--data must exist"),
        (("--model=nowhere",), 2, "--model must exist"),
        (("--model=setup.cfg",), 1, "setup.cfg"),
        (("--model=INFERENCE",), 1, "must be a trainable file"),
        (("--data=EMPTY",), 1, "folder named by a class"),
        (("--validation=nowhere",), 2, "--validation must exist"),
        (("--frame=0.8:0.4",), 2, "--frame must be"),
        (("--epochs=0",), 2, "epochs"),
        (("--patience=-1",), 2, "patience"),
        (("--learning_rate=-1",), 1, "positive, finite learning rate"),
        (("--schedule=step",), 2, "schedule"),
        (("--threads=0",), 2, "threads must be at least 1"),
        (("surplus",), 2, "flags alone"),
    ],
)
def test_refusals_write_nothing(
    command, tmp_path, tiny_model, arguments, status, message
):
    (tmp_path / "empty").mkdir()
    inference = tiny_model("adam").with_name("inference.tflite")
    arguments = [
        a.replace("INFERENCE", str(inference)).replace("EMPTY", f"{tmp_path}/empty")
        for a in arguments
    ]
    done = command(tmp_path / "run", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_faults_of_all_the_data_come_in_one_message(command, tmp_path):
    for name in ("data", "validation"):
        small_data.annotated(tmp_path / name, 4)
        (tmp_path / name / "image" / "1.png").write_bytes(b"")
        (tmp_path / name / "annotation" / "2.json").write_text("{")
        (tmp_path / name / "annotation" / "3.json").write_text('[{"label": "c"}]')
    done = command(
        tmp_path / "run", f"--validation={tmp_path / 'validation'}",
        data=tmp_path / "data",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    head, *faults = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert "data and" in head and "validation cannot be used" in head
    named = ["2.json", "3.json", "1.png"]
    assert [name in fault for name, fault in zip(named * 2, faults)] == [True] * 6
    assert len(faults) == 6 and not (tmp_path / "run").exists()


def test_pictures_on_both_sides_are_told(command, tmp_path, data):
    done = command(tmp_path / "run", "--epochs=1", f"--validation={data}")
    assert small_data.result(done)["best"]["images"] == 11
    assert "11 of the images to validate are trained on, too" in done.stderr


def test_divergence_leaves_the_last_checkpoint(command, tmp_path, finished):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    before = contents(directory)
    done = command(directory, "--resume", "--epochs=9", "--learning_rate=1e30")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The loss must be finite" in done.stderr.splitlines()[-1]
    for name in (LATEST, BEST):
        assert contents(directory)[name] == before[name]


def test_missing_flags():
    done = subprocess.run(
        [sys.executable, "-m", "ondevice.train"], capture_output=True, text=True,
        cwd=conftest.ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    for name in ("--model", "--data", "--checkpoint_dir"):
        assert name in done.stderr


def test_help_shows_every_flag():
    done = subprocess.run(
        [sys.executable, "-m", "ondevice.train", "--help"],
        capture_output=True,
        text=True,
        cwd=conftest.ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in train.FLAGS:
        assert f"--{name}" in done.stdout
    assert "python -m ondevice.train --model=out/" in done.stdout


def test_flags_are_none_until_given():
    # A resumed run takes over what was not given, so defaults must not look given.
    for name in ("epochs", "learning_rate", "schedule", "seed", "frame", "patience"):
        assert train.FLAGS[name].default is None
    assert isinstance(train.FLAGS, flags.FlagValues)
