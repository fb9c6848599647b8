"""Tests of the evaluate command, in processes that have no tensorflow."""

import json

import pytest
from PIL import Image

from ondevice import evaluate
from tests import shared_data, small_data

FIGURES = ["images", "class_accuracy", "recall", "ap", "ap50", "mean_iou", "confusion"]
KEYS = [*FIGURES, "classes", "models"]


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
        f"--checkpoint_dir={directory}", "--learning_rate=1e-3", "--head_epochs=0",
        env=env,
    )  # fmt: skip
    small_data.result(done)
    return directory


def test_with_and_without_a_checkpoint(tiny_model, data, env, run_dir):
    arguments = [f"--model={tiny_model('adam')}", f"--data={data}", "--frame=0.7"]
    fresh = small_data.result(small_data.run("evaluate", *arguments, env=env))
    assert list(fresh) == KEYS
    assert fresh["images"] == sum(map(sum, fresh["confusion"])) == 7
    assert [len(row) for row in fresh["confusion"]] == [3, 3]
    assert fresh["classes"] == ["a", "b"]
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


def test_several_side_by_side(tiny_model, data, env, run_dir, tmp_path):
    model, checkpoint = tiny_model("adam"), run_dir / "latest.safetensors"
    exported = tmp_path / "model.tflite"
    small_data.result(
        small_data.run(
            "export", f"--model={model}", f"--checkpoint={checkpoint}",
            f"--output={exported}", "--kind=inference", env=env,
        )
    )  # fmt: skip
    done = small_data.run(
        "evaluate", f"--model={model}", f"--model={exported}", f"--model={model}",
        f"--checkpoint={checkpoint}", f"--data={data}",
        f"--output_dir={tmp_path / 'out'}", env=env,
    )  # fmt: skip
    found = small_data.result(done)
    trained, frozen, fresh = found["models"]
    assert list(trained) == [
        "path", "checkpoint", "bytes", *FIGURES, "kept", "milliseconds"
    ]  # fmt: skip
    assert [found[key] for key in FIGURES] == [trained[key] for key in FIGURES]
    assert [each["path"] for each in found["models"]] == [
        str(model), str(exported), str(model)
    ]  # fmt: skip
    assert [each["checkpoint"] for each in found["models"]] == [
        str(checkpoint), None, None
    ]  # fmt: skip
    assert frozen["bytes"] == exported.stat().st_size
    # The export gives what the checkpoint does, and the fresh file does not.
    assert frozen["mean_iou"] == pytest.approx(trained["mean_iou"], abs=1e-4)
    assert abs(fresh["mean_iou"] - trained["mean_iou"]) > 1e-3
    assert all(each["milliseconds"] > 0 for each in found["models"])
    (head,) = [line for line in done.stderr.splitlines() if "class accuracy" in line]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("2  ")]
    assert str(exported) in line and len(line) == len(head)
    written = {path.name: path for path in (tmp_path / "out").iterdir()}
    # Two files are of one name.
    assert sorted(written) == [
        "confusion-1-model.png", "confusion-2-model.png", "confusion-3-model.png",
        "evaluation.json",
    ]  # fmt: skip
    assert json.loads(written["evaluation.json"].read_text()) == found


def test_pictures_of_an_earlier_evaluation_go(tiny_model, data, env, tmp_path):
    earlier = {"models": [{"path": "a/model.tflite"}, {"path": "b/model.tflite"}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(earlier))
    for number in (1, 2, 2024):  # The last one is the user's.
        (tmp_path / f"confusion-{number}-model.png").write_text("earlier")
    done = small_data.run(
        "evaluate", f"--model={tiny_model('adam')}", f"--data={data}",
        f"--output_dir={tmp_path}", env=env,
    )  # fmt: skip
    small_data.result(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "confusion-2024-model.png", "confusion.png", "evaluation.json"
    ]  # fmt: skip
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "\0", '{"models": [{"path": "a\\u0000b"}, {"path": "\\ud800"}]}',
        '{"models": [{"path": 1}, {}]}', '{"models": 1}', "[]",
    ],
)  # fmt: skip
def test_no_picture_of_an_earlier_evaluation_that_makes_no_sense(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    assert evaluate._earlier(path) == []


def test_without_matplotlib(tiny_model, data, tmp_path):
    env = small_data.environment(tmp_path / "site", "matplotlib")
    out = tmp_path / "out"
    out.mkdir()
    earlier = {"models": [{"path": "a/model.tflite"}]}
    (out / "evaluation.json").write_text(json.dumps(earlier))
    (out / "confusion.png").write_text("earlier")
    done = small_data.run(
        "evaluate", f"--model={tiny_model('adam')}", f"--data={data}",
        f"--output_dir={out}", env=env,
    )  # fmt: skip
    found = small_data.result(done)
    assert done.stderr.count("pip install matplotlib") == 1
    assert [p.name for p in out.iterdir()] == ["evaluation.json"]
    assert json.loads((out / "evaluation.json").read_text()) == found


def test_as_palms(tiny_model, env, tmp_path):
    # Folders that are no class of the model's.
    folders = small_data.folders(tmp_path / "data")
    (folders / "a").rename(folders / "other")
    arguments = [f"--model={tiny_model('adam')}", f"--data={folders}"]
    classes = small_data.result(small_data.run("evaluate", *arguments, env=env))
    assert classes["images"] == 3 and classes["classes"] == ["a", "b"]
    done = small_data.run("evaluate", *arguments, "--as_palms", env=env)
    palms = small_data.result(done)
    assert palms["images"] == 6 and palms["classes"] == ["palm"]
    assert [len(row) for row in palms["confusion"]] == [2]


def test_as_palms_on_photographs_of_no_class(env, tmp_path):
    vendor = shared_data.shared("models", "palm_detection_128.tflite")
    for path, digit in shared_data.digits((7, 8, 9), step=40):
        (tmp_path / str(digit)).mkdir(exist_ok=True)
        (tmp_path / str(digit) / path.name).symlink_to(path)
    done = small_data.run(
        "evaluate", f"--model={vendor}", f"--model={vendor}", f"--data={tmp_path}",
        "--as_palms", "--frame=0.55", env=env,
    )  # fmt: skip
    found = small_data.result(done)
    assert found["images"] >= 15 and found["classes"] == ["palm"]
    # palm_128's boxes differ from one share of the frame to the next.
    assert found["recall"] >= 0.7 and found["class_accuracy"] >= 0.9
    assert [each["kept"] for each in found["models"]] == [None, 1]


def test_models_of_different_classes_are_refused_but_as_palms(
    tiny_model, data, env, tmp_path
):
    vendor = shared_data.shared("models", "palm_detection_128.tflite")
    model = tiny_model("adam")
    arguments = [f"--model={vendor}", f"--model={model}", f"--data={data}"]
    done = small_data.run("evaluate", *arguments, env=env)
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]
    for words in (f"{vendor} with ['palm']", f"{model} with ['a', 'b']", "--as_palms"):
        assert words in line
    done = small_data.run("evaluate", *arguments, "--as_palms", env=env)
    assert [each["images"] for each in small_data.result(done)["models"]] == [7, 7]


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
        (("--model=nowhere",), 2, "--model must exist"),
        (("--output_dir=setup.cfg",), 2, "--output_dir must be a folder"),
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
        (tiny_model("adam").with_name("inference.tflite"), "no trainable file"),
    ):
        done = small_data.run(
            "evaluate", f"--model={model}", f"--data={data}", checkpoint, env=env
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr.splitlines()[-1]
