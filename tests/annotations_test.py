"""Readers of annotations: what they take, and what they say of the rest."""

import json

import pytest
from PIL import Image

from ondevice.device import annotations

HAND = {
    "label": "1",
    "bounding_box": [0.1, 0.2, 0.5, 0.6],
    "key_points": [round(0.05 * i, 2) for i in range(14)],
}


def pairs(tmp_path, text, classes=("palm",)):
    Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
    (tmp_path / "p.json").write_text(text)
    return annotations.read_pairs(tmp_path, tmp_path, classes)


def test_integers_are_numbers_as_far_as_a_float_tells_them_apart():
    for sign in (1, -1):
        assert annotations.is_finite(sign * (2**53 - 1))
        assert not annotations.is_finite(sign * 2**53)


class TestPairs:
    def test_by_hand(self, tmp_path):
        (sample,), faults = pairs(tmp_path, json.dumps([HAND]))
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
        (sample,), faults = pairs(tmp_path, text, classes)
        assert faults == [] and sample.labels[0].class_index == expected

    @pytest.mark.parametrize("label", ["fist", 99, None, []])
    def test_label_does_not_matter_where_classes_are_ignored(self, tmp_path, label):
        text = json.dumps([{**HAND, "label": label}])
        (sample,), faults = pairs(tmp_path, text, None)
        assert faults == [] and sample.labels[0].class_index == 0

    def test_no_hands_is_background(self, tmp_path):
        (sample,), faults = pairs(tmp_path, "[]")
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
            ({"key_points": None}, "14 numbers"),
        ],
    )
    def test_faults_name_file_and_hand(self, tmp_path, change, words):
        text = json.dumps([HAND, {**HAND, **change}])
        _, (fault,) = pairs(tmp_path, text)
        assert "p.json: hand 1" in fault and words in fault

    def test_all_faults_of_a_hand_come_together(self, tmp_path):
        hand = {"label": "3", "bounding_box": [0, 0, 0, 1], "key_points": []}
        _, (fault,) = pairs(tmp_path, json.dumps([hand]))
        assert all(words in fault for words in ("`label`", "area", "14 numbers"))

    @pytest.mark.parametrize(
        "text", ["", "{", '{"a": 1}', "[1]", "[" * 100_000, "\0\1", "1" * 9999, "[NaN]"]
    )
    def test_other_files_are_faults(self, tmp_path, text):
        _, faults = pairs(tmp_path, text)
        assert len(faults) == 1 and "p.json" in faults[0]

    def test_utf_8_with_its_mark(self, tmp_path):
        text = json.dumps([HAND]).encode("utf-8-sig")
        (tmp_path / "p.json").write_bytes(text)
        Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
        (sample,), faults = annotations.read_pairs(tmp_path, tmp_path, ["palm"])
        assert len(sample.labels) == 1 and faults == []
        (tmp_path / "p.json").write_bytes(text + b"\xff")
        _, (fault,) = annotations.read_pairs(tmp_path, tmp_path, ["palm"])
        assert "p.json: must be JSON in UTF-8" in fault

    def test_no_picture_has_more_than_a_thousand_hands(self, tmp_path):
        (sample,), faults = pairs(tmp_path, json.dumps([HAND] * 1000))
        assert len(sample.labels) == 1000 and faults == []
        _, (fault,) = pairs(tmp_path, json.dumps([HAND] * 1001))
        assert "p.json: must hold a list of at most 1000 hands" in fault

    def test_reading_ends_at_five_hundred_faults(self, tmp_path):
        for name in ("a", "b"):
            Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.jpg")
            (tmp_path / f"{name}.json").write_text(json.dumps([{}] * 600))
        _, faults = pairs(tmp_path, "[]")
        assert len(faults) == 501 and "a.json: hand 499: " in faults[-2]
        assert faults[-1] == "Reading ended at 500 faults."

    def test_missing_annotation_is_a_fault(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
        _, (fault,) = annotations.read_pairs(tmp_path, tmp_path, ["palm"])
        assert "p.json: is missing" in fault

    def test_annotation_without_a_picture_is_a_fault(self, tmp_path):
        (tmp_path / "q.json").write_text("[]")
        (sample,), (fault,) = pairs(tmp_path, json.dumps([HAND]))
        assert "q.json: must have a picture of its name" in fault

    def test_two_pictures_of_one_annotation_are_a_fault(self, tmp_path):
        Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
        _, (fault,) = pairs(tmp_path, json.dumps([HAND]))
        assert all(name in fault for name in ("p.json", "p.jpg", "p.png"))

    def test_layouts(self, tmp_path):
        assert annotations.find_pairs(tmp_path) is None
        pairs(tmp_path, "[]")
        assert annotations.find_pairs(tmp_path) == (tmp_path, tmp_path)
        for name in ("train_image", "train_annotation"):
            (tmp_path / name).mkdir()
        expected = (tmp_path / "train_image", tmp_path / "train_annotation")
        assert annotations.find_pairs(tmp_path) == expected
