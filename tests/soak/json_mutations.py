"""JSON that says something else than it should: values, keys, nesting, paths."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.soak import mutations

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "a", "-1", "float32", "\0", "\ud800", "x" * 9999),
    *("../../outside", "/etc/passwd", "C:\\x", ".", "..", "images/../../x", "a\nb"),
    *([], {}, [[]], [0] * 1000, [-1], [2**40, 2**40], {"a": {"a": {}}}, [None, "a"]),
)


def changed(draw: random.Random, value: Any) -> bytes:
    """A document with a few values, keys or bytes changed; text.

    Args:
      draw: What to draw from.
      value: What JSON holds.
    """
    found = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        _change(draw, found)
    text = json.dumps(found[0], ensure_ascii=False)
    if draw.random() < 0.03:  # Deeper than any stack.
        depth = draw.choice((10, 900, 100_000))
        text = "[" * depth + text + "]" * draw.choice((depth, depth - 1, 0))
    if draw.random() < 0.05:  # One key twice.
        text = text.replace("{", '{"version": 1, "version": 1, ', 1)
    data = text.encode(errors="surrogatepass")
    return mutations.damaged(draw, data) if draw.random() < 0.2 else data


def _change(draw: random.Random, document: list[Any]) -> None:
    """Changes one value anywhere, in place."""
    holder: Any = document
    key: Any = 0
    while isinstance(holder[key], (list, dict)) and holder[key]:
        if draw.random() < 0.15:
            break
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw.choice(keys)
    way = draw.randrange(6)
    if way == 0 and holder is not document:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[draw.choice(("", "x", "__metadata__", "version", "id"))] = holder[key]
    elif way == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif way == 3 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * draw.choice((-1, 0, 2, 3, 10**9)) + 1
    else:
        holder[key] = copy.deepcopy(draw.choice(_VALUES))
