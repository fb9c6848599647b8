"""Tests of the detect command, in processes that have no tensorflow."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests import shared_data, small_data


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return small_data.environment(tmp_path_factory.mktemp("site"))


@pytest.fixture
def command(tiny_model, env):
    def run(*arguments, model=None):
        return small_data.run(
            "detect", f"--model={model or tiny_model('adam')}", *arguments, env=env
        )

    return run


def test_many_images_and_folders(command, tmp_path):
    folder = small_data.folders(tmp_path / "data", 2)
    (folder / "a" / "notes.txt").write_text("no picture")
    (folder / "a" / ".hidden.png").write_bytes(b"")
    same = tmp_path / "0.png"
    Image.fromarray(small_data.picture(9, True)[:, :30]).save(same)
    out = tmp_path / "out"
    found = small_data.result(
        command(f"--output_dir={out}", "--min_score=0.2", same, folder, same)
    )
    assert list(found) == ["images", "failed"]
    assert [pathlib.Path(image["path"]) for image in found["images"]] == [
        same, folder / "a/0.png", folder / "a/2.png", folder / "b/1.png",
        folder / "b/3.png",
    ]  # fmt: skip
    first = found["images"][0]
    assert (first["width"], first["height"]) == (30, 40)
    detections = [d for image in found["images"] for d in image["detections"]]
    assert detections
    for detection in detections:
        assert list(detection) == ["box", "score", "class", "keypoints"]
        assert np.shape(detection["box"]) == (4,)
        assert np.shape(detection["keypoints"]) == (7, 2)
        assert detection["class"] in ("a", "b")
        assert 0.2 <= detection["score"] <= 1
    names = sorted(path.name for path in out.iterdir())
    assert names == ["0.jpg", "0_2.jpg", "1.jpg", "2.jpg", "3.jpg"]


def test_min_score_bounds_what_is_found(command, tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(small_data.picture(0, True)).save(path)
    counts = []
    for score in (0.0, 0.5, 1.0):
        done = command(f"--output_dir={tmp_path}", f"--min_score={score}", path)
        (image,) = small_data.result(done)["images"]
        counts.append(len(image["detections"]))
    assert counts[0] > counts[2] == 0
    assert counts[0] >= counts[1]


def test_a_broken_image_is_passed_over_and_said(command, tmp_path):
    folder = small_data.folders(tmp_path / "data", 1)
    broken = folder / "a" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no JPEG")
    done = command(f"--output_dir={tmp_path / 'out'}", folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["images"]) == 2
    (failed,) = found["failed"]
    assert failed["path"] == str(broken) and "broken.jpg" in failed["error"]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_pictures_are_never_overwritten(command, tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(small_data.picture(0, True)).save(path)
    before = path.read_bytes()
    small_data.result(command(f"--output_dir={tmp_path}", path))
    assert path.read_bytes() == before
    assert (tmp_path / "x_2.jpg").exists()


def test_the_vendors_file(command, tmp_path):
    model = shared_data.shared("models", "palm_detection_128.tflite")
    photograph = shared_data.shared("data", "sign_digits", "5")
    path = sorted(photograph.glob("*.jpg"))[0]
    done = command(
        f"--output_dir={tmp_path}", "--min_score=0.3", path, model=model
    )
    (image,) = small_data.result(done)["images"]
    assert {d["class"] for d in image["detections"]} <= {"palm"}


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        ((), 2, "one argument or more"),
        (("nowhere.jpg",), 2, "must exist"),
        (("EMPTY",), 1, "must be an image"),
        (("--model=setup.cfg", "tests"), 1, ""),
        (("--min_score=2", "tests"), 2, "min_score"),
        (("--runtime=onnx", "IMAGE"), 2, "runtime must be installed"),
        (("--checkpoint=setup.cfg", "IMAGE"), 1, "setup.cfg: A checkpoint must"),
    ],
)
def test_mistakes_write_nothing(command, tmp_path, arguments, status, message):
    (tmp_path / "empty").mkdir()
    image = tmp_path / "x.png"
    Image.fromarray(small_data.picture(0, True)).save(image)
    arguments = [
        a.replace("EMPTY", f"{tmp_path}/empty").replace("IMAGE", str(image))
        for a in arguments
    ]
    done = command(f"--output_dir={tmp_path / 'out'}", *arguments)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
