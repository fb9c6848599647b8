"""Tests of what is said to be lost between two files."""

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import targets
from ondevice.device import fidelity, image_cache, samples
from tests import fake_detector

WHITE = (0.25, 0.25, 0.75, 0.75)


def shifted(pixels, swapped=False):
    """The finder of white, its boxes some pixels off, or its classes swapped."""
    finder = fake_detector.WhiteFinder(2)

    def infer(image):
        regressors, logits = finder(image)
        regressors = regressors.copy()
        regressors[..., 0] += pixels
        return regressors, logits[..., ::-1] if swapped else logits

    return infer


def picture(value=255):
    image = np.zeros((1, 192, 192, 3), np.float32)
    image[:, 48:144, 48:144] = value / 255
    return image


@pytest.mark.parametrize(
    "infer, share",
    [
        (shifted(0), 1),
        # 96 pixels wide: IoU (96 - d) / (96 + d) is 0.5 at d = 32.
        (shifted(28), 1),
        (shifted(36), 0),
        (shifted(0, swapped=True), 0),
    ],
)
def test_agreement_is_of_class_and_place(infer, share):
    first = fake_detector.detector(fake_detector.WhiteFinder(2))
    images = [picture(), picture(235)]
    found = fidelity.agreement(first, fake_detector.detector(infer), images)
    assert found.figures == {"images": 2, "detections": 2, "agreement": share}
    assert found.losses == {"agreement": 1 - share}


def test_nothing_is_known_where_nothing_is_detected():
    first = fake_detector.detector(fake_detector.WhiteFinder(2))
    found = fidelity.agreement(first, first, [np.zeros((1, 192, 192, 3), np.float32)])
    assert found.figures == {"images": 1, "detections": 0, "agreement": 0}
    assert found.lost(0.01) == {"agreement": 1}


def test_nothing_is_known_where_the_float_model_gets_nothing_right(tmp_path):
    Image.new("RGB", (192, 192)).save(tmp_path / "black.png")
    sample = samples.Sample(tmp_path / "black.png", 0, ())
    dataset = samples.Dataset(("a", "b"), (sample,))
    first = fake_detector.detector(fake_detector.WhiteFinder(2))
    cache = image_cache.ImageCache()
    found = fidelity.measured(first, first, dataset, 1.0, cache)
    assert found.lost(0.01) == {"class_accuracy": 1, "recall": 1}


def test_measured_on_labels(tmp_path):
    taken = []
    for number in range(4):
        pixels = np.zeros((192, 192, 3), np.uint8)
        pixels[48:144, 48:144] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        label = targets.Label(WHITE, ((0.5, 0.5),) * 7, 0)
        taken.append(samples.Sample(tmp_path / f"{number}.png", 0, (label,)))
    dataset = samples.Dataset(("a", "b"), tuple(taken))
    first = fake_detector.detector(fake_detector.WhiteFinder(2))
    for second, losses in (
        (first, {}),
        (fake_detector.detector(shifted(36)), {"recall": 1}),
        (fake_detector.detector(shifted(0, swapped=True)), {"class_accuracy": 1}),
    ):
        cache = image_cache.ImageCache()
        found = fidelity.measured(first, second, dataset, 1.0, cache)
        assert found.figures["images"] == 4
        assert found.figures["float32"]["recall"] == 1
        assert found.lost(0.01) == losses


def test_lost_and_described():
    found = fidelity.Fidelity(
        {"images": 2, "float32": {"recall": 1.0}}, {"recall": 0.02, "other": -0.5}
    )
    assert found.lost(0.01) == {"recall": 0.02}
    assert found.lost(0.02) == {}
    assert found.described() == "images: 2; float32: recall 1.0000"


@pytest.mark.parametrize("shape, expected", [((2,), 0.5), ((1, 2), np.nan)])
def test_what_has_another_shape_is_not_near(shape, expected):
    def first(array):
        return array

    def second(array):
        return np.reshape(array, shape) / 2, np.zeros(9)

    found = fidelity._difference(first, second, [np.array([1.0, -4.0])])
    assert found == pytest.approx(expected, nan_ok=True)
