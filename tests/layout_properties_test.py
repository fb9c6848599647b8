"""Whatever the array: layouts round trip, and move each number to where it belongs."""

from __future__ import annotations

import string

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ondevice.rebuild import layout, naming

LETTERS = string.ascii_uppercase


@st.composite
def layouts(draw: st.DrawFn) -> tuple[str, str, tuple[int, ...]]:
    """Two layouts and the shape of an array in the first.

    Axes that only one of them has are of size one, and digits.
    """
    letters = draw(st.lists(st.sampled_from(LETTERS), unique=True, max_size=5))
    size_of = {letter: draw(st.integers(1, 4)) for letter in letters}
    ones = ["1", "2", "3", "4"]
    source = draw(st.permutations(letters + ones[: draw(st.integers(0, 2))]))
    target = draw(st.permutations(letters + ones[2 : 2 + draw(st.integers(0, 2))]))
    shape = tuple(size_of.get(letter, 1) for letter in source)
    return "".join(source), "".join(target), shape


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """No two numbers are equal."""
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


@given(layouts())
def test_there_and_back(case):
    source, target, shape = case
    array = numbered(shape)
    there = layout.moved(array, source, target)
    assert there.flags.c_contiguous and there.dtype == array.dtype
    assert there.shape == layout.moved_shape(shape, source, target)
    back = layout.moved(there, target, source)
    np.testing.assert_array_equal(back, array)


@given(layouts(), st.randoms(use_true_random=False))
def test_each_number_lies_where_its_axes_say(case, random):
    source, target, shape = case
    array = numbered(shape)
    there = layout.moved(array, source, target)
    place = {axis: random.randrange(size) for axis, size in zip(source, shape)}
    here = tuple(place[axis] for axis in source)
    assert there[tuple(place.get(axis, 0) for axis in target)] == array[here]


@given(st.permutations(LETTERS[:6]), st.permutations(LETTERS[:6]))
def test_permutations_undo_each_other(source, target):
    there = layout.permutation("".join(source), "".join(target))
    back = layout.permutation("".join(target), "".join(source))
    assert [there[axis] for axis in back] == list(range(6))


# As a file has them; a depthwise filter of two outputs for each channel among them.
KINDS = st.sampled_from(
    [
        ("conv", "kernel", "OHWI", 1),
        ("conv", "bias", "O", 1),
        ("depthwise", "kernel", "1HWC", 1),
        ("depthwise", "kernel", "1HWC", 2),
        ("transpose_conv", "kernel", "OHWI", 1),
        ("dense", "kernel", "OI", 1),
        ("prelu", "alpha", "HWC", 1),
        ("", "", "", 1),  # A scalar that no rule knows.
    ]
)


@given(KINDS, st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_layouts_of_weights_hold_the_same_numbers(kind, sizes):
    name, attribute, axes, multiplier = kind
    shape = [1 if axis == "1" else size for axis, size in zip(axes, sizes)]
    if multiplier > 1:
        shape[-1] *= multiplier
    array = numbered(tuple(shape))
    constant = naming.Constant("x", name, attribute, axes, 0, 0, 0, multiplier)
    seen = {one: naming.arranged(array, constant, one) for one in naming.LAYOUTS}
    np.testing.assert_array_equal(seen[naming.TFLITE], array)
    for found in seen.values():
        # A slope a channel, where PyTorch's has no places, or one for each multiple.
        assert found.ndim == array.ndim or name in ("prelu", "depthwise")
        assert sorted(found.reshape(-1)) == sorted(array.reshape(-1))
    # Input and output channels are where both frameworks want them.
    if name in ("conv", "dense"):
        keras, torch = seen[naming.KERAS], seen[naming.PYTORCH]
        if attribute == "kernel":
            assert keras.shape[-2:] == torch.shape[1::-1]
