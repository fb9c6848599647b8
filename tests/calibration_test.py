"""Tests of the images that show the activations' ranges."""

import numpy as np
import pytest
from PIL import Image

from ondevice.device import calibration, samples


def folder(root, count):
    for number in range(count):
        place = root / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        white = np.full((8, 8, 3), 255, np.uint8)
        Image.fromarray(white).save(place / f"{number:03}.png")
    return root


def test_a_large_folder_is_taken_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "MOST", 6)
    found = calibration.find(folder(tmp_path, 12))
    assert len(found) == len(set(found)) == 6
    assert [path.parent.name for path in found] == ["0", "0", "1", "1", "2", "2"]
    assert len(calibration.find(tmp_path / "0")) == 4


def test_images_lie_at_random_within_the_frame(tmp_path):
    paths = calibration.find(folder(tmp_path, 8))
    images = calibration.read(paths, (0.25, 0.5), 64, (-1.0, 1.0))
    again = calibration.read(paths, (0.25, 0.5), 64, (-1.0, 1.0))
    shares, places = [], set()
    for image, same in zip(images, again, strict=True):
        assert (image.shape, image.dtype) == ((1, 64, 64, 3), np.float32)
        np.testing.assert_array_equal(image, same)
        assert (image.min(), image.max()) == (-1, 1)
        rows, columns = np.nonzero(image[0, :, :, 0] > 0)
        shares.append((rows.max() - rows.min() + 1) / 64)
        places.add((rows.min(), columns.min()))
    # The edges are blurred over a pixel of the picture, an eighth of its side.
    assert 0.2 <= min(shares) < max(shares) <= 0.5
    assert len(places) == 8


def test_what_cannot_be_used(tmp_path):
    for given in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(samples.DataError, match="folder that holds pictures"):
            calibration.find(given)
    paths = calibration.find(folder(tmp_path, 3))
    for path in paths[1:]:
        path.write_bytes(b"broken")
    with pytest.raises(samples.DataError) as caught:
        calibration.read(paths, (1.0, 1.0), 32, (0.0, 1.0))
    assert len(caught.value.faults) == 2
