"""A matrix product in numpy: how fast this machine multiplies and adds at best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# Sides of the square matrices: large enough for the library's best rate, 30 ms a call.
SIDE = 1024
MULTIPLY_ADDS = SIDE**3


def prepare(options: Mapping[str, Any]) -> Callable[[], Any]:
    """Makes two matrices; the worker's environment says how many threads there are."""
    del options
    random = np.random.default_rng(0)
    one, other = (random.random((SIDE, SIDE), np.float32) for _ in range(2))
    out = np.empty_like(one)
    return lambda: np.matmul(one, other, out=out)
