"""Decoding and suppression, against hand-computed values and a slow reference."""

import dataclasses

import numpy as np
import pytest

from ondevice.detection import anchors, decoding, geometry

SPEC = anchors.PRESETS["palm_full"]
CENTRES = anchors.centres(SPEC)


def slow_iou(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    union = (
        (first[2] - first[0]) * (first[3] - first[1])
        + (second[2] - second[0]) * (second[3] - second[1])
        - shared
    )
    return shared / union if union > 0 else 0


def slow_weighted_nms(rows, threshold):
    """MediaPipe's loop, line by line: rows of (score, coordinates)."""
    remained = sorted(rows, key=lambda row: -row[0])
    output = []
    while remained:
        best = remained[0]
        candidates, rest = [], []
        for row in remained:
            near = slow_iou(row[1][:4], best[1][:4]) > threshold
            (candidates if near else rest).append(row)
        mean = list(best[1])
        if candidates:
            total = sum(row[0] for row in candidates)
            for i in range(len(mean)):
                mean[i] = sum(row[0] * row[1][i] for row in candidates) / total
        output.append((best[0], mean))
        if len(rest) == len(remained):
            break
        remained = rest
    return output


def outputs(rng, classes, hands, noise=2.0):
    """Regressors and logits with clusters of boxes around some hands."""
    regressors = rng.normal(0, 1, (len(CENTRES), 18)).astype(np.float32)
    logits = np.full((len(CENTRES), classes), -10, np.float32)
    for middle in hands:
        near = np.argsort(((CENTRES - middle) ** 2).sum(1))[:12]
        box = np.array([*middle, 0.3, 0.25]) * 192
        box = box + rng.normal(0, noise, (len(near), 4))
        box[:, :2] -= CENTRES[near] * 192
        regressors[near, :4] = box
        logits[near] = rng.normal(1, 2, (len(near), classes))
    return regressors, logits


class TestDecode:
    def test_box_and_keypoints_by_hand(self):
        centres = np.array([[0.5, 0.25]], np.float32)
        regressors = np.array([[10.0, -20, 40, 60, 50, -25, 0, 100]])
        box = decoding.decode_boxes(regressors, centres, 100)
        # Centre (0.6, 0.05), sides 0.4 and 0.6.
        np.testing.assert_allclose(box, [[0.4, -0.25, 0.8, 0.35]], atol=1e-7)
        keypoints = decoding.decode_keypoints(regressors, centres, 100)
        np.testing.assert_allclose(keypoints, [[[1.0, 0.0], [0.5, 1.25]]])

    def test_encode_is_the_inverse(self):
        rng = np.random.default_rng(0)
        regressors = rng.normal(0, 50, (3, len(CENTRES), 18)).astype(np.float32)
        boxes = decoding.decode_boxes(regressors, CENTRES, 192)
        keypoints = decoding.decode_keypoints(regressors, CENTRES, 192)
        found = decoding.encode(boxes, keypoints, CENTRES, 192)
        # Float32 in units of the square, in pixels: 192 * 1e-7, and some.
        np.testing.assert_allclose(found, regressors, atol=2e-4)

    def test_one_box_encoded_at_every_anchor_decodes_to_it_everywhere(self):
        box = np.array([[0.2, 0.3, 0.6, 0.8]])
        keypoints = np.linspace(0, 1, 14).reshape(1, 7, 2)
        regressors = decoding.encode(box, keypoints, CENTRES, 192)
        assert regressors.shape == (2016, 18) and regressors.dtype == np.float32
        boxes = decoding.decode_boxes(regressors, CENTRES, 192)
        # Float32.
        np.testing.assert_allclose(boxes, np.tile(box, (2016, 1)), atol=1e-6)
        np.testing.assert_allclose(
            decoding.decode_keypoints(regressors, CENTRES, 192),
            np.tile(keypoints, (2016, 1, 1)),
            atol=1e-6,
        )

    def test_scores_are_clipped_and_finite(self):
        logits = np.array([0.0, 1e30, -1e30, np.inf], np.float32)
        np.testing.assert_array_equal(decoding.scores(logits)[[0, 1, 3]], [0.5, 1, 1])
        assert 0 <= decoding.scores(logits)[2] < 1e-40

    @pytest.mark.parametrize("shape", [(2016, 3), (2016, 5), (2015, 18), (18,)])
    def test_refuses_wrong_shapes(self, shape):
        with pytest.raises(ValueError, match="Regressors must"):
            decoding.decode_boxes(np.zeros(shape, np.float32), CENTRES, 192)


def column(*scores):
    return np.array(scores, np.float64)[:, np.newaxis]


class TestWeightedNms:
    def test_by_hand(self):
        values = np.array(
            [
                [0.0, 0, 10, 10, 1, 2],
                [0, 0, 10, 20, 5, 6],
                [50, 50, 60, 60, 7, 8],
            ]
        )
        found = decoding.weighted_nms(values, column(0.75, 0.25, 0.5), 0.1, 0.3)
        # IoU of the first two is 0.5: one group, weights 3 to 1.
        assert found == [
            decoding.Detection((0, 0, 10, 12.5), 0.75, 0, ((2, 3),)),
            decoding.Detection((50, 50, 60, 60), 0.5, 0, ((7, 8),)),
        ]

    def test_classes_are_suppressed_each_for_itself(self):
        values = np.array([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
        scores = np.array([[0.75, 0.2], [0.25, 0.6], [0.1, 0.6]])
        found = decoding.weighted_nms(values, scores, 0.2, 0.3)
        assert sorted((d.class_index, d.score, d.box) for d in found) == [
            (0, 0.75, (0, 0, 10, 12.5)),
            # 0.6 and 0.2 weigh 3 to 1.
            (1, 0.6, (0, 0, 10, 17.5)),
            (1, 0.6, (50, 50, 60, 60)),
        ]

    def test_threshold_is_exclusive(self):
        values = np.array([[0.0, 0, 10, 10], [0, 0, 10, 20]])
        scores = column(0.9, 0.6)
        assert len(decoding.weighted_nms(values, scores, 0.5, 0.5)) == 2
        assert len(decoding.weighted_nms(values, scores, 0.5, 0.4999)) == 1

    def test_what_does_not_reach_the_score_has_no_weight(self):
        values = np.array([[0.0, 0, 10, 10], [0, 0, 10, 20]])
        (found,) = decoding.weighted_nms(values, column(0.9, 0.4), 0.5, 0.3)
        assert found.box == (0, 0, 10, 10)

    @pytest.mark.parametrize("seed", range(20))
    def test_equals_the_slow_reference(self, seed):
        rng = np.random.default_rng(seed)
        low = rng.random((60, 2)) * 0.8
        values = np.concatenate(
            [low, low + rng.random((60, 2)) * 0.4, rng.random((60, 14))], axis=1
        )
        scores = rng.random((60, 3)).round(1 if seed % 2 else 9)  # With ties, too.
        threshold = [0.1, 0.3, 0.6][seed % 3]
        found = decoding.weighted_nms(values, scores, 0.2, threshold)
        for kind in range(3):
            mine = [d for d in found if d.class_index == kind]
            expected = slow_weighted_nms(
                [(s, [*v]) for s, v in zip(scores[:, kind], values) if s >= 0.2],
                threshold,
            )
            assert [d.score for d in mine] == [score for score, _ in expected]
            np.testing.assert_allclose(
                [[*d.box, *np.ravel(d.keypoints)] for d in mine],
                [coordinates for _, coordinates in expected],
            )

    def test_stops_where_the_best_box_is_empty(self):
        values = np.array([[5.0, 5, 5, 5], [0, 0, 10, 10]])
        (found,) = decoding.weighted_nms(values, column(0.9, 0.6), 0.5, 0.3)
        assert found.score == 0.9 and found.box == (5, 5, 5, 5)

    def test_scores_of_zero_do_not_divide(self):
        values = np.array([[0.0, 0, 10, 10], [0, 0, 10, 20]])
        (found,) = decoding.weighted_nms(values, column(0, 0), 0.0, 0.3)
        assert found.box == (0, 0, 10, 10) and found.score == 0

    def test_rounds_are_bounded(self):
        low = np.arange(500.0)[:, np.newaxis]
        values = np.concatenate([low, low, low + 0.5, low + 0.5], axis=1)
        found = decoding.weighted_nms(values, np.full((500, 2), 0.9), 0.5, 0.3, most=7)
        assert len(found) == 14

    def test_nothing_gives_nothing(self):
        nothing = np.zeros((0, 18)), np.zeros((0, 3))
        assert decoding.weighted_nms(*nothing, 0.5, 0.3) == []


class TestDetect:
    @pytest.mark.parametrize("classes", [1, 7])
    def test_equals_the_slow_reference_class_by_class(self, classes):
        rng = np.random.default_rng(classes)
        regressors, logits = outputs(rng, classes, [(0.3, 0.3), (0.7, 0.6)])
        found = decoding.detect(regressors, logits, CENTRES, 192)
        boxes = decoding.decode_boxes(regressors, CENTRES, 192)
        points = decoding.decode_keypoints(regressors, CENTRES, 192).reshape(-1, 14)
        expected = []
        for k in range(classes):
            scores = 1 / (1 + np.exp(-logits[:, k].astype(np.float64)))
            rows = [
                (scores[n], [*boxes[n], *points[n]])
                for n in range(len(CENTRES))
                if scores[n] >= 0.5
            ]
            expected += [(s, k, v) for s, v in slow_weighted_nms(rows, 0.3)]
        expected.sort(key=lambda row: -row[0])
        assert [d.class_index for d in found] == [k for _, k, _ in expected]
        # Float32 scores and decoding.
        np.testing.assert_allclose(
            [d.score for d in found], [s for s, _, _ in expected], rtol=1e-6
        )
        np.testing.assert_allclose(
            [[*d.box, *np.ravel(d.keypoints)] for d in found],
            [v for _, _, v in expected],
            atol=1e-5,
        )

    def test_two_hands_of_one_class_are_two_detections(self):
        rng = np.random.default_rng(3)
        regressors, logits = outputs(rng, 1, [(0.25, 0.3), (0.75, 0.6)], noise=0.5)
        found = decoding.detect(regressors, logits, CENTRES, 192)
        assert len(found) == 2
        for middle in [(0.25, 0.3), (0.75, 0.6)]:
            box = [middle[0] - 0.15, middle[1] - 0.125, *np.add(middle, [0.15, 0.125])]
            best = max(geometry.iou(np.array(d.box), np.array(box)) for d in found)
            assert best > 0.95

    def test_score_at_the_threshold_counts(self):
        regressors = np.full((len(CENTRES), 18), 20, np.float32)
        logits = np.full((len(CENTRES), 1), -1, np.float32)
        logits[7] = 0
        found = decoding.detect(regressors, logits, CENTRES, 192)
        assert [d.score for d in found] == [0.5]
        logits[7] = -1e-3
        assert decoding.detect(regressors, logits, CENTRES, 192) == ()

    @pytest.mark.parametrize("min_score", [0.0, 1e-6, 0.9, 0.999999, 1.0])
    def test_extreme_thresholds_agree_with_the_scores(self, min_score):
        regressors = np.zeros((len(CENTRES), 18), np.float32)
        # Small boxes at 900 anchors: none overlaps another cell's.
        regressors[:, 2:4] = 1
        logits = np.full((len(CENTRES), 1), -200, np.float32)
        logits[0:8:2, 0] = [-60, 2.19, 2.2, 60]
        found = decoding.detect(regressors, logits, CENTRES, 192, min_score)
        expected = decoding.scores(logits[:1152:2, 0])
        assert len(found) >= (expected[:4] >= min_score).sum()
        assert all(d.score >= min_score for d in found)

    @pytest.mark.parametrize("score", [1e-9, 0.1, 0.5, 0.75, 0.999])
    def test_a_threshold_leaves_no_anchor_to_decode_that_cannot_reach_it(self, score):
        """Candidates below it would be dropped later: they cost time alone."""
        assert 1 / (1 + np.exp(-decoding._logit(score))) == pytest.approx(score)

    def test_drops_negative_sizes_and_what_is_not_finite(self):
        regressors = np.full((len(CENTRES), 18), 20, np.float32)
        logits = np.full((len(CENTRES), 1), -9, np.float32)
        logits[[0, 100, 200, 300, 400]] = 9
        regressors[0, 2] = -1
        regressors[100, 3] = np.nan
        regressors[200, 7] = np.inf
        regressors[300, 0] = np.nan
        found = decoding.detect(regressors, logits, CENTRES, 192)
        assert len(found) == 1
        logits[400] = np.nan
        assert decoding.detect(regressors, logits, CENTRES, 192) == ()

    def test_no_keypoints(self):
        regressors = np.full((len(CENTRES), 4), 20, np.float32)
        logits = np.zeros((len(CENTRES), 1), np.float32)
        logits[1:] = -9
        (found,) = decoding.detect(regressors, logits, CENTRES, 192)
        assert found.keypoints == ()

    def test_refuses_wrong_logits(self):
        regressors = np.zeros((len(CENTRES), 18), np.float32)
        with pytest.raises(ValueError, match="Logits must"):
            decoding.detect(regressors, np.zeros((5, 1)), CENTRES, 192)


class TestRemoveLetterbox:
    def test_by_hand(self):
        found = decoding.remove_letterbox(
            decoding.Detection((0.25, 0.25, 0.75, 0.5), 0.9, 2, ((0.5, 0.75),)),
            geometry.letterbox(200, 100),
        )
        assert found.box == pytest.approx((0.25, 0.0, 0.75, 0.5))
        assert found.keypoints == (pytest.approx((0.5, 1.0)),)
        assert (found.score, found.class_index) == (0.9, 2)

    def test_is_frozen(self):
        detection = decoding.Detection((0.0, 0.0, 1.0, 1.0), 0.5, 0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            detection.score = 1.0
