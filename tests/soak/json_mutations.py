"""JSON that says something else than it should: values, keys, nesting, paths."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from tests.soak import mutations

# Stands for a number that no float holds.
_BEYOND = "here something beyond floats"
_VALUES: tuple[Any, ...] = (
    _BEYOND,
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "a", "-1", "float32", "\0", "\ud800", "x" * 9999),
    *("../../outside", "/etc/passwd", "C:\\x", ".", "..", "images/../../x", "a\nb"),
    *([], {}, [[]], [0] * 1000, [-1], [2**40, 2**40], {"a": {"a": {}}}, [None, "a"]),
)

# What Python makes much of, in few characters.
_UNITS = (
    *("[]", "{}", "[[]]", "[1]", '{"":[]}', "0", "0.5", "300"),
    *('""', '"ab"', '"\\u4e00"'),
)
_HOLE = "here something long"
# Of the second, four bytes are taken by each character, and four characters by repr.
_LONG_TEXTS = ("k" * 300_000, "\U0001f600" + "\x7f" * 300_000)


def changed(draw: random.Random, value: Any) -> bytes:
    """A document with a few values, keys or bytes changed; text.

    One in thirty is long: it has a value with up to half a million characters; one in
    twenty has names as long, of objects with long lists.

    Args:
      draw: What to draw from.
      value: What JSON holds.
    """
    found = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 2, 5))):
        _change(draw, found)
    if draw.random() < 0.05:
        _swell(draw, found)
    is_long = draw.random() < 0.03
    if is_long:
        holder, key = _place(draw, found)
        holder[key] = _HOLE
    text = json.dumps(found[0], ensure_ascii=False)
    text = text.replace(json.dumps(_BEYOND), "1e400")
    if is_long:
        text = text.replace(json.dumps(_HOLE), _long(draw, value), 1)
    if draw.random() < 0.03:  # Deeper than any stack.
        depth = draw.choice((10, 900, 100_000))
        text = "[" * depth + text + "]" * draw.choice((depth, depth - 1, 0))
    if draw.random() < 0.05:  # One key twice.
        text = text.replace("{", '{"version": 1, "version": 1, ', 1)
    data = text.encode(errors="surrogatepass")
    return mutations.damaged(draw, data) if draw.random() < 0.2 else data


def _change(draw: random.Random, document: list[Any]) -> None:
    """Changes one value anywhere, in place."""
    holder, key = _place(draw, document)
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


def _swell(draw: random.Random, document: list[Any]) -> None:
    """Makes texts and a name of an object very long, and its lists: of faults, too."""
    holder, key = _place(draw, document)
    value = holder[key]
    long = draw.choice(_LONG_TEXTS)
    if not isinstance(value, dict):
        holder[key] = long
        return
    for name, part in value.items():
        if isinstance(part, str):
            value[name] = long
        elif isinstance(part, list):
            few = draw.choice((part[:1], ["x"], [{}]))
            value[name] = few * (50_000 // len(json.dumps(few)))
    if isinstance(holder, dict):
        holder[long] = holder.pop(key)


def _place(draw: random.Random, document: list[Any]) -> tuple[Any, Any]:
    """Where a value is: what holds it, and its key there."""
    holder: Any = document
    key: Any = 0
    while isinstance(holder[key], (list, dict)) and holder[key]:
        if draw.random() < 0.15:
            break
        holder = holder[key]
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw.choice(keys)
    return holder, key


def _long(draw: random.Random, value: Any) -> str:
    """A list or an object of equal values."""
    part = value
    while isinstance(part, (list, dict)) and part and draw.random() < 0.7:
        part = draw.choice(list(part.values()) if isinstance(part, dict) else part)
    unit = draw.choice((*_UNITS, json.dumps(part)))
    count = draw.choice((50_000, 500_000)) // (len(unit) + 8)
    if draw.random() < 0.5:
        return f"[{','.join([unit] * count)}]"
    named = (f'"{number:x}":{unit}' for number in range(count))
    return f"{{{','.join(named)}}}"
