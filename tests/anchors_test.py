"""Anchors: counts, places and scales as MediaPipe's options give them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ondevice.detection import anchors

COUNTS = {
    "palm_256": 2944,
    "palm_128": 896,
    "palm_lite": 2016,
    "palm_full": 2016,
    "face_short_range": 896,
    "face_back": 896,
    "face_full_range": 2304,
    "face_full_range_sparse": 2304,
}

# Stride by stride, as ARCHITECTURES.md, section 3 tabulates them.
CELL_SCALES = {
    "palm_full": [[0.148, 0.228], [0.349, 0.438, 0.550, 0.642, 0.75, 0.866]],
    "palm_256": [
        [0.117, 0.180],
        [0.275, 0.346],
        [0.434, 0.507, 0.592, 0.666, 0.75, 0.866],
    ],
    "face_back": [[0.156, 0.235], [0.354, 0.442, 0.552, 0.644, 0.75, 0.866]],
}
GRIDS = {"palm_full": [24, 12], "palm_256": [32, 16, 8], "face_back": [16, 8]}


class TestCentres:
    def test_every_preset_has_a_count(self):
        assert set(COUNTS) == set(anchors.PRESETS)

    @pytest.mark.parametrize("name", COUNTS)
    def test_count(self, name):
        spec = anchors.PRESETS[name]
        assert anchors.centres(spec).shape == (COUNTS[name], 2)
        assert anchors.scales(spec).shape == (COUNTS[name],)
        assert anchors.centres(spec).dtype == anchors.scales(spec).dtype == np.float32

    def test_places_by_hand(self):
        found = anchors.centres(anchors.PRESETS["palm_full"])
        # Two a cell, along x first; cell (0, 0), (1, 0), then the second row.
        np.testing.assert_allclose(found[0], [0.5 / 24, 0.5 / 24])
        np.testing.assert_allclose(found[1], found[0])
        np.testing.assert_allclose(found[2], [1.5 / 24, 0.5 / 24])
        np.testing.assert_allclose(found[48], [0.5 / 24, 1.5 / 24])
        # The second grid follows the first whole; six a cell.
        np.testing.assert_allclose(found[1152], [0.5 / 12, 0.5 / 12])
        np.testing.assert_allclose(found[1157], [0.5 / 12, 0.5 / 12])
        np.testing.assert_allclose(found[1158], [1.5 / 12, 0.5 / 12])
        np.testing.assert_allclose(found[-1], [11.5 / 12, 11.5 / 12])

    @pytest.mark.parametrize("name", COUNTS)
    def test_centres_surround_the_middle_evenly(self, name):
        found = anchors.centres(anchors.PRESETS[name])
        # Float32 means over thousands of terms.
        np.testing.assert_allclose(found.mean(axis=0), [0.5, 0.5], atol=1e-6)
        assert 0 < found.min() and found.max() < 1

    def test_side_is_rounded_up_when_the_stride_does_not_divide_it(self):
        spec = anchors.AnchorSpec(10, (4,), 0.2, interpolated_scale_aspect_ratio=0.0)
        assert len(anchors.centres(spec)) == 9


class TestScales:
    @pytest.mark.parametrize("name", CELL_SCALES)
    def test_scales_as_tabulated(self, name):
        found = anchors.scales(anchors.PRESETS[name])
        start = 0
        for side, expected in zip(GRIDS[name], CELL_SCALES[name], strict=True):
            grid = found[start : start + side * side * len(expected)]
            cells = np.tile(expected, (side**2, 1))
            # The table has three digits.
            np.testing.assert_allclose(grid.reshape(cells.shape), cells, atol=1e-3)
            start += grid.size
        assert start == len(found)

    def test_one_layer_takes_the_middle_of_the_range(self):
        found = anchors.scales(anchors.PRESETS["face_full_range"])
        np.testing.assert_allclose(found, (0.1484375 + 0.75) / 2)

    def test_last_anchor_lies_between_the_greatest_scale_and_one(self):
        found = anchors.layer_scales(anchors.PRESETS["palm_full"])[-1]
        assert found == pytest.approx((0.75, math.sqrt(0.75)))


class TestAnchorSpec:
    @pytest.mark.parametrize("name", COUNTS)
    def test_json_round_trip(self, name):
        spec = anchors.PRESETS[name]
        text = json.dumps(spec.to_dict())
        assert anchors.AnchorSpec.from_dict(json.loads(text)) == spec

    def test_dict_carries_every_field(self):
        fields = {field.name for field in dataclasses.fields(anchors.AnchorSpec)}
        assert set(anchors.PRESETS["palm_full"].to_dict()) == fields

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"input_size": 0}, "input_size"),
            ({"input_size": True}, "input_size"),
            ({"input_size": 192.0}, "input_size"),
            ({"input_size": 10**9}, "input_size"),
            ({"strides": []}, "strides"),
            ({"strides": "8"}, "strides"),
            ({"strides": [16, 8]}, "strides"),
            ({"strides": [0]}, "strides"),
            ({"min_scale": math.nan}, "min_scale"),
            ({"min_scale": 0.0}, "positive"),
            ({"min_scale": "0.1"}, "min_scale"),
            ({"min_scale": -0.1}, r"`min_scale` must be a number in \[0, 1\]"),
            ({"max_scale": 0.1}, "at most `max_scale`"),
            ({"anchor_offset": -0.1}, "anchor_offset"),
        ],
    )
    def test_refuses_wrong_fields(self, change, words):
        fields = {**anchors.PRESETS["palm_full"].to_dict(), **change}
        with pytest.raises(ValueError, match=words):
            anchors.AnchorSpec.from_dict(fields)

    def test_names_every_fault_at_once(self):
        with pytest.raises(ValueError, match="input_size.*strides.*min_scale"):
            anchors.AnchorSpec(-1, (), math.inf)

    def test_refuses_surplus_and_missing_fields(self):
        fields = anchors.PRESETS["palm_full"].to_dict()
        with pytest.raises(ValueError, match="fields"):
            anchors.AnchorSpec.from_dict({**fields, "more": 1})
        del fields["strides"]
        with pytest.raises(ValueError, match="fields"):
            anchors.AnchorSpec.from_dict(fields)
        with pytest.raises(ValueError, match="mapping"):
            anchors.AnchorSpec.from_dict([1])
