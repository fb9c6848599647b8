"""Labels drawn by the detector, and the file that keeps them."""

import json

import numpy as np
import pytest
from absl import logging
from PIL import Image

from ondevice.detection import decoding, geometry, targets
from ondevice.device import detectors, image_cache, images, labelling, samples
from tests import fake_detector, shared_data


@pytest.fixture(name="dataset")
def _dataset(tmp_path):
    """Three pictures: white 40 x 20, white 20 x 40 in a corner, all black."""
    found = []
    for index, (size, box) in enumerate(
        [((40, 20), (0, 0, 40, 20)), ((100, 100), (10, 20, 30, 60)), ((30, 30), None)]
    ):
        picture = Image.new("RGB", size)
        if box:
            picture.paste("white", box)
        path = tmp_path / f"{index}.png"
        picture.save(path)
        found.append(samples.Sample(path, index))
    return samples.Dataset(("a", "b", "c"), tuple(found))


class TestDetector:
    def test_detections_are_in_units_of_the_picture(self, dataset):
        pixels = images.read(dataset.samples[1].path)
        detector = fake_detector.detector(fake_detector.WhiteFinder())
        for share in (0.3, 0.55, 1.0):
            (found,) = detector.detect(pixels, share)
            # The brighter pixels of the edges, enlarged by the frame.
            bound = 1.5 / 192 / share
            assert found.box == pytest.approx((0.1, 0.2, 0.3, 0.6), abs=bound)
            assert found.keypoints[6] == pytest.approx((0.1, 0.2), abs=bound)

    def test_any_class_takes_the_best_one(self, dataset):
        pixels = images.read(dataset.samples[1].path) // 255 * 235
        detector = fake_detector.detector(fake_detector.WhiteFinder(classes=3))
        assert detector.detect(pixels)[0].class_index == 1
        assert detector.detect(pixels, any_class=True)[0].class_index == 0


class TestLabelImages:
    def test_labels_and_those_without(self, dataset):
        detector = fake_detector.detector(fake_detector.WhiteFinder())
        found, missing = labelling.label_images(dataset, detector)
        assert missing == (dataset.samples[2].path,)
        assert [s.path for s in found.samples] == [s.path for s in dataset.samples]
        assert found.samples[2].labels is None
        (first,), (second,) = (s.labels for s in found.samples[:2])
        assert (first.class_index, second.class_index) == (0, 1)
        # The brighter pixels of the edges, enlarged by the smallest frame.
        bound = 1.5 / 192 / 0.4
        assert second.box == pytest.approx((0.1, 0.2, 0.3, 0.6), abs=bound)
        assert first.box == pytest.approx((0, 0, 1, 1), abs=2 * bound)
        assert len(found.labelled()) == 2
        assert [s.drawn for s in found.samples] == [True, True, False]

    def test_fallbacks_are_tried_where_no_frame_finds_a_palm(self, dataset):
        white = fake_detector.WhiteFinder()
        sides = []

        def infer(image):
            sides.append((image[0] > 0.5).any(axis=(1, 2)).sum())
            # Blind to what is lower than 0.35 of the frame.
            return white(image if sides[-1] > 0.35 * 192 else image * 0)

        part = samples.Dataset(("a", "b", "c"), dataset.samples[1:2])
        found, missing = labelling.label_images(part, fake_detector.detector(infer))
        # The hand is 0.4 of the picture: seen at the share 1 alone.
        assert len(sides) == 4 + 3 and missing == ()
        (label,) = found.samples[0].labels
        assert label.box == pytest.approx((0.1, 0.2, 0.3, 0.6), abs=1.5 / 192)

    def test_anchors_of_different_classes_make_one_hand(self, dataset):
        """A head that is unsure of the class still sees one palm."""

        def infer(image):
            logits = np.full((1, 2016, 2), -9, np.float32)
            boxes = np.tile([[0.3, 0.3, 0.6, 0.6]], (2016, 1))
            boxes[1, 2:] = 0.7
            # Anchor 0 holds class 0, anchor 1 class 1, and nothing else fires.
            logits[0, [0, 1], [0, 1]] = 2
            points = np.zeros((2016, 7, 2))
            centres = fake_detector.CENTRES
            return decoding.encode(boxes, points, centres, 192)[np.newaxis], logits

        part = samples.Dataset(("a", "b", "c"), dataset.samples[1:2])
        detector = fake_detector.detector(infer)
        found, _ = labelling.label_images(part, detector, frames=(1.0,))
        (label,) = found.samples[0].labels
        # Float32.
        assert label.box == pytest.approx((0.3, 0.3, 0.65, 0.65), abs=1e-6)
        assert label.class_index == 1

    def test_labels_that_are_there_stay(self, dataset):
        hand = targets.Label((0.0, 0.0, 1.0, 1.0), (), 2)
        kept = samples.Sample(dataset.samples[0].path, None, (hand,))
        part = samples.Dataset(("a", "b", "c"), (kept,))
        infer = fake_detector.WhiteFinder()
        found, missing = labelling.label_images(part, fake_detector.detector(infer))
        assert found == part and missing == () and infer.calls == 0


class TestAgreed:
    def test_by_hand(self):
        def vote(left, score):
            box = (left, 0.0, left + 1.0, 1.0)
            return decoding.Detection(box, score, 0, ((left, 0.5),))

        # Two that agree outweigh a better one elsewhere; 0.6 and 0.2 weigh 3 to 1.
        found = labelling.agreed([vote(0.0, 0.6), vote(5.0, 0.7), vote(0.2, 0.2)])
        assert found.box == pytest.approx((0.05, 0.0, 1.05, 1.0))
        assert found.keypoints == (pytest.approx((0.05, 0.5)),)
        assert found.score == 0.6

    def test_one_is_itself(self):
        one = decoding.Detection((0.0, 0.0, 1.0, 1.0), 0.9, 0, ((0.1, 0.2),))
        assert labelling.agreed([one]) == one
        assert labelling.agreed([one, one]) == one


class TestKept:
    def run(self, dataset, directory, digest="d", classes=("a", "b", "c"), **options):
        infer = fake_detector.WhiteFinder()
        found, missing = labelling.label_images(
            dataset,
            fake_detector.detector(infer, digest),
            directory=directory,
            **options,
        )
        return found, missing, infer.calls

    def test_second_run_asks_nothing_and_gives_the_same(self, dataset, tmp_path):
        first = self.run(dataset, tmp_path / "kept")
        second = self.run(dataset, tmp_path / "kept")
        # Four frames each; three more for the one without a palm.
        assert first[2] == 15 and second[2] == 0
        assert first[:2] == second[:2]
        assert [p.suffix for p in (tmp_path / "kept").iterdir()] == [".json"]

    def test_another_detector_picture_or_frame_is_asked(self, dataset, tmp_path):
        self.run(dataset, tmp_path / "kept")
        assert self.run(dataset, tmp_path / "kept", "other")[2] == 15
        assert self.run(dataset, tmp_path / "kept", frames=(0.5,))[2] == 6
        Image.new("RGB", (9, 9), "white").save(dataset.samples[0].path)
        assert self.run(dataset, tmp_path / "kept")[2] == 4

    def test_unknown_digest_keeps_nothing(self, dataset, tmp_path):
        self.run(dataset, tmp_path / "kept", "")
        assert not (tmp_path / "kept").exists()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{",
            '{"x": 1}',
            '{"x": [1, [2], []]}',
            '{"x": [NaN, [1,2,3,4], []]}',
            f'{{"x": [0.5, [1, 2, 3, {10**400}], []]}}',
            "[" * 100_000,
        ],
    )
    def test_broken_files_are_drawn_anew(self, dataset, tmp_path, monkeypatch, text):
        lines = []
        monkeypatch.setattr(logging, "warning", lambda t, *v: lines.append(t % v))
        first = self.run(dataset, tmp_path / "kept")
        (path,) = (tmp_path / "kept").iterdir()
        path.write_text(text)
        again = self.run(dataset, tmp_path / "kept")
        assert again == first and len(lines) == 1
        assert len(json.loads(path.read_text())) == 3

    def test_a_folder_that_cannot_be_written_costs_only_the_labels(
        self, dataset, tmp_path, monkeypatch
    ):
        lines = []
        monkeypatch.setattr(logging, "warning", lambda t, *v: lines.append(t % v))
        (tmp_path / "file").write_text("")
        assert len(self.run(dataset, tmp_path / "file" / "kept")[1]) == 1
        assert any("could not be kept" in line for line in lines)

    def test_what_was_drawn_before_a_failure_is_kept(self, dataset, tmp_path):
        dataset.samples[1].path.write_bytes(b"broken")
        with pytest.raises(images.ImageError):
            self.run(dataset, tmp_path / "kept")
        (path,) = (tmp_path / "kept").iterdir()
        assert len(json.loads(path.read_text())) == 1


class TestOnPhotographs:
    def test_labels_agree_with_what_is_found_elsewhere_in_the_frame(self):
        detector = detectors.Detector(
            shared_data.palm_128(), shared_data.PALM_128, shared_data.PALM_128_RANGE
        )
        chosen = shared_data.digits(step=40)
        part = samples.Dataset(
            tuple("0123456"), tuple(samples.Sample(p, d) for p, d in chosen)
        )
        cache = image_cache.ImageCache()
        found, missing = labelling.label_images(part, detector, cache=cache)
        assert len(missing) <= 1
        overlaps = []
        for sample in found.labelled().samples:
            (label,) = sample.labels
            for detection in detector.detect(cache.read(sample.path), 0.45)[:1]:
                overlaps.append(geometry.iou(detection.box, label.box))
        # 0.8: the detector's own spread at another scale.
        assert np.median(overlaps) > 0.7
