"""Readers of annotations: what they take, and what they say of the rest."""

import copy
import json

import pytest
from PIL import Image

from ondevice.device import annotations

HAND = {
    "label": "1",
    "bounding_box": [0.1, 0.2, 0.5, 0.6],
    "key_points": [round(0.05 * i, 2) for i in range(14)],
}

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
            "keypoints": [20, 50, 2] * 7,
        },
        {"image_id": 3, "category_id": 8, "bbox": [0, 0, 1, 1]},
    ],
}


def pairs(tmp_path, text, classes=("palm",)):
    Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
    (tmp_path / "p.json").write_text(text)
    return annotations.read_pairs(tmp_path, tmp_path, classes)


def coco(tmp_path, change=lambda document: None, classes=("palm", "fist")):
    for name in ("p", "q", "r"):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{name}.jpg")
    document = copy.deepcopy(COCO)
    change(document)
    path = tmp_path / "c.json"
    path.write_text(json.dumps(document))
    return annotations.read_coco(path, classes)


class TestPairs:
    def test_by_hand(self, tmp_path):
        ((sample,), faults) = pairs(tmp_path, json.dumps([HAND]))
        assert faults == []
        (label,) = sample.labels
        assert label.box == (0.1, 0.2, 0.5, 0.6) and label.class_index == 0
        assert label.keypoints[1] == (0.1, 0.15) and len(label.keypoints) == 7

    @pytest.mark.parametrize(
        ("label", "classes", "expected"),
        [
            ("1", ("palm",), 0),
            (2, ("palm", "fist"), 1),
            ("fist", ("palm", "fist"), 1),
            ("1", ("0", "1"), 1),  # A name comes before a number.
            ("2", ("0", "1"), 1),
        ],
    )
    def test_label_is_a_name_or_counts_from_one(
        self, tmp_path, label, classes, expected
    ):
        text = json.dumps([{**HAND, "label": label}])
        ((sample,), faults) = pairs(tmp_path, text, classes)
        assert faults == [] and sample.labels[0].class_index == expected

    def test_no_hands_is_background(self, tmp_path):
        ((sample,), faults) = pairs(tmp_path, "[]")
        assert sample.labels == () and faults == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"label": "0"}, "`label`"),
            ({"label": "3"}, "`label`"),
            ({"label": None}, "`label`"),
            ({"label": "9" * 5000}, "`label`"),
            ({"bounding_box": [0.1, 0.2, 0.3]}, "4 numbers"),
            ({"bounding_box": [0.1, 0.2, 0.3, "1"]}, "4 numbers"),
            ({"bounding_box": [0.1, 0.2, 0.3, True]}, "4 numbers"),
            ({"bounding_box": [0.5, 0.2, 0.1, 0.6]}, "area"),
            ({"bounding_box": [10, 20, 50, 60]}, "units of its width"),
            ({"bounding_box": [0, 0, 1, 10**400]}, "4 numbers"),
            ({"key_points": [0.1] * 13}, "14 numbers"),
            ({"key_points": [float("nan")] * 14}, "14 numbers"),
            ({"key_points": None}, "14 numbers"),
        ],
    )
    def test_faults_name_file_and_hand(self, tmp_path, change, words):
        text = json.dumps([HAND, {**HAND, **change}])
        _, (fault,) = pairs(tmp_path, text)
        assert "p.json: hand 1" in fault and words in fault

    @pytest.mark.parametrize(
        "text", ["", "{", '{"a": 1}', "[1]", "[" * 100_000, "\0\1", "1" * 9999]
    )
    def test_other_files_are_faults(self, tmp_path, text):
        _, faults = pairs(tmp_path, text)
        assert len(faults) == 1 and "p.json" in faults[0]

    def test_missing_annotation_is_a_fault(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
        _, (fault,) = annotations.read_pairs(tmp_path, tmp_path, ["palm"])
        assert "p.json: is missing" in fault

    def test_layouts(self, tmp_path):
        assert annotations.find_pairs(tmp_path) is None
        pairs(tmp_path, "[]")
        assert annotations.find_pairs(tmp_path) == (tmp_path, tmp_path)
        for name in ("train_image", "train_annotation"):
            (tmp_path / name).mkdir()
        expected = (tmp_path / "train_image", tmp_path / "train_annotation")
        assert annotations.find_pairs(tmp_path) == expected


class TestCoco:
    def test_by_hand(self, tmp_path):
        found, faults = coco(tmp_path)
        assert faults == []
        # The dog's picture is left out; the one without annotations is background.
        assert [s.path.name for s in found] == ["p.jpg", "q.jpg"]
        (label,) = found[0].labels
        assert label.box == pytest.approx((0.1, 0.1, 0.6, 0.6))
        assert label.keypoints == ((0.1, 0.5),) * 7 and label.class_index == 1
        assert found[1].labels == ()

    def test_palm_of_a_hand_of_21_keypoints(self, tmp_path):
        def change(document):
            points = [v for i in range(21) for v in (10 * i, i, 2)]
            document["annotations"][0]["keypoints"] = points

        found, faults = coco(tmp_path, change)
        assert faults == []
        expected = [(10 * i / 200, i / 100) for i in (0, 5, 9, 13, 17, 1, 2)]
        assert list(found[0].labels[0].keypoints) == expected

    @pytest.mark.parametrize(
        ("place", "value", "words"),
        [
            (("annotations", 0, "bbox"), [1, 2, 3], "4 numbers"),
            (("annotations", 0, "bbox"), [1, 2, -3, 4], "area"),
            (("annotations", 0, "bbox"), [1, 2, 3000, 4], "in the picture"),
            (("annotations", 0, "keypoints"), [1, 2, 2] * 6, "triples"),
            (("annotations", 0, "keypoints"), [1, 2, 2] * 6 + [0] * 3, "Missing: [6]"),
            (("annotations", 0, "keypoints"), None, "numbers"),
            (("images", 0, "width"), 0, "`width` must be positive"),
            (("images", 0, "file_name"), "missing.jpg", "must lie in"),
            (("images", 0, "file_name"), "../p.jpg", "data's folder"),
            (("images", 0, "file_name"), "/etc/hostname", "data's folder"),
            (("images", 0, "file_name"), "a\0b", "`file_name` must be a text"),
            (("images", 0, "file_name"), None, "`file_name` must be a text"),
            (("images",), None, "COCO file"),
            (("categories",), [1], "COCO file"),
        ],
    )
    def test_faults(self, tmp_path, place, value, words):
        def change(document):
            for key in place[:-1]:
                document = document[key]
            document[place[-1]] = value

        _, faults = coco(tmp_path, change)
        assert len(faults) == 1 and words in faults[0] and "c.json" in faults[0]

    def test_odd_ids_do_no_harm(self, tmp_path):
        def change(document):
            document["annotations"] += [
                {"image_id": [1], "category_id": {}},
                {"image_id": 1, "category_id": []},
            ]
            document["categories"] += [{"id": []}, {"id": 9, "name": ["fist"]}]

        found, faults = coco(tmp_path, change)
        assert len(found) == 2 and faults == []
