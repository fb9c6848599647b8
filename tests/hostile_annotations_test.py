"""Annotations that quote, name or count without end."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from PIL import Image

from checkpoints import allowance
from ondevice.device import annotations, coco_annotations, coco_index, samples
from tests import coco_annotations_test

# What Python writes out at sixteen bytes for one.
WIDE = ["\U0001f600" + "\x7f" * 120_000]


def read(tmp_path, classes=("fist",), **changed):
    Image.new("RGB", (200, 100)).save(tmp_path / "p.jpg")
    document = coco_annotations_test.COCO | changed
    text = json.dumps(document, ensure_ascii=False)
    (tmp_path / "c.json").write_text(text)
    tracemalloc.start()
    try:
        _, faults = coco_annotations.read(tmp_path / "c.json", classes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= allowance.of(len(text.encode()))
    assert max(map(len, faults), default=0) <= 1000
    return faults


@pytest.mark.parametrize(
    "changed",
    [
        {"categories": [{"id": n, "name": WIDE} for n in range(60)]},
        {"images": [{"id": n, "file_name": WIDE} for n in range(60)]},
        {"images": [{"id": WIDE, "file_name": "p.jpg"}] * 60},
        {"categories": [{"id": n, "name": f"{n:0999}"} for n in range(999)]},
    ],
)
def test_faults_are_short(tmp_path, changed):
    assert read(tmp_path, **changed)


def test_a_label_is_quoted_in_short():
    text = annotations.quoted(WIDE)
    assert text.startswith("['\U0001f600\\x7f") and len(text) < 400
    assert annotations.quoted(["a", 1, {"b": None}]) == "['a', 1, {'b': None}]"


def test_a_categorys_name_is_a_text(tmp_path):
    (fault,) = read(tmp_path, ("['fist']",), categories=[{"id": 7, "name": ["fist"]}])
    assert "named by a class" in fault


@pytest.mark.parametrize(
    ("value", "is_one"),
    [("a", True), (2**53 - 1, True), (2**53, False), (True, False), (1.0, False)],
)
def test_ids(value, is_one):
    assert coco_index.is_id(value) is is_one


def test_categories_of_hands_are_bounded(tmp_path):
    notes = [{"category_id": n, "keypoints": [0] * 21} for n in range(10_001)]
    (fault,) = read(tmp_path, annotations=notes)
    assert "at most 10000 categories" in fault


def test_a_file_name_of_any_length_is_one_fault(tmp_path):
    entries = [
        {"id": 1, "file_name": "x" * 5000},
        {"id": 2, "file_name": "\u4e00" * 200},
        {"id": 3, "file_name": "a\0"},
    ]
    faults = read(tmp_path, images=entries)
    assert [words in fault for words, fault in zip(
        ("must lie in", "must lie in", "must be a text"), faults, strict=True
    )] == [True] * 3  # fmt: skip


def test_the_end_of_reading_is_told(tmp_path):
    faults = read(tmp_path, images=[{}] * 5000)
    assert "Reading ended at 500 faults." in str(samples.DataError("data", faults))
