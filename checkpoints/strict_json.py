"""JSON to frozen dataclasses, strictly: every fault is found, none is guessed away.

The dataclass's own annotations are the schema. Known: str, int, float, bool, Any,
X | None, tuple[X, ...], tuple[X, Y], Mapping[str, X], and dataclasses of these.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

# A manifest of a thousand variables takes 0.3 MB.
MAX_CHARACTERS = 16_000_000
MAX_FAULTS = 20
# Metadata of a field with a default that is left out where it holds that: files of
# before it was there stay readable, and files that do not need it stay as they were.
OPTIONAL: Mapping[str, Any] = types.MappingProxyType({"optional": True})


def load(text: str) -> tuple[Any, list[str]]:
    """Parses JSON as RFC 8259 has it: no NaN, no key twice.

    Returns:
      (value, faults); the value is None where there are faults.
    """
    if len(text) > MAX_CHARACTERS:
        return None, [f"{len(text)} characters, more than {MAX_CHARACTERS}"]
    try:
        return json.loads(text, parse_constant=_refuse, object_pairs_hook=_once), []
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON: {error}"]


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
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        faults.append(f"{where} must be an object, not {_show(value)}")
        return None
    for name in sorted(set(value) - set(fields)):
        faults.append(f"{where} has an unknown key {name[:80]!r}")
    hints = _hints(kind)
    found = {}
    for name in fields:
        if name in value:
            found[name] = _decode(hints[name], value[name], f"{where}.{name}", faults)
        elif not _optional(fields[name]):
            faults.append(f"{where} lacks the key {name!r}")
    return kind(**found) if len(faults) == before else None


def summary(faults: list[str]) -> str:
    """Joins faults; the first `MAX_FAULTS` of a hostile number."""
    more = len(faults) - MAX_FAULTS
    shown = "; ".join(faults[:MAX_FAULTS])
    return f"{shown}; and {more} more" if more > 0 else shown


def _decode(hint: Any, value: Any, where: str, faults: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, where, faults)
    if origin in (typing.Union, types.UnionType):  # X | None
        return None if value is None else _decode(arguments[0], value, where, faults)
    if origin is tuple:
        return _tuple(arguments, value, where, faults)
    if origin is Mapping:
        if not isinstance(value, dict):
            faults.append(f"{where} must be an object, not {_show(value)}")
            return {}
        items = value.items()
        return {k: _decode(arguments[1], v, f"{where}.{k}", faults) for k, v in items}
    accepted = (int, float) if hint is float else (hint,)
    if type(value) not in accepted:  # bool is an int to isinstance.
        faults.append(f"{where} must be {hint.__name__}, not {_show(value)}")
        return None
    if hint is float and not math.isfinite(_float(value)):
        faults.append(f"{where} must be finite, not {_show(value)}")
        return None
    return _float(value) if hint is float else value


def _tuple(arguments: tuple, value: Any, where: str, faults: list[str]) -> tuple:
    if not isinstance(value, list):
        faults.append(f"{where} must be a list, not {_show(value)}")
        return ()
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        faults.append(f"{where} must have {len(arguments)} items, not {len(value)}")
        return ()
    endless = arguments[-1] is Ellipsis
    kinds = arguments[:1] * len(value) if endless else arguments
    return tuple(
        _decode(kind, item, f"{where}[{i}]", faults)
        for i, (kind, item) in enumerate(zip(kinds, value))
    )


def _optional(field: dataclasses.Field) -> bool:
    return field.metadata == OPTIONAL


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if not _optional(field) or getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()  # A numpy scalar.
    raise TypeError(f"JSON cannot hold {type(value).__name__}. Received: {value!r}.")


def _refuse(constant: str) -> Any:
    raise ValueError(f"numbers must be finite, not {constant}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name[:80] for name in names if names.count(name) > 1})
        raise ValueError(f"keys must not appear twice, as {twice[:8]} do")
    return found


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
