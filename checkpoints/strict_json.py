"""JSON to frozen dataclasses, strictly: every fault is found, none is guessed away.

The dataclass's own annotations are the schema. Known: str, int, float, bool, Any,
X | None, tuple[X, ...], tuple[X, Y], Mapping[str, X], and dataclasses of these.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import math
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from checkpoints import allowance

# A manifest of a thousand variables takes 0.3 MB.
MAX_CHARACTERS = 16_000_000
MAX_FAULTS = 20
# Where decoding, and whatever else lists faults, ends: what is hostile has a fault in
# every few characters.
MOST_FAULTS = 1000
_LONGEST_FAULT = 300
_LONGEST_SHOWN = 80
# The most that Python's objects take for each of these in the text, in bytes, a name
# that no other is equal to for `:`; in a text within the text, escaped, for `\\u`.
# tests/strict_json_test.py measures that no text takes more, whole numbers of a
# tuple[float, ...] aside, which no dataclass here has.
_COSTS = {"[": 115, "{": 90, ",": 40, ":": 200, '"': 20, "\\u": 250}
# The most bytes that a byte of UTF-8 takes beside the file: a character beyond U+FFFF
# makes four of each, in the text and in the value.
_WIDENING = 8
# Metadata of a field with a default that is left out where it holds that: files of
# before it was there stay readable, and files that do not need it stay as they were.
OPTIONAL: Mapping[str, Any] = types.MappingProxyType({"optional": True})


def load(
    text: str | bytes | memoryview, size: int | None = None
) -> tuple[Any, list[str]]:
    """Parses JSON as RFC 8259 has it: no NaN, no 1e400, no key twice.

    Args:
      text: The text, or its UTF-8; it is refused where it, and what `decode` makes of
        it, could take more memory than `allowance.of` the file.
      size: Bytes of the file that holds it; None where it is the whole file.

    Returns:
      (value, faults); the value is None where there are faults.
    """
    size = len(text) if size is None else size
    if not isinstance(text, str):
        if fault := _undecodable(text, size):
            return None, [fault]
        text = str(text, errors="replace")
    if fault := excess(text, size):
        return None, [fault]
    try:
        parsed = json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
        return parsed, []
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON: {error}"]


def excess(text: str, size: int) -> str:
    """Why a file of so many bytes may not hold such a text; "" where it may."""
    if len(text) > MAX_CHARACTERS:
        return f"{len(text)} characters, more than {MAX_CHARACTERS}"
    cost, most = memory(text), allowance.of(size)
    if cost > most:
        return f"JSON that may take {cost} bytes of memory, more than {most}"
    return ""


def _undecodable(data: bytes | memoryview, size: int) -> str:
    """Why so many bytes of a file may not even be made a text; "" where they may."""
    if bytes(data).isascii():
        return ""
    cost, most = size + _WIDENING * len(data), allowance.of(size)
    return f"a text that may take {cost} bytes, more than {most}" if cost > most else ""


def memory(text: str) -> int:
    """The most bytes that a JSON text takes parsed and decoded, itself included."""
    objects = sum(cost * text.count(part) for part, cost in _COSTS.items())
    return 2 * sys.getsizeof(text) + objects


def dump(value: Any) -> str:
    """Writes a dataclass, or whatever JSON holds, on one line with sorted keys.

    Raises:
      ValueError: If a number is not finite.
      TypeError: If JSON cannot hold it.
    """
    return json.dumps(
        value,
        default=_plain,
        sort_keys=True,
        allow_nan=False,
        separators=(",", ":"),
    )


def decode(kind: type, value: Any, where: str, faults: list[str]) -> Any:
    """Turns parsed JSON into a dataclass.

    Args:
      kind: The dataclass.
      value: What `load` returned.
      where: Its name in faults.
      faults: Each fault is appended here.

    Returns:
      An instance; meaningless where faults were found.
    """
    before = len(faults)
    found = _decoder(kind)(value, faults)
    _within(where, faults, before)
    return found


def summary(faults: list[str]) -> str:
    """Joins faults; the first `MAX_FAULTS` of a hostile number, none of them long."""
    more = len(faults) - MAX_FAULTS
    shown = "; ".join(_shortened(fault) for fault in faults[:MAX_FAULTS])
    return f"{shown}; and {more} more" if more > 0 else shown


def shown(value: Any) -> str:
    """What an error quotes of a value, however large that is: 80 characters at most."""
    text = _SHOWN.repr(value)
    if len(text) <= _LONGEST_SHOWN:
        return text
    return f"{text[: _LONGEST_SHOWN - 3]}..."


class Repr(reprlib.Repr):
    """A repr that looks at the beginnings of long texts alone: Python's cuts after."""

    def repr_str(self, value: str, level: int) -> str:
        return repr(value[:_LONGEST_SHOWN])

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[:_LONGEST_SHOWN])


_SHOWN = Repr()
_SHOWN.maxlevel = 2


def _shortened(fault: str) -> str:
    """A fault without the middle of what it quotes, where that is endless."""
    half = _LONGEST_FAULT // 2
    return fault if len(fault) <= 2 * half else f"{fault[:half]}...{fault[-half:]}"


# From parsed JSON to the value; a fault begins with what comes behind its place.
_Decoder = Callable[[Any, list[str]], Any]


@functools.cache
def _decoder(hint: Any) -> _Decoder:
    """What is known of a type is looked up once: a manifest has thousands of values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, faults: value
    if dataclasses.is_dataclass(hint):
        return _dataclass_decoder(typing.cast(type, hint))
    if origin in (typing.Union, types.UnionType):  # X | None
        inner = _decoder(arguments[0])
        return lambda value, faults: None if value is None else inner(value, faults)
    if origin is tuple:
        return _tuple_decoder(arguments)
    if origin is Mapping:
        return _mapping_decoder(_decoder(arguments[1]))
    return _float_decoder if hint is float else _plain_decoder(hint)


def _dataclass_decoder(kind: type) -> _Decoder:
    hints = typing.get_type_hints(kind)
    decoders = {f.name: _decoder(hints[f.name]) for f in dataclasses.fields(kind)}
    required = _required(kind)

    def decoded(value: Any, faults: list[str]) -> Any:
        if not isinstance(value, dict):
            faults.append(f" must be an object, not {shown(value)}")
            return None
        before = len(faults)
        if value.keys() != decoders.keys():
            for name in sorted(value.keys() - decoders.keys())[:MAX_FAULTS]:
                faults.append(f" has an unknown key {name[:80]!r}")
        found = {}
        for name, decoder in decoders.items():
            if name in value:
                known = len(faults)
                found[name] = decoder(value[name], faults)
                if len(faults) > known:
                    _within(f".{name}", faults, known)
            elif name in required:
                faults.append(f" lacks the key {name!r}")
        return kind(**found) if len(faults) == before else None

    return decoded


def _mapping_decoder(decoder: _Decoder) -> _Decoder:
    def decoded(value: Any, faults: list[str]) -> dict:
        if not isinstance(value, dict):
            faults.append(f" must be an object, not {shown(value)}")
            return {}
        found = {}
        for name, item in value.items():
            if len(faults) >= MOST_FAULTS:
                break
            known = len(faults)
            found[name] = decoder(item, faults)
            _within(f".{repr(name[:80])[1:-1]}", faults, known)
        return found

    return decoded


def _tuple_decoder(arguments: tuple) -> _Decoder:
    endless = arguments[-1] is Ellipsis
    items = arguments[:-1] if endless else arguments
    decoders = [_decoder(item) for item in items]
    exact = set(items) if set(items) <= {items[0]} & {bool, int, str} else set()

    def decoded(value: Any, faults: list[str]) -> tuple:
        if not isinstance(value, list):
            faults.append(f" must be a list, not {shown(value)}")
            return ()
        if not endless and len(value) != len(decoders):
            faults.append(f" must have {len(decoders)} items, not {len(value)}")
            return ()
        if exact and exact.issuperset(map(type, value)):
            return tuple(value)  # As a shape: most of what a manifest holds.
        found = []
        kinds = itertools.repeat(decoders[0]) if endless else decoders
        for place, (decoder, item) in enumerate(zip(kinds, value)):
            if len(faults) >= MOST_FAULTS:
                break
            known = len(faults)
            found.append(decoder(item, faults))
            _within(f"[{place}]", faults, known)
        return tuple(found)

    return decoded


def _plain_decoder(kind: type) -> _Decoder:
    def decoded(value: Any, faults: list[str]) -> Any:
        if type(value) is kind:  # bool is an int to isinstance.
            return value
        faults.append(f" must be {kind.__name__}, not {shown(value)}")
        return None

    return decoded


def _float_decoder(value: Any, faults: list[str]) -> float | None:
    if type(value) not in (int, float):
        faults.append(f" must be float, not {shown(value)}")
        return None
    found = _float(value)
    if not math.isfinite(found):
        faults.append(f" must be finite, not {shown(value)}")
        return None
    return found


def _within(where: str, faults: list[str], known: int) -> None:
    """Says of the faults behind the `known` ones that they lie within `where`."""
    if len(faults) > known:
        faults[known:] = [where + fault for fault in faults[known:]]


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {name: getattr(value, name) for name in _required(type(value))}
        for field in _optional_fields(type(value)):
            held = getattr(value, field.name)
            if held != _default(field):
                found[field.name] = held
        return found
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()  # A numpy scalar.
    raise TypeError(f"JSON cannot hold {type(value).__name__}. Received: {value!r}.")


@functools.cache
def _required(kind: type) -> tuple[str, ...]:
    optional = _optional_fields(kind)
    return tuple(f.name for f in dataclasses.fields(kind) if f not in optional)


@functools.cache
def _optional_fields(kind: type) -> tuple[dataclasses.Field, ...]:
    return tuple(f for f in dataclasses.fields(kind) if f.metadata == OPTIONAL)


def _refuse(constant: str) -> Any:
    raise ValueError(f"numbers must be finite, not {constant}")


def _finite(number: str) -> float:
    found = float(number)
    if math.isinf(found):  # Which `dump` would refuse.
        raise ValueError(f"numbers must be finite, not {number[:80]}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = sorted(name[:80] for name, count in counts.items() if count > 1)
        raise ValueError(f"keys must not appear twice, as {twice[:8]} do")
    return found
