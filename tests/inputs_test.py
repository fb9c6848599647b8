"""Tests of ondevice/verification/inputs.py."""

import pathlib

import pytest

from ondevice.verification import inputs


def _folder(tmp_path: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Pictures in two folders, in the order of their names."""
    paths = [tmp_path / f"{i % 2}" / f"{i:02d}.PNG" for i in range(count)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "note.txt").touch()
    return sorted(paths)


@pytest.mark.parametrize("count, step", [(1, 1), (8, 1), (15, 1), (16, 2), (24, 3)])
def test_eight_photographs_are_spread_over_the_folder(tmp_path, count, step):
    paths = _folder(tmp_path, count)
    assert inputs.photographs(tmp_path) == paths[::step][:8]


def test_a_folder_without_photographs_is_refused(tmp_path):
    _folder(tmp_path, 0)
    with pytest.raises(inputs.PhotographsError, match="holds none"):
        inputs.photographs(tmp_path)
