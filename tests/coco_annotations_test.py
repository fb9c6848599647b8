"""COCO annotations: what is taken, what is left out, and what is wrong."""

import copy
import json

import numpy as np
import pytest
from absl import logging
from PIL import Image

from ondevice.device import coco_annotations

POINTS = [20, 50, 2] * 7

COCO = {
    "images": [
        {"id": 1, "file_name": "p.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "q.jpg", "width": 200, "height": 100},
        {"id": 3, "file_name": "r.jpg", "width": 200, "height": 100},
    ],
    "categories": [{"id": 7, "name": "fist"}, {"id": 8, "name": "dog"}],
    "annotations": [
        {
            "image_id": 1,
            "category_id": 7,
            "bbox": [20, 10, 100, 50],
            "keypoints": POINTS,
        },
        {"image_id": 3, "category_id": 8, "bbox": [0, 0, 1, 1]},
    ],
}
MANY_CATEGORIES = [{"id": number, "name": ""} for number in range(10_001)]
BOX = pytest.approx((0.1, 0.1, 0.6, 0.6))


def read(tmp_path, change=lambda document: None, classes=("palm", "fist")):
    for name in ("p", "q", "r"):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{name}.jpg")
    document = copy.deepcopy(COCO)
    change(document)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(document))
    return coco_annotations.read(path, classes)


def changing(place, value):
    """Sets a value deep in the document."""

    def change(document):
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


def adding(**note):
    """One more hand in the first picture."""

    def change(document):
        document["annotations"].append({**document["annotations"][0], **note})

    return change


@pytest.fixture(name="log")
def _log(monkeypatch):
    lines = []
    for name in ("info", "warning"):
        monkeypatch.setattr(
            logging, name, lambda text, *values: lines.append(text % values)
        )
    return lines


class TestTaken:
    def test_by_hand(self, tmp_path, log):
        found, faults = read(tmp_path)
        assert faults == []
        # The dog's picture is left out; the one without annotations is background.
        assert [s.path.name for s in found] == ["p.jpg", "q.jpg"]
        (label,) = found[0].labels
        assert label.box == BOX
        assert label.keypoints == ((0.1, 0.5),) * 7 and label.class_index == 1
        assert found[1].labels == () and found[0].unlabelled == ()
        (line,) = log
        assert "1 pictures with no hand of the classes, 0 annotations" in line

    def test_a_hand_of_21_keypoints_gives_the_palms(self, tmp_path):
        points = [v for i in range(21) for v in (60 + 4 * i, 30 + i, 2)]
        change = changing(("annotations", 0, "keypoints"), points)
        found, faults = read(tmp_path, change)
        assert faults == []
        (label,) = found[0].labels
        wanted = [((60 + 4 * i) / 200, (30 + i) / 100) for i in (0, 5, 9, 13, 17, 1, 2)]
        assert list(label.keypoints) == wanted
        # A square of 1.03 * 68 pixels around (94, 38.5), whatever `bbox` says.
        corners = np.array(label.box) * [200, 100, 200, 100]
        half = 1.03 * 68 / 2
        expected = [94 - half, 38.5 - half, 94 + half, 38.5 + half]
        np.testing.assert_allclose(corners, expected)

    def test_fingers_of_a_hand_of_21_may_be_missing(self, tmp_path):
        points = [v for i in range(21) for v in (60 + i, 30 + i, 0 if i == 8 else 2)]
        found, _ = read(tmp_path, changing(("annotations", 0, "keypoints"), points))
        assert len(found[0].labels) == 1


class TestClassesIgnored:
    def test_hands_of_every_category_are_of_the_first_class(self, tmp_path, log):
        found, faults = read(tmp_path, adding(category_id=8, image_id=3), None)
        assert faults == []
        assert [s.path.name for s in found] == ["p.jpg", "q.jpg", "r.jpg"]
        kinds = [[label.class_index for label in s.labels] for s in found]
        assert kinds == [[0], [], [0]]
        # The dog without keypoints is one of a category with hands.
        assert [len(s.unlabelled) for s in found] == [0, 0, 1]
        assert "count as palms: ['fist', 'dog']" in log[0]

    def test_categories_without_hands_do_not_count(self, tmp_path, log):
        found, faults = read(tmp_path, classes=None)
        assert faults == [] and [s.path.name for s in found] == ["p.jpg", "q.jpg"]
        assert found[0].labels[0].class_index == 0
        assert "count as palms: ['fist']" in log[0]

    def test_odd_categories_do_no_harm(self, tmp_path):
        _, (fault,) = read(tmp_path, adding(category_id=[]), None)
        assert "`category_id` must be one of" in fault

    def test_no_hands_at_all(self, tmp_path):
        change = changing(("annotations", 0, "keypoints"), [1, 2, 2] * 17)
        _, (fault,) = read(tmp_path, change, None)
        assert "c.json: must have a category with 7 or 21 keypoints" in fault
        assert "['dog', 'fist']" in fault


class TestNotLearntFrom:
    @pytest.mark.parametrize(
        "note",
        [
            {"keypoints": [20, 50, 2] * 6 + [0, 0, 0]},
            {"keypoints": [0, 0, 0] * 7, "num_keypoints": 0},
            {"keypoints": [0, 0, 0] * 21, "num_keypoints": 0},
            {"keypoints": []},
            {"keypoints": None},
        ],
    )
    def test_hands_without_all_their_keypoints(self, tmp_path, log, note):
        found, faults = read(tmp_path, adding(**note))
        assert faults == []
        assert len(found[0].labels) == 1 and found[0].unlabelled == (BOX,)
        assert "1 hands without all their keypoints and 0 crowds" in log[0]

    def test_crowds(self, tmp_path, log):
        note = {"iscrowd": 1, "keypoints": [0, 0, 0] * 7}
        found, faults = read(tmp_path, adding(**note))
        assert faults == []
        assert len(found[0].labels) == 1 and found[0].unlabelled == (BOX,)
        assert "0 hands without all their keypoints and 1 crowds" in log[0]

    @pytest.mark.parametrize(
        "points, expected", [(POINTS, 1), ([0, 0, 0] * 21, 1), ([0, 0, 0] * 17, 0)]
    )
    def test_hands_of_other_categories(self, tmp_path, points, expected):
        # 17 keypoints are a person's.
        note = {"category_id": 8, "keypoints": points}
        found, faults = read(tmp_path, adding(**note))
        assert faults == [] and len(found[0].unlabelled) == expected

    def test_annotations_of_no_picture(self, tmp_path, log):
        def change(document):
            document["annotations"] += [{"image_id": [1]}, {"image_id": 99}, {}]

        _, faults = read(tmp_path, change)
        assert faults == [] and "3 annotations of no picture" in log[-1]


class TestFaults:
    @pytest.mark.parametrize(
        ("place", "value", "words"),
        [
            (("annotations", 0, "bbox"), [1, 2, 3], "4 numbers"),
            (("annotations", 0, "bbox"), [1, 2, -3, 4], "area"),
            (("annotations", 0, "bbox"), [1, 2, 0, 4], "area"),
            (("annotations", 0, "bbox"), [1, 2, 3000, 4], "in the picture"),
            (("annotations", 0, "keypoints"), [1, 2, 2] * 6, "triples"),
            (("annotations", 0, "keypoints"), [900, 2, 2] * 7, "in the picture"),
            (("annotations", 0, "keypoints"), ["1"] * 21, "numbers"),
            (("annotations", 0, "keypoints"), [1, 2, 0] * 7, "1 without"),
            (("annotations", 0, "keypoints"), None, "1 without"),
            (("annotations", 0, "category_id"), 9, "`category_id` must be one of"),
            (("annotations", 0, "category_id"), [], "`category_id` must be one of"),
            (("images", 0, "width"), 0, "`width` must be positive"),
            (("images", 0, "width"), 100, "set upright by its EXIF: 200 x 100"),
            (("images", 0, "id"), None, "an `id` of its own"),
            (("images", 0, "id"), 2, "an `id` of its own"),
            (("images", 0, "file_name"), "q.jpg", "image 0, too"),
            (("images", 0, "file_name"), "missing.jpg", "must lie in"),
            (("images", 0, "file_name"), "../p.jpg", "data's folder"),
            (("images", 0, "file_name"), "/etc/hostname", "data's folder"),
            (("images", 0, "file_name"), "a\0b", "`file_name` must be a text"),
            (("images", 0, "file_name"), None, "`file_name` must be a text"),
            (("images",), None, "COCO file"),
            (("categories",), [1], "COCO file"),
            (("categories",), [{"id": 7, "name": "cat"}], "named by a class"),
            (("categories",), MANY_CATEGORIES, "at most 10000"),
            (("annotations",), {}, "`annotations` must be one list"),
        ],
    )
    def test_each_names_the_file(self, tmp_path, place, value, words):
        _, faults = read(tmp_path, changing(place, value))
        assert len(faults) == 1 and words in faults[0] and "c.json" in faults[0]

    def test_all_of_a_hand_come_together(self, tmp_path):
        note = {"bbox": [1, 2, 0, 0], "keypoints": [1, 2, 2] * 6}
        _, (fault,) = read(tmp_path, adding(**note))
        assert "annotation 2 (p.jpg)" in fault
        assert "area" in fault and "triples" in fault

    def test_no_picture_has_more_than_a_thousand_hands(self, tmp_path):
        def change(document):
            document["annotations"] = document["annotations"][:1] * 1000

        found, faults = read(tmp_path, change)
        assert faults == [] and len(found[0].labels) == 1000

        def one_more(document):
            change(document)
            document["annotations"].append({**COCO["annotations"][0], "keypoints": []})

        _, (fault,) = read(tmp_path, one_more)
        assert "annotation 1000 (p.jpg): " in fault and "at most 1000" in fault

    def test_reading_ends_at_five_hundred_faults(self, tmp_path):
        def change(document):
            document["images"] += [{}] * 5000

        _, faults = read(tmp_path, change)
        assert len(faults) == 501 and "image 502: " in faults[-2]
        assert faults[-1] == "Reading ended at 500 faults."

    @pytest.mark.parametrize(
        "text, words",
        [
            ('{"images": [], "images": []}', "`images` must be one list"),
            ('{"images": [], "annotations": []}', "['annotations', 'images']"),
            ('{"images": [', "in the value at byte 12"),
            ('{"images": [0]}', "`images` must hold objects only, at 0"),
            ("[]", "{ must stand at byte 0"),
            ("", "{ must stand at byte 0"),
        ],
    )
    def test_other_files(self, tmp_path, text, words):
        (tmp_path / "c.json").write_text(text)
        _, (fault,) = coco_annotations.read(tmp_path / "c.json", ["palm"])
        assert "c.json: must be a COCO file" in fault and words in fault

    def test_lists_in_any_order_and_other_members(self, tmp_path):
        def change(document):
            for key in ("annotations", "info", "categories", "images"):
                document[key] = document.pop(key, {"year": 2014})

        found, faults = read(tmp_path, change)
        assert faults == [] and len(found[0].labels) == 1

    def test_a_picture_on_its_side(self, tmp_path):
        def change(document):  # A camera's, stored lying; the labels were drawn so.
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.new("RGB", (200, 100)).save(tmp_path / "p.jpg", exif=exif)

        _, (fault,) = read(tmp_path, change)
        assert "set upright by its EXIF: 100 x 200" in fault

    def test_a_picture_made_smaller_is_none(self, tmp_path):
        def change(document):
            Image.new("RGB", (67, 33)).save(tmp_path / "p.jpg")

        found, faults = read(tmp_path, change)
        assert faults == [] and found[0].labels[0].box == BOX

    def test_odd_categories_do_no_harm(self, tmp_path):
        def change(document):
            document["categories"] += [{"id": []}, {"id": 9, "name": ["fist"]}, {}]

        found, faults = read(tmp_path, change)
        assert len(found) == 2 and faults == []
