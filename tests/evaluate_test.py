"""Tests of the evaluate command, in processes that have no tensorflow."""

import json

import pytest

from tests import small_data

KEYS = ["images", "class_accuracy", "recall", "ap", "ap50", "mean_iou", "confusion"]


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return small_data.environment(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data.annotated(tmp_path_factory.mktemp("data") / "hands", 7)


@pytest.fixture(scope="module")
def run_dir(tiny_model, data, env, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    done = small_data.run(
        "train", f"--model={tiny_model('adam')}", f"--data={data}", "--epochs=4",
        f"--checkpoint_dir={directory}", "--learning_rate=1e-3", env=env,
    )  # fmt: skip
    small_data.result(done)
    return directory


def test_with_and_without_a_checkpoint(tiny_model, data, env, run_dir):
    arguments = [f"--model={tiny_model('adam')}", f"--data={data}", "--frame=0.7"]
    fresh = small_data.result(small_data.run("evaluate", *arguments, env=env))
    assert list(fresh) == KEYS
    assert fresh["images"] == sum(map(sum, fresh["confusion"])) == 7
    assert [len(row) for row in fresh["confusion"]] == [3, 3]
    checkpoint = f"--checkpoint={run_dir / 'latest.safetensors'}"
    trained = small_data.result(
        small_data.run("evaluate", *arguments, checkpoint, env=env)
    )
    assert trained["mean_iou"] != fresh["mean_iou"]
    # What training itself found: the middle of 0.4:1.0, but on the file held out.
    held_out = [
        json.loads(line)
        for line in (run_dir / "metrics.jsonl").read_text().splitlines()
    ][-1]["validation"]
    assert held_out["images"] == 1


def test_labels_are_shown(tiny_model, data, env, tmp_path):
    sheets = tmp_path / "sheets"
    done = small_data.run(
        "evaluate", f"--model={tiny_model('adam')}", f"--data={data}",
        f"--show_labels={sheets}", env=env,
    )  # fmt: skip
    assert small_data.result(done)["images"] == 7
    assert sorted(p.name for p in sheets.iterdir()) == ["a-01.jpg", "b-01.jpg"]


def test_without_pycocotools(tiny_model, data, tmp_path):
    env = small_data.environment(tmp_path, "pycocotools")
    done = small_data.run(
        "evaluate", f"--model={tiny_model('adam')}", f"--data={data}", env=env
    )
    found = small_data.result(done)
    assert (found["ap"], found["ap50"]) == (None, None)
    assert done.stderr.count("pip install pycocotools") == 1


def test_labels_from_another_file(tiny_model, env, tmp_path):
    folders = small_data.folders(tmp_path / "data")
    model = tiny_model("adam")
    arguments = [f"--model={model.with_name('inference.tflite')}", f"--data={folders}"]
    done = small_data.run("evaluate", *arguments, env=env)
    own = small_data.result(done)
    assert "--labels_from=FILE" in done.stderr
    done = small_data.run("evaluate", *arguments, f"--labels_from={model}", env=env)
    assert "--labels_from=FILE" not in done.stderr
    # The same weights: but for rounding the same labels.
    assert small_data.result(done)["confusion"] == own["confusion"]
    # No checkpoint, so there is no place that is ours.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (("--checkpoint=nowhere",), 2, "--checkpoint must exist"),
        (("--checkpoint=setup.cfg",), 1, "setup.cfg: A checkpoint must"),
        (("--model=setup.cfg",), 1, "setup.cfg"),
        (("--frame=0.4:0.8",), 2, "one share"),
        (("--frame=2",), 2, "--frame must be"),
        (("--runtime=onnx",), 2, "runtime must be installed"),
        (("--data=tests",), 1, "folder named by a class"),
        (("--labels_from=nowhere",), 2, "--labels_from must exist"),
    ],
)
def test_mistakes(tiny_model, data, env, arguments, status, message):
    done = small_data.run(
        "evaluate", f"--model={tiny_model('adam')}", f"--data={data}", *arguments,
        env=env,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_checkpoint_of_another_build_and_for_an_inference_file(
    tiny_model, data, env, run_dir
):
    checkpoint = f"--checkpoint={run_dir / 'best.safetensors'}"
    for model, message in (
        (tiny_model("momentum"), "another optimizer"),
        (tiny_model("adam").with_name("inference.tflite"), "no variables"),
    ):
        done = small_data.run(
            "evaluate", f"--model={model}", f"--data={data}", checkpoint, env=env
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr.splitlines()[-1]
