"""Tests of COCO's average precision."""

import sys
from unittest import mock

import pytest

from ondevice.detection import decoding, metrics, targets
from ondevice.device import coco

BOX = (0.2, 0.2, 0.6, 0.6)
FAR = (0.7, 0.7, 0.9, 0.9)


def judged(box, class_index=0, score=0.9):
    found = (decoding.Detection(box, score, class_index),) if box else ()
    return metrics.Judged((targets.Label(BOX, (), 0),), found)


def test_none_without_the_library():
    with mock.patch.dict(sys.modules, {"pycocotools": None}):
        assert coco.average_precision([judged(BOX)], ["a"]) is None


@pytest.mark.parametrize(
    "images, expected",
    [
        ([judged(BOX)], (1.0, 1.0)),
        ([judged(FAR)], (0.0, 0.0)),
        ([judged(None)], (0.0, 0.0)),
        ([judged(BOX, 1)], (0.0, 0.0)),
        # IoU 0.72: right at the thresholds 0.5 to 0.7, five of ten.
        ([judged((0.2, 0.2, 0.6, 0.488))], (0.5, 1.0)),
        ([metrics.Judged((), ())], (None, None)),
        ([], (None, None)),
    ],
    ids=["right", "far", "missed", "class", "loose", "background", "empty"],
)
def test_values(images, expected, capsys):
    pytest.importorskip("pycocotools")
    assert coco.average_precision(images, ["a", "b"]) == pytest.approx(expected)
    assert capsys.readouterr().out == ""


def test_a_box_in_pixels_and_its_area():
    made = coco._box((0.25, 0.5, 0.75, 0.625))
    side = coco._PIXELS
    assert made["bbox"] == [side / 4, side / 2, side / 2, side / 8]
    assert made["area"] == side * side / 16
