"""Every command, given a file that crashes an interpreter: one line, and no crash."""

from __future__ import annotations

import importlib
import json
import pathlib

import pytest

from ondevice import commands
from ondevice.device import runtimes
from tests import hostile_files, small_data

pytestmark = pytest.mark.skipif(
    "tflite_runtime" not in runtimes.installed(),
    reason="tflite_runtime 2.14 alone dies of this file",
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No record, and no other runtime that `auto` could choose."""
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtimes, "installed", lambda: ("tflite_runtime",))


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command in this process, which must outlive it."""

    def begin(name: str, *arguments: str):
        command = importlib.import_module(f"ondevice.{name}")
        before = contents(tmp_path)
        try:
            status = commands.execute(
                command.main, command.__doc__, [name, *arguments], command.FLAGS
            )
        finally:
            command.FLAGS.unparse_flags()
            for flag in command.FLAGS:
                command.FLAGS[flag].value = command.FLAGS[flag].default
                command.FLAGS[flag].present = 0
            command.FLAGS.mark_as_parsed()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert contents(tmp_path) == before, "something was written"
        return status, said.out.splitlines(), said.err.splitlines()

    return begin


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


@pytest.fixture
def files(tmp_path):
    """The folder of crashing files and of pictures that are not to blame."""
    for kind in ("trainable", "inference"):
        path = tmp_path / f"{kind}.tflite"
        path.write_bytes(hostile_files.crashing(kind))
    small_data.annotated(tmp_path / "hands", 4)
    return tmp_path


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("train", ["--model=trainable.tflite", "--data=hands", "--checkpoint_dir=run"]),
        ("evaluate", ["--model=trainable.tflite", "--data=hands"]),
        ("evaluate", ["--model=inference.tflite", "--data=hands"]),
        ("detect", ["--model=trainable.tflite", "--output_dir=out", "hands/image"]),
        ("detect", ["--model=inference.tflite", "--output_dir=out", "hands/image"]),
        ("export", ["--model=trainable.tflite", "--output=out.tflite"]),
        (
            "export",
            ["--model=trainable.tflite", "--output=o.tflite", "--kind=inference"],
        ),
        ("weights", ["--via=interpreter", "trainable.tflite"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_one_line(run, files, monkeypatch, name, arguments):
    monkeypatch.chdir(files)
    status, out, err = run(name, *arguments)
    assert (status, out) == (1, [])
    errors = [line for line in err if line.startswith("error: ")]
    assert len(errors) == 1 and "SIGSEGV" in errors[0] and errors[0] == err[-1]


@pytest.mark.parametrize("section", ["classes", "storage"])
def test_benchmark_of_what_it_runs_in_its_own_process(run, files, monkeypatch, section):
    monkeypatch.chdir(files)
    for classes in (1, 2):
        folder = files / str(classes)
        folder.mkdir()
        for kind, name in (("trainable", "model"), ("inference", "inference")):
            data = hostile_files.crashing(kind, classes=classes)
            (folder / f"{name}.tflite").write_bytes(data)
    status, out, err = run(
        "benchmark", "--models=1,2", f"--sections={section}",
        "--runtimes=tflite_runtime", "--rounds=8",
    )  # fmt: skip
    assert (status, out) == (1, []) and "SIGSEGV" in err[-1]


def test_a_template_that_crashes(run, files, monkeypatch):
    from ondevice.device import trial

    monkeypatch.chdir(files)
    template = hostile_files.crashing("inference", constants=True)
    pathlib.Path("template.tflite").write_bytes(template)
    trial.record(pathlib.Path("trainable.tflite").read_bytes())
    status, _, err = run(
        "export", "--model=trainable.tflite", "--output=out.tflite",
        "--kind=inference", "--template=template.tflite",
    )  # fmt: skip
    assert status == 1 and "SIGSEGV" in err[-1] and "template.tflite" in err[-1]


def test_inspect_reports_it(run, files):
    status, out, _ = run("inspect", str(files / "trainable.tflite"))
    found = json.loads(out[-1])["runtimes"]["tflite_runtime"]
    assert status == 0 and not found["runs"] and "SIGSEGV" in found["error"]


def test_the_parts_that_are_read_may_still_be_read(run, files):
    status, out, _ = run("weights", str(files / "trainable.tflite"))
    assert status == 0 and json.loads(out[-1])["constants"]
