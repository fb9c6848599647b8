"""Which anchors hold a hand, and what they are to regress to."""

import dataclasses

import numpy as np
import pytest

from ondevice.detection import anchors, decoding, geometry, targets
from ondevice.device import images
from tests import shared_data

SPEC = anchors.PRESETS["palm_full"]
SCALES = anchors.scales(SPEC)
CENTRES = anchors.centres(SPEC)
POINTS = tuple((0.1 * k, 0.9 - 0.1 * k) for k in range(7))


def label(middle, side, class_index=0, keypoints=POINTS):
    x, y = middle
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return targets.Label(box, keypoints, class_index)


class TestMatcher:
    def test_anchor_as_large_as_the_enlarged_box_fits_whole(self):
        matcher = targets.Matcher(SPEC, 1)
        for anchor in (0, 1, 1152, 2015):
            side = float(SCALES[anchor]) / matcher.rule.enlargement
            if side * matcher.rule.enlargement < matcher.rule.smallest:
                continue
            found = matcher.overlaps(label(CENTRES[anchor], side).box)
            # Float32.
            assert found[anchor] == pytest.approx(1, abs=1e-5)
            assert found.argmax() == anchor

    def test_overlap_by_hand(self):
        rule = targets.MatchingRule(2.0, 0.0, 0.5, 0.4)
        spec = anchors.AnchorSpec(16, (8,), 0.4, 0.4, 0.0)
        matcher = targets.Matcher(spec, 1, 7, rule)
        # Enlarged to 0.8 around the anchor of side 0.4 at (0.25, 0.25).
        found = matcher.overlaps((0.05, 0.05, 0.45, 0.45))
        assert found[0] == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("side", "expected"),
        # What palm full fires at: ARCHITECTURES.md, section 3, one hand at 8 zooms.
        [(0.10, {0.148}), (0.16, {0.148, 0.228}), (0.27, {0.349, 0.438})],
    )
    def test_scales_follow_the_size_of_the_box(self, side, expected):
        matcher = targets.Matcher(SPEC, 1)
        found = matcher.targets([label((0.5, 0.5), side)])
        held = {round(float(s), 3) for s in SCALES[found.class_targets[:, 0] == 1]}
        assert expected <= held
        assert max(held) < 0.56

    @pytest.mark.parametrize("side", [0.06, 0.3, 0.9])
    def test_full_range_holds_a_face_by_its_centre_whatever_its_size(self, side):
        spec = anchors.PRESETS["face_full_range"]
        matcher = targets.Matcher(spec, 1, 6)
        middle = (20.7 / 48, 31.7 / 48)  # 0.2 cells from the centre of cell (20, 31)
        found = matcher.targets([label(middle, side, keypoints=POINTS[:6])])
        held = np.flatnonzero(found.class_targets[:, 0])
        rows, columns = np.divmod(held, 48)
        # Squares of three cells, 0.8 and 0.2 apart: 2.2 * 2.8 / (18 - 2.2 * 2.8), 0.52.
        cells = set(zip(columns.tolist(), rows.tolist()))
        assert cells == {(20, 31), (21, 31), (20, 32)}
        ignored = np.flatnonzero(found.anchor_weights == 0)
        assert ignored.size and (np.abs(ignored // 48 - 31) <= 2).all()

    def test_three_kinds_of_anchors(self):
        matcher = targets.Matcher(SPEC, 3)
        hand = label((0.4, 0.6), 0.3, class_index=2)
        found = matcher.targets([hand])
        overlap = matcher.overlaps(hand.box)
        positive = overlap >= 0.55
        ignored = (overlap >= 0.4) & ~positive
        assert positive.sum() > 2 and ignored.sum() > 2
        np.testing.assert_array_equal(found.class_targets[:, 2] == 1, positive)
        assert not found.class_targets[:, :2].any()
        np.testing.assert_array_equal(found.anchor_weights == 0, ignored)
        assert set(np.unique(found.anchor_weights)) == {0, 1}
        assert not found.box_targets[~positive].any()

    def test_box_targets_decode_to_the_label(self):
        hand = label((0.4, 0.6), 0.3)
        found = targets.Matcher(SPEC, 1).targets([hand])
        held = found.class_targets[:, 0] == 1
        boxes = decoding.decode_boxes(found.box_targets, CENTRES, 192)[held]
        points = decoding.decode_keypoints(found.box_targets, CENTRES, 192)[held]
        # Float32.
        np.testing.assert_allclose(boxes, [hand.box] * held.sum(), atol=1e-6)
        np.testing.assert_allclose(points, [POINTS] * held.sum(), atol=1e-6)

    def test_shapes_and_dtypes_of_the_contract(self):
        found = targets.Matcher(SPEC, 7).targets([])
        assert found.class_targets.shape == (2016, 7)
        assert found.box_targets.shape == (2016, 18)
        assert found.anchor_weights.shape == (2016,)
        arrays = dataclasses.asdict(found).values()
        assert {array.dtype for array in arrays} == {np.dtype(np.float32)}

    def test_no_hand_makes_all_background(self):
        found = targets.Matcher(SPEC, 2).targets([])
        assert not found.class_targets.any() and (found.anchor_weights == 1).all()

    @pytest.mark.parametrize("side", [0.05, 0.3, 0.6])
    def test_no_anchor_that_could_hold_an_unlabelled_hand_is_background(self, side):
        matcher = targets.Matcher(SPEC, 1)
        hand = label((0.4, 0.6), side)
        held = matcher.targets([hand]).class_targets[:, 0] == 1
        found = matcher.targets([], [hand.box])
        assert not found.class_targets.any() and not found.box_targets.any()
        assert held.any() and (found.anchor_weights[held] == 0).all()
        # A crowd holds hands of any size, whose anchors lie in it.
        xmin, ymin, xmax, ymax = hand.box
        x, y = CENTRES.T
        within = (x > xmin) & (x < xmax) & (y > ymin) & (y < ymax)
        assert (found.anchor_weights[within] == 0).all()
        far = (np.abs(CENTRES - [0.4, 0.6]) > side).any(axis=1)
        assert (found.anchor_weights[far] == 1).all()

    def test_labelled_hands_stay_in_a_crowd(self):
        matcher = targets.Matcher(SPEC, 1)
        hand = label((0.4, 0.6), 0.3)
        alone, crowded = matcher.targets([hand]), matcher.targets(
            [hand], [(0.0, 0.0, 1.0, 1.0)]
        )
        np.testing.assert_array_equal(alone.class_targets, crowded.class_targets)
        np.testing.assert_array_equal(alone.box_targets, crowded.box_targets)
        held = alone.class_targets[:, 0] == 1
        np.testing.assert_array_equal(crowded.anchor_weights, held)

    @pytest.mark.parametrize("side", [0.001, 0.02, 0.95, 3.0])
    def test_every_hand_holds_an_anchor_however_small_or_large(self, side):
        found = targets.Matcher(SPEC, 1).targets([label((0.51, 0.52), side)])
        assert found.class_targets.sum() >= 1
        assert (found.anchor_weights[found.class_targets[:, 0] == 1] == 1).all()

    def test_a_hand_outside_the_square_holds_none(self):
        found = targets.Matcher(SPEC, 1).targets([label((7.0, 7.0), 0.3)])
        assert not found.class_targets.any()

    def test_an_anchor_goes_to_the_hand_that_it_overlaps_most(self):
        first, second = label((0.4, 0.5), 0.3, 0), label((0.5, 0.5), 0.3, 1)
        matcher = targets.Matcher(SPEC, 2)
        found = matcher.targets([first, second])
        assert (found.class_targets.sum(axis=1) <= 1).all()
        nearer = matcher.overlaps(first.box) > matcher.overlaps(second.box)
        assert nearer[found.class_targets[:, 0] == 1].all()
        assert not nearer[found.class_targets[:, 1] == 1].any()
        np.testing.assert_array_equal(
            found.class_targets, matcher.targets([second, first]).class_targets
        )

    def test_two_hands_in_one_place_hold_an_anchor_each(self):
        hands = [label((0.51, 0.52), 0.95, 0), label((0.51, 0.52), 0.95, 1)]
        found = targets.Matcher(SPEC, 2).targets(hands)
        assert (found.class_targets.sum(axis=0) >= 1).all()

    @pytest.mark.parametrize(
        "hand",
        [
            label((0.5, 0.5), 0.3, class_index=2),
            label((0.5, 0.5), 0.3, class_index=-1),
            label((0.5, 0.5), 0.0),
            label((0.5, 0.5), float("nan")),
            label((0.5, 0.5), 0.3, keypoints=POINTS[:6]),
            label((0.5, 0.5), 0.3, keypoints=((float("inf"), 0.0), *POINTS[1:])),
        ],
    )
    def test_refuses_wrong_labels(self, hand):
        with pytest.raises(ValueError, match="A label must have"):
            targets.Matcher(SPEC, 2).targets([label((0.5, 0.5), 0.3), hand])

    def test_refuses_no_classes_and_wrong_rules(self):
        with pytest.raises(ValueError, match="class or more"):
            targets.Matcher(SPEC, 0)
        with pytest.raises(ValueError, match="ignore_iou <= positive_iou"):
            targets.MatchingRule(positive_iou=0.3, ignore_iou=0.4)


class TestTaught:
    """A teacher that fires where the test says; its boxes are those of its labels."""

    def seen(self, *hands):
        """(label, anchors, score) of each hand -> regressors and scores."""
        regressors = np.zeros((len(CENTRES), 18), np.float32)
        scores = np.zeros(len(CENTRES), np.float32)
        for hand, held, score in hands:
            regressors[held] = decoding.encode(
                np.array([hand.box], np.float32),
                np.array([hand.keypoints], np.float32),
                CENTRES[held],
                SPEC.input_size,
            )
            scores[held] = score
        return {"regressors": regressors, "scores": scores}

    def test_positive_is_where_the_teacher_sees_the_hand(self):
        matcher, hand = targets.Matcher(SPEC, 3), label((0.4, 0.5), 0.3, 2)
        held = np.array([5, 900, 1500])  # Nowhere near what geometry would choose.
        made = matcher.taught([hand], **self.seen((hand, held, 0.8)))
        expected = np.zeros((len(CENTRES), 3))
        expected[held, 2] = 1
        np.testing.assert_array_equal(made.class_targets, expected)
        np.testing.assert_array_equal(made.anchor_weights, 1)
        boxes = decoding.decode_boxes(made.box_targets, CENTRES, SPEC.input_size)
        np.testing.assert_allclose(boxes[held], [hand.box] * 3, atol=1e-5)

    def test_a_hint_or_a_hand_without_label_is_ignored(self):
        matcher, hand = targets.Matcher(SPEC, 3), label((0.3, 0.3), 0.3, 0)
        other = label((0.8, 0.8), 0.2)
        hands = [(hand, [7], 0.9), (hand, [8], 0.3), (other, [9], 0.95)]
        hands += [(other, [10], 0.05)]
        made = matcher.taught([hand], **self.seen(*hands))
        assert np.flatnonzero(made.class_targets.any(1)).tolist() == [7]
        assert np.flatnonzero(made.anchor_weights == 0).tolist() == [8, 9]

    def test_a_hand_that_the_teacher_misses_is_matched_by_geometry(self):
        matcher = targets.Matcher(SPEC, 2)
        seen, missed = label((0.3, 0.3), 0.2, 0), label((0.7, 0.7), 0.25, 1)
        alone = matcher.targets([missed])
        made = matcher.taught([seen, missed], **self.seen((seen, [3], 0.9)))
        np.testing.assert_array_equal(
            made.class_targets[:, 1], alone.class_targets[:, 1]
        )
        held = alone.class_targets[:, 1] > 0
        np.testing.assert_allclose(made.box_targets[held], alone.box_targets[held])
        ignored = alone.anchor_weights == 0
        np.testing.assert_array_equal(made.anchor_weights == 0, ignored)
        assert np.flatnonzero(made.class_targets[:, 0]).tolist() == [3]

    def test_two_labels_of_one_place_leave_each_anchor_one_class(self):
        first, second = label((0.3, 0.3), 0.2, 0), label((0.3, 0.3), 0.21, 1)
        made = targets.Matcher(SPEC, 2).taught(
            [first, second], **self.seen((first, [7, 8], 0.9))
        )
        assert made.class_targets[[7, 8]].tolist() == [[0, 1], [0, 1]]

    def test_what_may_hold_hands_is_ignored(self):
        matcher, hand = targets.Matcher(SPEC, 3), label((0.3, 0.3), 0.2, 0)
        crowd = (0.6, 0.6, 0.9, 0.9)
        made = matcher.taught([hand], **self.seen((hand, [7], 0.9)), unlabelled=[crowd])
        expected = matcher.targets([], [crowd]).anchor_weights == 0
        assert expected.any()
        np.testing.assert_array_equal(made.anchor_weights == 0, expected)

    def test_without_hands_what_the_teacher_sees_is_left_alone(self):
        other = label((0.8, 0.8), 0.2)
        made = targets.Matcher(SPEC, 2).taught([], **self.seen((other, [9], 0.9)))
        assert not made.class_targets.any()
        assert np.flatnonzero(made.anchor_weights == 0).tolist() == [9]


class TestLabel:
    def test_mirrored_keypoints_keep_their_order(self):
        hand = label((0.3, 0.5), 0.2)
        found = hand.mapped(geometry.Affine(-1.0, 1.0, 1.0, 0.0))
        assert found.box == pytest.approx((0.6, 0.4, 0.8, 0.6))
        expected = [(1 - x, y) for x, y in POINTS]
        np.testing.assert_allclose(found.keypoints, expected)


class TestAgreementWithTheVendor:
    def test_positive_anchors_are_mostly_those_that_fire(self):
        spec = shared_data.PALM_128
        infer, centres = shared_data.palm_128(), anchors.centres(spec)
        matcher = targets.Matcher(spec, 1)
        both = positives = fires = leaked = 0
        for path, _ in shared_data.digits(step=20):
            pixels = images.read(path)
            for share in (0.35, 0.5, 0.65, 0.8):
                placing = geometry.letterbox(*pixels.shape[1::-1], share)
                square = images.place(pixels, placing, 128)
                image = images.to_input(square, shared_data.PALM_128_RANGE)
                regressors, logits = infer(image[np.newaxis])
                found = decoding.detect(regressors[0], logits[0], centres, 128)
                if not found:
                    continue
                hand = targets.Label(found[0].box, found[0].keypoints, 0)
                made = matcher.targets([hand])
                positive = made.class_targets[:, 0] == 1
                background = (made.anchor_weights == 1) & ~positive
                fired = logits[0, :, 0] >= 0
                both += (fired & positive).sum()
                leaked += (fired & background).sum()
                positives += positive.sum()
                fires += fired.sum()
        agreement = 2 * both / (positives + fires)
        # 0.62 over shares 0.3 to 1; chance would be below 0.02.
        assert agreement > 0.55, (agreement, leaked / fires)
        assert leaked < 0.2 * fires


def test_every_rule_is_that_of_a_detector():
    known = {(spec.input_size, spec.strides) for spec in anchors.PRESETS.values()}
    assert targets.RULES.keys() <= known
