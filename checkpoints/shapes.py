"""Which shapes a tensor can have, whatever the file that tells them."""

from __future__ import annotations

import math
from collections.abc import Sequence

# TFLite's kernels know 8 axes at most; converters leave more in constants that nothing
# reads.
MAX_RANK = 16
# A .tflite holds no more bytes than that.
MAX_ELEMENTS = 2**31


def is_possible(shape: Sequence[int]) -> bool:
    """Whether so many sides, each of 0 or more, have so few elements.

    The largest side is looked at first: the product of a thousand numbers of four
    thousand digits takes seconds.
    """
    return (
        len(shape) <= MAX_RANK
        and min(shape, default=0) >= 0
        and max(shape, default=0) <= MAX_ELEMENTS
        and math.prod(shape) <= MAX_ELEMENTS
    )
