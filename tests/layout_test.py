"""Tests of ondevice/rebuild/layout.py."""

import pytest

from ondevice.rebuild import layout


def test_kernel_permutation_is_the_hand_computed_one():
    assert layout.permutation("OHWI", "HWIO") == (1, 2, 3, 0)
    assert layout.permutation("1HWC", "HWC1") == (1, 2, 3, 0)


@pytest.mark.parametrize("target", ["HWI", "HWIX", "HWII"])
def test_layouts_of_other_axes_are_refused(target):
    with pytest.raises(ValueError, match="must name the same axes.*OHWI"):
        layout.permutation("OHWI", target)
