"""Pictures of confusion matrices: that they can be read."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image

from ondevice.device import confusion

pytest.importorskip("matplotlib")

TITLE = ["out/model.tflite + out/run/best.safetensors", "class accuracy 0.979"]


def matrix(classes: int, diagonal: int = 40) -> list[list[int]]:
    """Right but for one image of each class taken for the next, and one not found."""
    found = np.zeros((classes, classes + 1), int)
    index = np.arange(classes)
    found[index, index] = diagonal
    found[index, (index + 1) % classes] += 1
    found[index, classes] += 1
    return found.tolist()


def parts(page):
    """The axes, the numbers in the cells, and the boxes of names along both axes."""
    (axes,) = page.axes
    page.draw_without_rendering()
    across = [label.get_window_extent() for label in axes.get_xticklabels()]
    down = [label.get_window_extent() for label in axes.get_yticklabels()]
    return axes, axes.texts, across, down


@pytest.mark.parametrize("classes", [1, 2, 7, 20, 40, 80])
@pytest.mark.parametrize("name", ["{}", "object number {}"])
def test_names_and_numbers_do_not_overlap(classes, name):
    names = [name.format(index) for index in range(classes)]
    page = confusion.page(matrix(classes), names, TITLE)
    axes, numbers, across, down = parts(page)
    assert [t.get_text() for t in axes.get_xticklabels()] == [*names, "no detection"]
    assert [t.get_text() for t in axes.get_yticklabels()] == [
        f"{each} (42)" for each in names
    ]
    for before, after in zip(across, across[1:]):
        assert before.x1 <= after.x0
    for before, after in zip(down, down[1:]):
        assert before.y0 >= after.y1
    assert all(label.get_fontsize() >= 6 for label in axes.get_xticklabels())
    whole = page.bbox
    for box in (*across, *down, page._suptitle.get_window_extent()):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1
    # Two digits fit at any of these counts.
    wanted = [str(n) for row in matrix(classes) for n in row if n]
    assert [number.get_text() for number in numbers] == wanted
    side = axes.get_window_extent().width / (classes + 1)
    assert all(number.get_window_extent().width < side for number in numbers)


@pytest.mark.parametrize("diagonal, written", [(99, True), (99_999, False)])
def test_numbers_are_written_only_while_they_fit(diagonal, written):
    names = [str(index) for index in range(80)]
    page = confusion.page(matrix(80, diagonal), names, TITLE)
    assert bool(parts(page)[1]) == written
    few = confusion.page(matrix(2, diagonal), names[:2], TITLE)
    assert len(parts(few)[1]) == 6


def test_colours_are_shares_of_the_row():
    page = confusion.page([[4, 0, 1], [0, 0, 0]], ["a", "b"], TITLE)
    (image,) = page.axes[0].images
    np.testing.assert_allclose(image.get_array(), [[0.8, 0, 0.2], [0, 0, 0]])
    assert image.get_clim() == (0, 1)
    assert [t.get_color() for t in parts(page)[1]] == ["white", "black"]


def test_a_long_title_is_broken():
    page = confusion.page(matrix(2), ["a", "b"], ["long/" * 60, "recall 1"])
    page.draw_without_rendering()
    box = page._suptitle.get_window_extent()
    assert page.bbox.x0 <= box.x0 and box.x1 <= page.bbox.x1
    assert box.y0 >= page.axes[0].get_window_extent().y1
    assert page.get_suptitle().endswith("\nrecall 1")


@pytest.mark.parametrize("name", ["$a_{$", "手", "x" * 300, " ", "\\frac"])
def test_odd_names(tmp_path, name):
    path = tmp_path / "confusion.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confusion.draw(matrix(2), [name, "b"], [name, "recall"], path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and 500 < picture.width < 1500
    assert [p.name for p in tmp_path.iterdir()] == ["confusion.png"]


def test_an_old_picture_is_replaced(tmp_path):
    path = tmp_path / "confusion.png"
    confusion.draw(matrix(2), ["a", "b"], TITLE, path)
    before = path.read_bytes()
    confusion.draw(matrix(3), ["a", "b", "c"], TITLE, path)
    assert path.read_bytes() != before
