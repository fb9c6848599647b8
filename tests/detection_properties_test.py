"""Whatever the boxes: coding round trips, and suppression keeps what it promises."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ondevice.detection import anchors, decoding, geometry, metrics, targets

UNIT = st.floats(-0.5, 1.5, width=32)
SIDE = st.floats(2**-10, 1, width=32)
SCORE = st.floats(0.5, 1, width=32)
# Float32, of numbers up to 2 in pixels of 256, and back.
CLOSE = 1e-5


@st.composite
def boxes(draw: st.DrawFn, most: int = 8) -> np.ndarray:
    """[M, 4] float32 corners with an area, and often equal or nested."""
    drawn = draw(st.lists(st.tuples(UNIT, UNIT, SIDE, SIDE), min_size=1, max_size=most))
    corners = [(x, y, x + width, y + height) for x, y, width, height in drawn]
    corners += draw(st.lists(st.sampled_from(corners), max_size=3))
    return np.array(corners, np.float32)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with two keypoints, [M, 8], and scores, [M, K], some of them 0."""
    found = draw(boxes())
    points = draw(arrays.arrays(np.float32, (len(found), 4), elements=UNIT))
    shape = (len(found), draw(st.integers(1, 3)))
    scores = draw(arrays.arrays(np.float32, shape, elements=SCORE | st.just(0.0)))
    return np.concatenate([found, points], axis=-1), scores


AFFINE = st.builds(
    geometry.Affine,
    st.floats(0.1, 4) | st.floats(-4, -0.1),
    st.floats(0.1, 4) | st.floats(-4, -0.1),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
SPECS = st.sampled_from(sorted(anchors.PRESETS))


@given(boxes(), st.sampled_from((128, 192, 256)), st.data())
def test_boxes_and_keypoints_come_back(found, size, data):
    centres = data.draw(arrays.arrays(np.float32, (len(found), 2), elements=UNIT))
    points = data.draw(arrays.arrays(np.float32, (len(found), 7, 2), elements=UNIT))
    coded = decoding.encode(found, points, centres, size)
    assert coded.shape == (len(found), 18) and coded.dtype == np.float32
    back = decoding.decode_boxes(coded, centres, size)
    np.testing.assert_allclose(back, found, rtol=0, atol=CLOSE)
    back = decoding.decode_keypoints(coded, centres, size)
    np.testing.assert_allclose(back, points, rtol=0, atol=CLOSE)


@given(AFFINE, boxes())
def test_maps_undo_each_other(there, found):
    moved = there.boxes(found.astype(np.float64))
    assert (moved[:, :2] <= moved[:, 2:]).all()
    np.testing.assert_allclose(there.inverse().boxes(moved), found, rtol=0, atol=1e-12)


@given(AFFINE, boxes(), boxes())
def test_overlap_does_not_depend_on_the_units(there, one, two):
    one, two = one.astype(np.float64)[:, np.newaxis], two.astype(np.float64)
    for overlap in (geometry.iou, geometry.inside):
        before, after = overlap(one, two), overlap(there.boxes(one), there.boxes(two))
        assert ((before >= 0) & (before <= 1 + 1e-12)).all()
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)
    np.testing.assert_allclose(geometry.iou(two, one), geometry.iou(one, two))


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.floats(0.01, 1),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
)
def test_a_picture_lies_in_the_square_with_its_shape(width, height, share, place, flip):
    there = geometry.letterbox(width, height, share, place, flip)
    xmin, ymin, xmax, ymax = there.boxes(np.array([0.0, 0, 1, 1]))
    assert -1e-9 <= xmin < xmax <= 1 + 1e-9 and -1e-9 <= ymin < ymax <= 1 + 1e-9
    np.testing.assert_allclose(max(xmax - xmin, ymax - ymin), share)
    np.testing.assert_allclose((xmax - xmin) * height, (ymax - ymin) * width)


@given(scenes(), st.floats(0, 0.9))
def test_suppression(scene, threshold):
    values, scores = scene
    found = decoding.weighted_nms(values, scores, 0.5, threshold)
    # The bests of the classes are there, each with its score; nothing is made up.
    for index, column in enumerate(scores.T):
        own = [one for one in found if one.class_index == index]
        assert len(own) <= (column >= 0.5).sum()
        assert {one.score for one in own} <= set(column.tolist())
        if column.max() >= 0.5:
            assert max(one.score for one in own) == column.max()
            assert own[0].score == column.max()
            ranks = [one.score for one in own]
            assert ranks == sorted(ranks, reverse=True)
    # A mean lies among what it is of.
    low, high = values.min(axis=0) - CLOSE, values.max(axis=0) + CLOSE
    for one in found:
        flat = np.array([*one.box, *itertools.chain(*one.keypoints)])
        assert (flat >= low).all() and (flat <= high).all()


@given(scenes(), st.randoms(use_true_random=False))
def test_suppression_takes_classes_and_anchors_in_any_order(scene, random):
    values, scores = scene
    # Of equal scores the first one leads, so that order would matter.
    ranks = scores + np.arange(len(scores), dtype=np.float32)[:, np.newaxis] * 1e-5
    scores = np.where(scores > 0, np.minimum(ranks, 2), 0)
    rows = random.sample(range(len(scores)), len(scores))
    columns = random.sample(range(scores.shape[1]), scores.shape[1])

    def found(values, scores, names):
        made = decoding.weighted_nms(values, scores, 0.5, 0.3)
        return sorted((names[one.class_index], one.score, one.box) for one in made)

    one = found(values, scores, range(scores.shape[1]))
    two = found(values[rows], scores[rows][:, columns], columns)
    assert [o[:2] for o in one] == [o[:2] for o in two]
    for (_, _, box), (_, _, other) in zip(one, two):
        np.testing.assert_allclose(box, other, rtol=0, atol=1e-9)


@given(boxes(most=4), st.floats(0.35, 0.9))
def test_what_was_suppressed_is_not_suppressed_again(found, threshold):
    # Equal boxes become one; boxes apart stay as they are, to the bit.
    apart = found + 4 * np.arange(len(found), dtype=np.float32)[:, np.newaxis]
    twice = np.concatenate([apart, apart])
    scores = np.linspace(0.6, 0.9, len(twice), dtype=np.float32)[:, np.newaxis]
    made = decoding.weighted_nms(twice, scores, 0.5, threshold)
    assert len(made) == len(found)
    np.testing.assert_allclose(
        sorted(one.box for one in made), sorted(map(tuple, apart)), atol=CLOSE
    )


@given(SPECS, st.data())
def test_targets_decode_to_the_hands_they_were_made_of(name, data):
    spec = anchors.PRESETS[name]
    matcher = targets.Matcher(spec, classes=3, keypoints=2)
    side = data.draw(st.floats(0.05, 0.9))
    # Its middle lies in the square: face_full_range goes by that alone.
    x, y = (data.draw(st.floats(0, 1)) - side / 2 for _ in "xy")
    label = targets.Label((x, y, x + side, y + side), ((x, y), (0.5, 1.25)), 2)
    made = matcher.targets([label])
    held = made.class_targets.any(axis=1)
    # Every hand in the square holds an anchor, and one that it holds counts.
    assert held.any() and (made.anchor_weights[held] == 1).all()
    assert (made.class_targets[held] == (0, 0, 1)).all()
    assert not made.box_targets[~held].any()
    back = decoding.decode_boxes(made.box_targets, matcher.centres, spec.input_size)
    np.testing.assert_allclose(back[held] - label.box, 0, atol=CLOSE)
    points = decoding.decode_keypoints(
        made.box_targets, matcher.centres, spec.input_size
    )
    np.testing.assert_allclose(points[held] - label.keypoints, 0, atol=CLOSE)


@given(boxes(most=5), boxes(most=5), st.data())
def test_measures(hands, found, data):
    kind = st.integers(0, 2)
    labels = [targets.Label(tuple(box), (), data.draw(kind)) for box in hands.tolist()]
    detections = [
        decoding.Detection(tuple(box), data.draw(st.floats(0, 1)), data.draw(kind))
        for box in found.tolist()
    ]
    measured = metrics.measure([metrics.Judged(labels, detections)], 3)
    assert measured.images == 1 and np.sum(measured.confusion) == 1
    assert measured.recall == np.mean(measured.found)
    # Hands are found that are given back as detections, of the right class.
    perfect = [
        decoding.Detection(label.box, 1 - index / 100, label.class_index)
        for index, label in enumerate(labels[:1])
    ]
    measured = metrics.measure([metrics.Judged(labels[:1], perfect)], 3)
    assert (measured.recall, measured.class_accuracy) == (1, 1)
    assert measured.mean_iou > 1 - 1e-6
    # What is too unsure does not count.
    unsure = [decoding.Detection(one.box, 0.49, one.class_index) for one in perfect]
    measured = metrics.measure([metrics.Judged(labels[:1], unsure)], 3)
    assert measured.recall == 0 and measured.confusion[labels[0].class_index][3] == 1
