"""Which shapes there can be."""

import pytest

from checkpoints import shapes


@pytest.mark.parametrize(
    "shape", [(), (0,), (1,) * 16, (2**31,), (2**16, 2**15), (2**31, 0)]
)
def test_possible(shape):
    assert shapes.is_possible(shape)


@pytest.mark.parametrize(
    "shape",
    [(-1,), (3, -1, -1), (1,) * 17, (2**31 + 1,), (2**16, 2**15 + 1), (2**31 + 1, 0)],
)
def test_impossible(shape):
    assert not shapes.is_possible(shape)


def test_no_product_of_endless_numbers_is_formed():
    class Side(int):
        def __mul__(self, other):
            raise AssertionError("multiplied")

        __rmul__ = __mul__

    assert not shapes.is_possible([Side(10**20)] * 3)
