"""Tests of docs/routes: the tools of others, and the tables."""

from __future__ import annotations

import json
import stat
import types

import pytest

pytest.importorskip("matplotlib")

from docs.routes import converting, page  # noqa: E402


class TestConvert:
    tool = converting.Tool("some_tool", "some_call", "some tool", "some", ("torch",))

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
            *("-m", "docs.routes.peers", "some_call", "palm_tiny"),
            str(tmp_path / "module.pth"),
            str(tmp_path / "some_tool.tflite"),
        ]

    def test_finds_the_programs_of_its_environment(self, tmp_path):
        program = tmp_path / "some" / "bin" / "program"
        self._environment(tmp_path, 'program > "$6"')
        program.write_text("#!/bin/sh\necho ran\n")
        program.chmod(0o755)
        assert self._convert(tmp_path)["error"] is None
        assert (tmp_path / "some_tool.tflite").read_text() == "ran\n"

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
        tool = converting.Tool("x", "x", "x", "none", (), source="export_old")
        found = converting.convert(tool, tmp_path, "palm_tiny", tmp_path)
        assert found["error"] == "no export_old"


def _file(**operators):
    return types.SimpleNamespace(data=b"12345", census=lambda: operators)


def test_census_tells_what_the_vendors_file_has_not():
    vendor = _file(CONV_2D=3, PRELU=2, DEQUANTIZE=7)
    file = _file(CONV_2D=3, TRANSPOSE=4, MUL=1, PRELU=1)
    assert converting.census(file, vendor) == {
        "bytes": 5,
        "operators": 9,
        "transposes": 4,
        "more": {"TRANSPOSE": 4, "MUL": 1},
        "fewer": {"PRELU": 1},
    }
    assert converting.census(vendor, vendor)["operators"] == 5


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
        **{page.trained("all", r): _times(1.02) for r in page.ROUTES},
    }
    broken = {**runtime, "tinynn.tflite": {"error": "no such version"}}
    speeds = {"ai_edge_litert": runtime, "tflite_runtime": broken}
    detector = {"spec": "x", "vendor": census, "tools": tools}
    reached = {
        "class_accuracy": 0.5, "recall": 0.75, "losses": [2.0, 1.0, 0.5, 0.25],
        "step_cpu_ms": 4.0, "features_cpu_ms": 20.0, "cpu_seconds": 60.0,
        "ready_seconds": 3.0, "peak_memory": 5e8, **census,
    }  # fmt: skip
    problem = {"job": {"epochs": 2}, **dict.fromkeys(page.ROUTES, reached)}
    train = {"all": problem}
    environments = {"tinynn": {"megabytes": 700, "versions": {"torch": "2.13"}}}
    names = ("palm_full", "face_front")
    detectors = dict.fromkeys(names, detector)
    sizes = dict.fromkeys(page.ROUTES, {"to_train": 100, "in_all": 200})
    convert = {
        "environments": environments, "detectors": detectors, "routes": sizes
    }  # fmt: skip
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
    assert "- onnx2tf, palm_full; onnx2tf, face_front: `It: failed`" in lines
    assert "| TinyNeuralNetwork | torch 2.13 | 700 |" in lines
    assert "| ondevice, PyTorch |  | 100 to train, 200 to come back |" in lines
    tool = "TinyNeuralNetwork"
    said = [f"{tool}, {n} in tflite-runtime" for n in ("palm_full", "face_front")]
    assert f"- {'; '.join(said)}: `no such version`" in lines
    (row,) = (line for line in lines if line.startswith("| `all` | PyTorch |"))
    assert row.startswith("| `all` | PyTorch | 2 | 0.500 | 0.750 | 2.0000 | 0.3750 |")
    assert row.endswith("| 9 | 0 | 1,000 | 1.02 | 1.02 |")
    assert (results / "routes.png").stat().st_size > 5000


def test_tables_of_parts_that_have_not_run_stay(results):
    (results / "train.json").unlink()
    document = results / "routes.md"
    places = "".join(f"<!-- table: {t} -->\nold {t}\n<!-- end -->\n" for t in TABLES)
    document.write_text(places)
    page.write(results, document)
    stayed = [t for t in TABLES if f"old {t}\n" in document.read_text()]
    assert stayed == ["routes"]


def test_a_document_without_a_place_for_a_table_is_refused(results):
    document = results / "routes.md"
    document.write_text("# Title\n")
    with pytest.raises(ValueError, match="one place for the table .*Received: 0"):
        page.write(results, document)
    assert document.read_text() == "# Title\n"
