"""Tests of ondevice/rebuild/layout.py."""

import numpy as np
import pytest

from ondevice.rebuild import layout


def test_kernel_permutation_is_the_hand_computed_one():
    assert layout.permutation("OHWI", "HWIO") == (1, 2, 3, 0)
    assert layout.permutation("1HWC", "HWC1") == (1, 2, 3, 0)


@pytest.mark.parametrize("target", ["HWI", "HWIX", "HWII"])
def test_layouts_of_other_axes_are_refused(target):
    with pytest.raises(ValueError, match="must name the same axes.*OHWI"):
        layout.permutation("OHWI", target)


def test_moved_brings_axes_of_size_one_in_and_out():
    alpha = np.arange(3.0, dtype=np.float32).reshape(1, 1, 3)
    np.testing.assert_array_equal(layout.moved(alpha, "HWC", "C"), [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(layout.moved(alpha.ravel(), "C", "HWC"), alpha)
    assert layout.moved_shape((1, 1, 3), "HWC", "C") == (3,)
    assert layout.moved_shape((3,), "C", "HWC") == (1, 1, 3)


def test_moved_transposes_as_the_permutation_does():
    kernel = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    found = layout.moved(kernel, "HWIO", "OIHW")
    assert found[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    assert found.flags.c_contiguous and found.dtype == np.float32
    assert layout.moved_shape(kernel.shape, "HWIO", "OIHW") == found.shape
    np.testing.assert_array_equal(layout.moved(found, "OIHW", "HWIO"), kernel)


def test_an_axis_that_is_left_out_must_be_of_size_one():
    with pytest.raises(ValueError):
        layout.moved(np.zeros((1, 2, 3)), "HWC", "C")


def test_a_shape_has_an_axis_for_each_letter():
    for shape in ((1, 1), (1, 1, 3, 4)):
        with pytest.raises(ValueError):
            layout.moved_shape(shape, "HWC", "C")
