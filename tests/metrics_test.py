"""Metrics, against hand-computed values."""

import json

import pytest

from ondevice.detection import decoding, metrics, targets

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
# IoU with LEFT: 0.4 / 0.6.
NEAR_LEFT = (0.1, 0.0, 0.6, 1.0)


def hand(box, class_index=0):
    return targets.Label(box, (), class_index)


def found(box, class_index=0, score=0.9):
    return decoding.Detection(box, score, class_index)


def judged(labels, detections, class_index=None):
    return metrics.Judged(labels, detections, class_index)


class TestMeasure:
    def test_by_hand(self):
        result = metrics.measure(
            [
                judged([hand(LEFT, 0)], [found(LEFT, 0)]),
                judged([hand(LEFT, 0)], [found(NEAR_LEFT, 1)]),
                judged([hand(LEFT, 1)], [found(RIGHT, 1)]),
                judged([hand(LEFT, 1)], []),
            ],
            classes=2,
        )
        assert result.images == 4 and result.found == (True, True, False, False)
        assert result.class_accuracy == 0.5
        assert result.recall == 0.5
        assert result.mean_iou == pytest.approx((1 + 0.4 / 0.6) / 4)
        assert result.confusion == ((1, 1, 0), (0, 1, 1))

    def test_best_detection_decides_the_class(self):
        both = [found(LEFT, 0, 0.6), found(LEFT, 1, 0.7)]
        result = metrics.measure([judged([hand(LEFT, 0)], both)], classes=2)
        assert result.class_accuracy == 0 and result.recall == 1

    def test_scores_below_the_threshold_do_not_count(self):
        pairs = [judged([hand(LEFT)], [found(LEFT, score=0.49)])]
        assert metrics.measure(pairs, 1).recall == 0
        assert metrics.measure(pairs, 1).confusion == ((0, 1),)
        assert metrics.measure(pairs, 1, min_score=0.4).recall == 1

    def test_thresholds_are_inclusive(self):
        half = (0.0, 0.0, 0.25, 1.0)  # IoU 0.5 with LEFT, exact in binary.
        result = metrics.measure([judged([hand(LEFT)], [found(half, score=0.5)])], 1)
        assert result.recall == 1 and result.mean_iou == 0.5

    def test_several_hands_in_one_image(self):
        hands = [hand(LEFT, 0), hand(RIGHT, 1)]
        right = metrics.measure([judged(hands, [found(RIGHT, 1)])], 2)
        assert (right.class_accuracy, right.recall) == (1, 0.5)
        assert right.found == (False, True)
        wrong = metrics.measure([judged(hands, [found(RIGHT, 0)])], 2)
        assert (wrong.class_accuracy, wrong.recall) == (0, 0.5)

    def test_images_without_hands_do_not_count(self):
        some = [found(LEFT)]
        pairs = [judged([], some), judged([hand(LEFT)], some)]
        assert metrics.measure(pairs, 1).images == 1

    def test_an_image_without_hands_counts_for_its_class_where_that_is_known(self):
        pairs = [judged([], [found(LEFT, 1)], 1), judged([], [], 0)]
        result = metrics.measure(pairs, 2)
        assert (result.images, result.found, result.class_accuracy) == (2, (), 0.5)
        assert result.confusion == ((0, 0, 1), (0, 1, 0))

    def test_nothing_gives_zeros(self):
        result = metrics.measure([], 2)
        assert (result.images, result.recall, result.mean_iou) == (0, 0, 0)
        assert result.confusion == ((0, 0, 0), (0, 0, 0))

    def test_dict_is_what_evaluate_prints(self):
        fields = metrics.measure([judged([hand(LEFT)], [])], 1).to_dict()
        assert list(fields) == [
            "images",
            "class_accuracy",
            "recall",
            "mean_iou",
            "confusion",
        ]
        assert json.loads(json.dumps(fields)) == fields

    @pytest.mark.parametrize("side", [0, 1])
    def test_refuses_unknown_classes(self, side):
        pair = [[hand(LEFT)], [found(LEFT)]]
        pair[side] = [hand(LEFT, 3)] if side == 0 else [found(LEFT, 3)]
        with pytest.raises(ValueError, match=r"in 0\.\.2\. Received: \[3\]"):
            metrics.measure([judged(*pair)], 3)


class TestNothing:
    def test_of_no_hands_every_share_is_zero(self):
        result = metrics.measure([judged([], [])], 2)
        assert (result.images, result.found) == (0, ())
        assert result.class_accuracy == result.recall == result.mean_iou == 0.0


class TestKept:
    def measured(self, *boxes):
        """Metrics where the hand at the left is found in images with LEFT."""
        pairs = [judged([hand(LEFT)], [found(box)] if box else []) for box in boxes]
        return metrics.measure(pairs, 1)

    def test_by_hand(self):
        first = self.measured(LEFT, LEFT, NEAR_LEFT, RIGHT)
        # What the first does not find does not count, whoever finds it.
        other = self.measured(LEFT, None, LEFT, LEFT)
        assert metrics.kept(first, other) == pytest.approx(2 / 3)
        assert metrics.kept(other, first) == pytest.approx(2 / 3)

    def test_all_of_its_own(self):
        each = self.measured(LEFT, None)
        assert metrics.kept(each, each) == 1

    def test_nothing_to_keep(self):
        assert metrics.kept(self.measured(RIGHT), self.measured(LEFT)) is None

    def test_other_images_are_refused(self):
        with pytest.raises(ValueError):
            metrics.kept(self.measured(LEFT), self.measured(LEFT, LEFT))
