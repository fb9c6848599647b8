"""Tests that the slow ways give the right detections, and are what they are called."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from checkpoints import tflite_file
from ondevice.detection import decoding
from ondevice.device import runtimes
from ondevice.measuring import slow_ways, slowdown
from tests import decoding_test, tiny_detector

RUNTIME = runtimes.installed()[0]
# More than a detection has coordinates: outputs are not told apart by their width.
MANY = 20
FIRST = slow_ways.loop_thresholded
IMAGE = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)


class TestDetections:
    @pytest.mark.parametrize(
        "way",
        [
            slow_ways.loop,
            slow_ways.loop_thresholded,
            slow_ways.thresholded,
            slow_ways.unthresholded,
        ],
    )
    def test_finds_what_the_right_way_finds(self, way):
        rng = np.random.default_rng(1)
        hands = [(0.3, 0.3), (0.7, 0.6)]
        regressors, logits = decoding_test.outputs(rng, 3, hands)
        given = (regressors, logits, decoding_test.CENTRES, 192)
        expected = decoding.detect(*given)
        assert len({d.class_index for d in expected}) > 1
        found = sorted(way(*given), key=lambda row: -row[0])
        assert [kind for _, kind, _ in found] == [d.class_index for d in expected]
        np.testing.assert_allclose(
            [score for score, _, _ in found], [d.score for d in expected], rtol=1e-5
        )
        # The best box of each group, where the right way takes a weighted mean.
        n = [int(np.abs(scores(logits) - s).min(axis=1).argmin()) for s, _, _ in found]
        boxes = decoding.decode_boxes(regressors, decoding_test.CENTRES, 192)[n]
        np.testing.assert_allclose([v[:4] for _, _, v in found], boxes, atol=1e-5)

    def test_loops_decode_all_or_what_fires(self):
        regressors = np.ones((len(decoding_test.CENTRES), 18), np.float32)
        logits = np.full((len(regressors), 2), -9, np.float32)
        logits[[5, 900], 1] = 9
        for way, rows in ((slow_ways.loop, 2 * len(logits)), (FIRST, 2)):
            counting = Counting(regressors)
            way(counting, logits, decoding_test.CENTRES, 192)
            # A row is read for its box, and twice for each keypoint.
            assert counting.reads == rows * 15, way

    def test_nothing_fires(self):
        regressors = np.ones((len(decoding_test.CENTRES), 18), np.float32)
        logits = np.full((len(regressors), 2), -9, np.float32)
        assert slow_ways.loop(regressors, logits, decoding_test.CENTRES, 192) == []


class Counting:
    """An array that counts how often it is read."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self._array, self.reads = array.shape, array, 0

    def __getitem__(self, key):
        self.reads += 1
        return self._array[key]


def scores(logits: np.ndarray) -> np.ndarray:
    return decoding.scores(logits.astype(np.float64))


class GraphTest(parameterized.TestCase):
    """The graphs of the tiny detector, made once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        from ondevice.measuring import slow_graphs

        ported = tiny_detector.ported()
        wanted = slowdown.graphs((1, MANY))
        cls.files = {graph: slow_graphs.frozen(ported, graph) for graph in wanted}

    def outputs(self, graph, run=slow_ways.prepared, runtime=RUNTIME):
        return run(self.files[graph], runtime, 1)(IMAGE)

    @parameterized.parameters(slow_ways.STATIC, slow_ways.DYNAMIC, slow_ways.TRANSPOSED)
    def test_one_class_is_the_vendors(self, form):
        interpreter = runtimes.create(tiny_detector.vendor_file(), RUNTIME, 1)
        expected = slow_ways._invoke(interpreter)(IMAGE)
        found = self.outputs(slow_ways.Graph(1, form))
        for mine, vendors in zip(found, expected):
            np.testing.assert_allclose(mine, vendors, rtol=0, atol=1e-5)

    @parameterized.parameters(slow_ways.STATIC, slow_ways.DYNAMIC, slow_ways.TRANSPOSED)
    def test_trained_heads_fire_for_one_class_alone(self, form):
        _, one = self.outputs(slow_ways.Graph(1, form))
        _, many = self.outputs(slow_ways.Graph(MANY, form))
        np.testing.assert_allclose(many[..., :1], one, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(many[..., 1:], -20)

    def test_untrained_heads_fire_everywhere(self):
        _, logits = self.outputs(slow_ways.Graph(MANY, trained=False))
        for k in range(MANY):
            self.assertBetween((logits[..., k] > 0).mean(), 0.1, 0.9)

    def test_forms_are_what_they_are_called(self):
        count = collections.Counter
        census = {
            graph.form: count(tflite_file.parse(data).census())
            for graph, data in self.files.items()
            if graph.classes == MANY and graph.trained
        }
        self.assertNoCommonElements(census["static"], ("SHAPE", "PACK", "TRANSPOSE"))
        self.assertGreaterEqual(census["dynamic batch"]["PACK"], 4)
        operators = census["transposed"]
        # Around each but between a depthwise and the convolution behind it.
        self.assertGreaterEqual(operators["TRANSPOSE"], operators["CONV_2D"])

    @parameterized.product(
        run=(slow_ways.resized, slow_ways.reopened, slow_ways.unallocated),
        runtime=runtimes.installed(),
    )
    def test_every_way_of_running_gives_the_same(self, run, runtime):
        graph = slow_ways.Graph(MANY)
        expected = self.outputs(graph, runtime=runtime)
        for _ in range(2):
            for mine, right in zip(self.outputs(graph, run, runtime), expected):
                np.testing.assert_allclose(mine, right, rtol=0, atol=1e-5)

    def test_rows_and_ratios(self):
        rows, ratios = slowdown.measure(
            self.files,
            tiny_detector.ANCHORS[tiny_detector.SPEC.name],
            [RUNTIME],
            [1],
            [IMAGE],
            1,
            lambda items, _: items,
        )
        self.assertLen(rows, len(slowdown.WAYS) * 2 * 3)
        place = f"{RUNTIME}, 1 thread"
        name = f"slowdown: dynamic batch, {place}"
        self.assertIn(f"{name}, {MANY} classes over 1", ratios)
        self.assertIn(f"{name}, over the right way", ratios)
        self.assertLen(ratios, 2 * len(slowdown.WAYS) - 1)


if __name__ == "__main__":
    absltest.main()
