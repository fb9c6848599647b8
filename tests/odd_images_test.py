"""Pictures that nobody thinks of: one pixel, fifty megapixels, printing ink."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import geometry
from ondevice.device import images


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_one_pixel(tmp_path, kind):
    path = tmp_path / "a"
    Image.new("RGB", (1, 1), (200, 200, 200)).save(path, kind)
    for side in (None, 1, 384):
        found = images.read(path, side)
        assert found.shape == (1, 1, 3)
        np.testing.assert_allclose(found, 200, atol=8)  # What GIF's palette has.
    square = images.place(found, geometry.letterbox(1, 1), 32)
    assert square.shape == (32, 32, 3) and square.max() == found.max()


def test_fifty_megapixels(tmp_path):
    picture = Image.new("1", (10_000, 5_000))
    picture.putpixel((0, 0), 1)
    picture.save(tmp_path / "a.png")
    found = images.read(tmp_path / "a.png", side=384)
    assert found.shape == (193, 385, 3)  # Every 26th pixel.
    np.testing.assert_array_equal(found[0, :2, 0], [255, 0])


def test_ink_becomes_colour(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    found = images.read(tmp_path / "a.jpg")
    np.testing.assert_allclose(found[4, 4], [0, 255, 255], atol=3)
