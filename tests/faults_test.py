"""Tests of whole commands, and of every writer, on disks that fail."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from checkpoints import store
from ondevice import train
from ondevice.device import claims, plot, training
from tests import conftest, small_data
from tests.soak import faults, shim


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    return small_data.annotated(tmp_path_factory.mktemp("data") / "hands", 5)


@pytest.fixture(scope="module", autouse=True)
def unplotted():
    """A picture takes longer than all else; the command draws one."""
    with mock.patch.object(plot, "can_draw", return_value=False):
        yield


@pytest.fixture
def config(tiny_model, hands, tmp_path):
    """Of a run of one epoch in `run`."""
    return configured(tiny_model, hands, tmp_path / "run")


@pytest.fixture(scope="module")
def once(tiny_model, hands, tmp_path_factory):
    """The directory of such a run, ended; not to be written to."""
    directory = tmp_path_factory.mktemp("once") / "run"
    train.train(configured(tiny_model, hands, directory))
    return directory


@pytest.fixture
def finished(config, once):
    """The same, to be written to."""
    shutil.copytree(once, config.checkpoint_dir)
    return config.checkpoint_dir


def configured(tiny_model, hands, directory: pathlib.Path) -> train.TrainConfig:
    return train.TrainConfig(
        model=tiny_model("adam"), data=hands, checkpoint_dir=directory, epochs=1,
        head_epochs=0, threads=1,
    )  # fmt: skip


def limited(most: int, *command: object, **named) -> subprocess.CompletedProcess:
    """Runs a command where no file may grow beyond so many bytes; 0: any size."""
    return subprocess.run(
        [sys.executable, "-m", "tests.soak.limited", str(most), *map(str, command)],
        capture_output=True,
        text=True,
        cwd=conftest.ROOT,
        **named,
    )


def assert_one_line(done: subprocess.CompletedProcess, message: str) -> None:
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.splitlines()[-1] == f"error: {message}"
    assert "Traceback" not in done.stderr and done.stderr.count("error: ") == 1


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file()}


@pytest.mark.parametrize("seed", range(30))
def test_a_short_campaign(seed):
    assert sum(faults.run(seed).values()) == 3


def test_a_checkpoint_cut_short_at_every_byte(tmp_path):
    path = tmp_path / "x.safetensors"
    header = store.Header("ab" * 32, {"name": "sgd"})
    old, new = ({"step": np.array(step, np.int32)} for step in (1, 2))
    store.save_file(path, old, header)
    size = path.stat().st_size
    for room in range(size):
        faults.fails(
            path, lambda path: store.save_file(path, new, header), shim.Short(room),
            whole=False,
        )  # fmt: skip
        assert store.load_file(path)[0] == old
    with shim.installed(shim.Short(size)):
        store.save_file(path, new, header)
    assert store.load_file(path)[0] == new


class TestCommands:
    def test_training_on_a_full_disk(self, config, finished):
        before = contents(finished)
        done = limited(
            20_000, "ondevice.train", f"--model={config.model}",
            f"--data={config.data}", f"--checkpoint_dir={finished}", "--resume",
            "--epochs=2", "--threads=1",
        )  # fmt: skip
        assert_one_line(done, f"File too large: {finished / training.BEST}")
        assert "training.png is not drawn any more" in done.stderr
        after = contents(finished)
        assert after.keys() == before.keys()
        for name in (training.LATEST, training.BEST):
            assert after[name] == before[name]
        assert after[training.METRICS].startswith(before[training.METRICS])

    @pytest.mark.parametrize(
        "command, name",
        [
            (("checkpoint", "average", "LATEST", "LATEST"), "mean.safetensors"),
            (("checkpoint", "convert", "LATEST", "--to=tensorflow"), "mean.ckpt"),
            (("weights", "MODEL", "--layout=keras"), "weights.npz"),
        ],
        ids=["average", "convert", "weights"],
    )
    def test_others(self, config, finished, tmp_path, command, name):
        output = tmp_path / "output" / name
        output.parent.mkdir()
        output.write_bytes(b"old")
        known = {"LATEST": finished / training.LATEST, "MODEL": config.model}
        command = [known.get(argument, argument) for argument in command]
        command = [f"ondevice.{command[0]}", *command[1:], f"--output={output}"]
        if "convert" in command:
            command.append(f"--model={config.model}")
        assert_one_line(limited(5000, *command), f"File too large: {output}")
        output.parent.chmod(0o555)
        assert_one_line(limited(0, *command), f"Permission denied: {output}")
        assert contents(output.parent) == {name: b"old"}
        output.parent.chmod(0o755)
        assert limited(0, *command).returncode == 0
        assert output.read_bytes() != b"old"

    def test_stdout_that_takes_nothing(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "ondevice.train", "--help"],
                stdout=full, stderr=subprocess.PIPE, text=True, cwd=conftest.ROOT,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (
            1, "error: No space left on device: stdout\n",
        )  # fmt: skip


class TestTwoProcesses:
    def test_the_second_is_refused_and_changes_nothing(self, config, finished):
        before = contents(finished)
        arguments = [
            "ondevice.train", f"--model={config.model}", f"--data={config.data}",
            f"--checkpoint_dir={finished}", "--resume", "--epochs=2", "--threads=1",
        ]  # fmt: skip
        with claims.claimed(finished):
            done = limited(0, *arguments)
        assert_one_line(
            done,
            "One process at a time must train in a directory. Received: "
            f"{finished}, in which another one does; nothing was written.",
        )
        assert contents(finished) == before
        done = limited(0, *arguments)
        assert json.loads(done.stdout)["epochs"] == 2, done.stderr

    def test_one_that_begins_while_the_data_is_read(self, config, monkeypatch):
        """Both found no directory; the first to make it has it."""
        real, held = train._data, []

        def slow(*arguments):
            config.checkpoint_dir.mkdir()
            held.append(claims.claimed(config.checkpoint_dir))
            held[0].__enter__()
            return real(*arguments)

        monkeypatch.setattr(train, "_data", slow)
        with pytest.raises(claims.ClaimError):
            train.train(config)
        assert contents(config.checkpoint_dir) == {}
        held[0].__exit__(None, None, None)

    def test_one_that_ended_while_the_data_was_read(self, config, monkeypatch):
        def slow(*arguments):
            config.checkpoint_dir.mkdir()
            (config.checkpoint_dir / training.LATEST).write_bytes(b"another run's")
            return real(*arguments)

        real = train._data
        monkeypatch.setattr(train, "_data", slow)
        with pytest.raises(ValueError, match="must hold no run yet"):
            train.train(config)
        assert contents(config.checkpoint_dir) == {training.LATEST: b"another run's"}

    def test_what_killed_runs_left_is_swept_away(self, config, finished):
        for name in (".best.safetensors.1-01234567.tmp", ".x.2-01234567.tmp"):
            (finished / name).write_bytes(b"cut")
        train.train(
            dataclasses.replace(config, resume=True, epochs=2, head_epochs=None)
        )
        assert not list(finished.glob(".*"))
