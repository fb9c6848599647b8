"""Whatever a picture or an annotation holds: it is read as it is, or refused."""

from __future__ import annotations

import io
import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ondevice.device import annotations, coco_annotations, images

SIDES = st.integers(1, 12)
PIXELS = st.tuples(SIDES, SIDES).flatmap(
    lambda shape: arrays.arrays(np.uint8, (*shape, 3))
)
# In the picture or next to it, far from it, and no numbers at all.
INSIDE = st.floats(-0.5, 1.5)
ODD = st.sampled_from(
    [math.nan, math.inf, 2**60, 1.6, -0.6, True, None, "1", [0.5], {}]
)
CLASSES = ("palm", "fist")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("readers")
    Image.new("RGB", (4, 4)).save(made / "p.png")
    return made


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


@given(PIXELS, st.sampled_from(("PNG", "BMP", "PPM", "TIFF")), SIDES)
def test_a_picture_comes_back(tmp_path_factory, pixels, kind, side):
    path = tmp_path_factory.getbasetemp() / "x.png"  # The name does not matter.
    path.write_bytes(encoded(pixels, kind))
    np.testing.assert_array_equal(images.read(path), pixels)
    assert images.size(path) == pixels.shape[1::-1]
    # A smaller one is some of its pixels, its longer side not below what was asked for.
    fewer = images.read(path, side)
    step = max(1, max(pixels.shape[:2]) // side)
    np.testing.assert_array_equal(fewer, pixels[::step, ::step])
    if max(pixels.shape) >= side:
        assert side <= max(fewer.shape[:2]) < 2 * side


@given(PIXELS, st.sampled_from(("PNG", "JPEG", "GIF", "WEBP", "TIFF")), st.data())
def test_a_damaged_picture_is_read_or_refused(tmp_path_factory, pixels, kind, data):
    whole = bytearray(encoded(pixels, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    try:
        found = images.read(path)
    except images.ImageError as error:
        assert str(path) in str(error)
    else:
        assert found.dtype == np.uint8 and found.shape[2:] == (3,)


def hands(coordinates) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(
        {
            "label": st.sampled_from(["palm", "fist", "1", "2", 1, 2]),
            "bounding_box": st.lists(coordinates, min_size=4, max_size=4),
            "key_points": st.lists(coordinates, min_size=14, max_size=14),
        }
    )


def read_pairs(folder, found):
    (folder / "p.json").write_text(json.dumps(found))
    return annotations.read_pairs(folder, folder, CLASSES)


@given(st.lists(hands(INSIDE), max_size=3))
def test_hands_are_read_as_they_are(folder, found):
    (sample,), faults = read_pairs(folder, found)
    flat = [
        number
        for number, hand in enumerate(found)
        if not (
            hand["bounding_box"][0] < hand["bounding_box"][2]
            and hand["bounding_box"][1] < hand["bounding_box"][3]
        )
    ]
    assert len(faults) == len(flat)
    for number, fault in zip(flat, faults):
        assert f"hand {number}: the box must have an area" in fault
    right = [hand for number, hand in enumerate(found) if number not in flat]
    for label, hand in zip(sample.labels, right, strict=True):
        assert list(label.box) == hand["bounding_box"]
        assert [x for point in label.keypoints for x in point] == hand["key_points"]
        assert label.class_index == (str(hand["label"]) in ("fist", "2"))


@given(hands(INSIDE), st.sampled_from(("bounding_box", "key_points")), ODD, st.data())
def test_a_hand_with_an_odd_number_is_refused(folder, hand, key, odd, data):
    hand[key][data.draw(st.integers(0, len(hand[key]) - 1))] = odd
    found, (fault,) = read_pairs(folder, [hand])
    assert not any(sample.labels for sample in found)
    is_json = not isinstance(odd, float) or math.isfinite(odd)
    assert ("p.json: hand 0: " if is_json else "numbers must be finite") in fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("label", "bounding_box", "key_points", "x")), inner
        )
    ),
    max_leaves=6,
)


@given(JSON)
def test_any_json_is_read_or_refused(folder, value):
    samples, faults = read_pairs(folder, value)
    assert faults or samples[0].labels == () and value == []


@given(
    st.tuples(*[st.integers(0, 400)] * 4),
    st.lists(st.integers(-20, 220), min_size=14, max_size=14),
)
def test_a_coco_hand_is_in_units_of_its_picture(tmp_path_factory, box, points):
    folder = tmp_path_factory.getbasetemp() / "coco"
    folder.mkdir(exist_ok=True)
    if not (folder / "p.png").exists():
        Image.new("RGB", (200, 100)).save(folder / "p.png")
    triples = [n for x, y in zip(points[::2], points[1::2]) for n in (x, y, 2)]
    document = {
        "images": [{"id": 1, "file_name": "p.png", "width": 200, "height": 100}],
        "categories": [{"id": 7, "name": "fist"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": box, "keypoints": triples}
        ],
    }
    (folder / "c.json").write_text(json.dumps(document))
    samples, faults = coco_annotations.read(folder / "c.json", CLASSES)
    x, y, width, height = box
    units = np.array([x / 200, y / 100, (x + width) / 200, (y + height) / 100])
    places = np.array(points).reshape(-1, 2) / (200, 100)
    near = all(np.all((-0.5 <= n) & (n <= 1.5)) for n in (units, places))
    if not (near and width and height):
        assert len(faults) == 1 and "c.json: " in faults[0]
        return
    assert not faults
    (label,) = samples[0].labels
    assert label.class_index == 1
    np.testing.assert_allclose(label.box, units, rtol=0, atol=1e-12)
    np.testing.assert_allclose(label.keypoints, places, rtol=0, atol=1e-12)
