"""Contact sheets: which pictures are on which, and that they can be seen."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from ondevice.detection import drawing, targets
from ondevice.device import image_cache, label_sheets, samples

BOX = (0.2, 0.2, 0.8, 0.8)


def sample(directory, name, *classes, size=(40, 30)) -> samples.Sample:
    path = directory / f"{name}.png"
    Image.new("RGB", size, (0, 0, 200)).save(path)
    labels = tuple(targets.Label(BOX, ((0.5, 0.5),), index) for index in classes)
    return samples.Sample(path, None, labels)


def write(found, directory, classes=("fist", "open"), **options) -> dict:
    """File's name -> pixels."""
    dataset = samples.Dataset(classes, tuple(found))
    cache = image_cache.ImageCache()
    paths = label_sheets.write(dataset, directory / "sheets", cache, **options)
    assert sorted(paths) == sorted((directory / "sheets").iterdir())
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in paths}


def shows(pixels: np.ndarray, colour) -> int:
    """Pixels near a colour; JPEG moves them a little."""
    return int((np.abs(pixels - np.array(colour)).max(axis=-1) < 40).sum())


def test_a_page_a_class(tmp_path):
    found = [
        sample(tmp_path, "1", 0),
        sample(tmp_path, "2", 0, 1),
        sample(tmp_path, "3"),
        dataclasses.replace(sample(tmp_path, "4"), labels=None),
    ]
    pages = write(found, tmp_path, prefix="train-")
    assert set(pages) == {
        "train-fist-01.jpg",
        "train-open-01.jpg",
        "train-_nothing-01.jpg",
        "train-_not_found-01.jpg",
    }
    first, second = drawing.COLOURS[:2]
    fist, opened = pages["train-fist-01.jpg"], pages["train-open-01.jpg"]
    # Two pictures of blue, one of them with both hands; of the other class it alone.
    assert 1.5 < shows(fist, (0, 0, 200)) / shows(opened, (0, 0, 200)) < 2.5
    assert shows(fist, first) > 50 and shows(opened, second) > 50
    for name in ("train-_nothing-01.jpg", "train-_not_found-01.jpg"):
        assert not shows(pages[name], first) and not shows(pages[name], second)


def test_what_is_unlabelled_is_shown(tmp_path):
    each = dataclasses.replace(sample(tmp_path, "1"), unlabelled=(BOX,))
    pages = write([each], tmp_path)
    assert shows(pages["_nothing-01.jpg"], drawing.COLOURS[2]) > 50


def test_pages_follow_each_other(tmp_path):
    found = [sample(tmp_path, str(index), 0) for index in range(31)]
    pages = write(found, tmp_path)
    assert list(pages) == ["fist-01.jpg", "fist-02.jpg"]
    full, rest = pages.values()
    assert full.shape[1] == rest.shape[1] and full.shape[0] > 3 * rest.shape[0]
    ratio = shows(full, (0, 0, 200)) / shows(rest, (0, 0, 200))
    assert ratio == pytest.approx(30, rel=0.2)


def test_empty_classes_have_none(tmp_path):
    assert list(write([sample(tmp_path, "1", 1)], tmp_path)) == ["open-01.jpg"]


def test_names_that_files_cannot_have(tmp_path):
    classes = ("a/b", "A B", "../x", "手", "", "_not_found", "x" * 300)
    found = [sample(tmp_path, "1", *range(len(classes)))]
    names = list(write(found, tmp_path, classes))
    assert names == [
        "a_b0-01.jpg",
        "A_B1-01.jpg",
        "x-01.jpg",
        "手-01.jpg",
        "4-01.jpg",
        "not_found-01.jpg",
        f"{'x' * 40}-01.jpg",
    ]
    assert not list(tmp_path.glob("*.jpg"))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3000, 20), (100, 100)])
def test_pictures_of_any_size(tmp_path, size):
    pages = write([sample(tmp_path, "1", 0, size=size)], tmp_path)
    (pixels,) = pages.values()
    below = pixels[label_sheets._HEAD :]
    assert (np.ptp(below, axis=(0, 1)) > 50).all()


def test_the_name_of_the_file_stands_below(tmp_path):
    def text(name):
        """Columns of the first cell in which its name is written."""
        directory = tmp_path / name
        directory.mkdir()
        pixels = write([sample(directory, "1", 0)], directory)["fist-01.jpg"]
        row = label_sheets._HEAD + label_sheets._SIDE
        bright = (pixels[row : row + label_sheets._LINE] > 150).all(axis=-1)
        return np.flatnonzero(bright.any(axis=0))

    short, long = text("x"), text("long " * 40)
    left, right = label_sheets._GAP, label_sheets._GAP + label_sheets._SIDE
    assert left <= short[0] and short[-1] < left + 60
    # Its middle is left out, so that it ends with the picture.
    assert left <= long[0] and right - 30 < long[-1] <= right


def test_the_folder_is_made(tmp_path):
    found = [sample(tmp_path, "1", 0)]
    dataset = samples.Dataset(("fist", "open"), tuple(found))
    deep = pathlib.Path(tmp_path / "x" / "y")
    label_sheets.write(dataset, deep, image_cache.ImageCache())
    assert [path.name for path in deep.iterdir()] == ["fist-01.jpg"]
