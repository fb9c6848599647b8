"""The cache of decoded pictures keeps what fits, and gives what is there."""

import numpy as np
import pytest
from PIL import Image

from ondevice.device import image_cache, images


@pytest.fixture(name="paths")
def _paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for index in range(4):
        pixels = rng.integers(0, 256, (10, 10, 3)).astype(np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


class TestImageCache:
    def test_gives_what_read_gives(self, paths):
        cache = image_cache.ImageCache()
        for path in [*paths, *paths]:
            np.testing.assert_array_equal(cache.read(path), images.read(path))
        assert cache.bytes == 4 * 300

    def test_decodes_once(self, paths, monkeypatch):
        cache = image_cache.ImageCache()
        first = cache.read(paths[0])
        monkeypatch.setattr(images, "read", None)
        assert cache.read(paths[0]) is first

    def test_keeps_no_more_than_the_bound(self, paths):
        cache = image_cache.ImageCache(700)
        for path in [*paths, *paths]:
            cache.read(path)
        assert cache.bytes == 600

    def test_zero_keeps_none(self, paths):
        cache = image_cache.ImageCache(0)
        assert cache.read(paths[0]).shape == (10, 10, 3) and cache.bytes == 0

    @pytest.mark.parametrize("max_bytes", [0, 10_000])
    def test_large_pictures_are_reduced_whether_they_fit_or_not(self, paths, max_bytes):
        cache = image_cache.ImageCache(max_bytes, side=5)
        for _ in range(2):
            found = cache.read(paths[0])
            np.testing.assert_array_equal(found, images.read(paths[0])[::2, ::2])
        assert cache.bytes == (75 if max_bytes else 0)

    def test_what_it_gives_cannot_be_written_to(self, paths):
        with pytest.raises(ValueError, match="read-only"):
            image_cache.ImageCache().read(paths[0])[0] = 0

    def test_errors_pass_through_and_are_not_kept(self, tmp_path):
        path, cache = tmp_path / "a.png", image_cache.ImageCache()
        with pytest.raises(images.ImageError):
            cache.read(path)
        Image.new("RGB", (2, 2)).save(path)
        assert cache.read(path).shape == (2, 2, 3)
