"""What a folder of data holds, and every fault in it at once."""

import json
import shutil

import numpy as np
import pytest
from absl import logging
from PIL import Image

from ondevice.device import data, image_cache, samples
from tests import shared_data


@pytest.fixture(name="log")
def _log(monkeypatch):
    lines = []
    for name in ("info", "warning"):
        monkeypatch.setattr(
            logging, name, lambda text, *values: lines.append(text % values)
        )
    return lines


def picture(path, size=(8, 6)):
    """A picture that differs with its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(map(ord, "/".join(path.parts[-2:]))) % 256
    Image.new("RGB", size, (shade, shade, 255)).save(path)


class TestClassFolders:
    def test_classes_and_order(self, tmp_path, log):
        for name in ("a/img_10.jpg", "b/img_9.png", "a/img_2.JPG", "b/img_11.webp"):
            picture(tmp_path / name)
        found = data.load(tmp_path, ["b", "a"])
        assert found.classes == ("b", "a")
        assert [(s.path.name, s.class_index) for s in found.samples] == [
            ("img_2.JPG", 1),
            ("img_9.png", 0),
            ("img_10.jpg", 1),
            ("img_11.webp", 0),
        ]
        assert all(s.labels is None for s in found.samples)
        assert log == []

    def test_what_is_left_out_is_said_in_one_line_each(self, tmp_path, log):
        for name in ("a/1.jpg", "other/1.jpg", "a/deep/2.jpg", "loose.jpg", "a/.h.jpg"):
            picture(tmp_path / name)
        (tmp_path / "a" / "notes.txt").write_text("x")
        found = data.load(tmp_path, ["a", "b"])
        assert [s.path.name for s in found.samples] == ["1.jpg"]
        assert len(log) == 4
        assert "folders ['other']" in log[0]
        assert "no folder for the classes ['b']" in log[1]
        assert "1 pictures beside" in log[2]
        assert ".h.jpg, deep, notes.txt" in log[3]

    def test_broken_pictures_are_listed_together(self, tmp_path):
        picture(tmp_path / "a" / "1.jpg")
        (tmp_path / "a" / "2.jpg").write_bytes(b"")
        (tmp_path / "a" / "3.png").write_text("no picture")
        with pytest.raises(samples.DataError, match=r"2\.jpg(.|\n)*3\.png") as caught:
            data.load(tmp_path, ["a"])
        assert len(caught.value.faults) == 2

    def test_one_picture_in_two_classes_is_a_fault(self, tmp_path):
        for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
            picture(tmp_path / name)
        shutil.copy(tmp_path / "a" / "1.jpg", tmp_path / "b" / "4.jpg")
        (tmp_path / "b" / "5.jpg").write_bytes(b"")
        with pytest.raises(samples.DataError) as caught:
            data.load(tmp_path, ["a", "b"])
        broken, twice = caught.value.faults
        assert "5.jpg" in broken
        assert "a/1.jpg" in twice and "b/4.jpg" in twice and "are one picture" in twice

    def test_one_picture_twice_in_a_class_is_said(self, tmp_path, log):
        for name in ("a/1.jpg", "a/2.jpg"):
            picture(tmp_path / name)
        shutil.copy(tmp_path / "a" / "1.jpg", tmp_path / "a" / "3.jpg")
        assert len(data.load(tmp_path, ["a"])) == 3
        (line,) = log
        assert "1 pictures are there more than once" in line and "3.jpg" in line

    def test_pictures_are_kept_for_later(self, tmp_path):
        picture(tmp_path / "a" / "1.jpg")
        cache = image_cache.ImageCache()
        data.load(tmp_path, ["a"], cache)
        assert cache.bytes == 8 * 6 * 3

    def test_progress_sees_every_picture(self, tmp_path):
        for index in range(5):
            picture(tmp_path / "a" / f"{index}.jpg")
        seen = []

        def progress(items):
            seen.append(len(items))
            return items

        data.load(tmp_path, ["a"], progress=progress)
        assert seen == [5]

    @pytest.mark.parametrize("name", ["missing", "empty", "others", "no_pictures"])
    def test_nothing_to_read_is_refused(self, tmp_path, name):
        (tmp_path / "empty").mkdir()
        picture(tmp_path / "others" / "x" / "1.jpg")
        picture(tmp_path / "others" / "y" / "1.jpg")
        (tmp_path / "no_pictures" / "a").mkdir(parents=True)
        words = {
            "missing": "must exist",
            "empty": "folder named by a class",
            "others": r"Folders there: \['x', 'y'\]",
            "no_pictures": "must hold pictures",
        }
        with pytest.raises(samples.DataError, match=words[name]):
            data.load(tmp_path / name, ["a", "b"])

    def test_one_class_takes_the_pictures_of_all_folders(self, tmp_path, log):
        for name in ("0/img_1.jpg", "7/img_2.jpg"):
            picture(tmp_path / name)
        (tmp_path / "empty").mkdir()
        found = data.load(tmp_path, ["palm"])
        assert [s.class_index for s in found.samples] == [0, 0]
        assert len(log) == 1
        assert "no folder is named palm" in log[0] and log[0].endswith(": 0, 7.")
        with pytest.raises(samples.DataError, match="folder named by a class"):
            data.load(tmp_path, ["palm", "fist"])
        (tmp_path / "palm").mkdir()
        picture(tmp_path / "palm" / "img_3.jpg")
        assert len(data.load(tmp_path, ["palm"])) == 1

    def test_one_class_takes_a_folder_of_pictures(self, tmp_path):
        picture(tmp_path / "1.jpg")
        (found,) = data.load(tmp_path, ["palm"]).samples
        assert found.class_index == 0

    def test_classes_ignored_takes_every_picture(self, tmp_path, log):
        for name in ("fist/img_1.jpg", "7/img_2.jpg", "img_3.jpg"):
            picture(tmp_path / name)
        (tmp_path / "empty").mkdir()
        found = data.load(tmp_path, None)
        assert found.classes == ("palm",)
        assert [(s.path.name, s.class_index) for s in found.samples] == [
            ("img_1.jpg", 0), ("img_2.jpg", 0), ("img_3.jpg", 0)
        ]  # fmt: skip
        (line,) = log
        assert "1 there, 2 in folders: 7, fist." in line

    def test_classes_ignored_one_picture_in_two_folders_is_no_fault(self, tmp_path):
        picture(tmp_path / "a" / "1.jpg")
        (tmp_path / "b").mkdir()
        shutil.copy(tmp_path / "a" / "1.jpg", tmp_path / "b" / "2.jpg")
        assert len(data.load(tmp_path, None)) == 2
        with pytest.raises(samples.DataError, match="one picture"):
            data.load(tmp_path, ["a", "b"])

    def test_classes_ignored_and_nothing_there(self, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(samples.DataError, match=r"images, there .*: \['a'\]"):
            data.load(tmp_path, None)

    def test_a_class_never_names_a_path(self, tmp_path):
        picture(tmp_path / "a" / "1.jpg")
        with pytest.raises(samples.DataError, match="folder named by a class"):
            data.load(tmp_path / "a", ["..", "../a"])


class TestAnnotated:
    def test_folders_of_pictures_and_annotations(self, tmp_path):
        picture(tmp_path / "image" / "7.jpg")
        (tmp_path / "annotation").mkdir()
        hand = {
            "label": "1",
            "bounding_box": [0.1, 0.2, 0.5, 0.6],
            "key_points": [0.25] * 14,
        }
        (tmp_path / "annotation" / "7.json").write_text(json.dumps([hand]))
        (found,) = data.load(tmp_path, ["palm"]).samples
        assert found.labels[0].box == (0.1, 0.2, 0.5, 0.6)
        ignored = data.load(tmp_path, None)
        assert ignored.samples == (found,) and ignored.classes == ("palm",)

    def test_faults_of_labels_and_pictures_come_together(self, tmp_path):
        picture(tmp_path / "image" / "1.jpg")
        (tmp_path / "image" / "2.jpg").write_bytes(b"")
        (tmp_path / "annotation").mkdir()
        (tmp_path / "annotation" / "1.json").write_text('[{"label": 1}]')
        (tmp_path / "annotation" / "2.json").write_text("[]")
        with pytest.raises(samples.DataError) as caught:
            data.load(tmp_path, ["palm"])
        assert [fault.count("1.json") for fault in caught.value.faults] == [1, 0]
        assert "2.jpg" in caught.value.faults[1]

    @pytest.mark.parametrize("whole", [False, True])
    def test_coco_file_or_its_folder(self, tmp_path, whole):
        picture(tmp_path / "images" / "p.jpg", (100, 50))
        document = {
            "images": [{"id": 1, "file_name": "p.jpg", "width": 100, "height": 50}],
            "categories": [{"id": 4, "name": "palm"}],
            "annotations": [
                {
                    "image_id": 1,
                    "category_id": 4,
                    "bbox": [10, 10, 20, 20],
                    "keypoints": [10, 25, 2] * 7,
                }
            ],
        }
        file = tmp_path / "annotations" / "hands.json"
        file.parent.mkdir()
        file.write_text(json.dumps(document))
        (found,) = data.load(file if whole else tmp_path, ["palm"]).samples
        assert found.labels[0].box == pytest.approx((0.1, 0.2, 0.3, 0.6))
        assert found.labels[0].keypoints == ((0.1, 0.5),) * 7
        assert data.load(file if whole else tmp_path, None).samples == (found,)


class TestOnPhotographs:
    def test_digits_are_cut_between_students(self):
        root = shared_data.shared("data", "sign_digits")
        found = data.load(root, [str(digit) for digit in range(7)])
        counts = np.bincount([s.class_index for s in found.samples])
        assert len(found) == counts.sum() == len(shared_data.digits())
        train, held = samples.split(found)
        assert len(held) == pytest.approx(len(found) / 10, abs=1)
        last = max(samples.numbers(s.path) for s in train.samples)
        first = min(samples.numbers(s.path) for s in held.samples)
        assert last < first
        assert {s.class_index for s in held.samples} == set(range(7))
