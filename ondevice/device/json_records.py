"""Reads a long JSON record by record: no more of it is in memory than one.

Only the outermost object, and the lists in it, may be long; see `LONGEST`. Of a name
that is there twice in one value the last counts; NaN and infinities are refused.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

# Bytes of a value that is read at once; COCO's longest are the outlines of crowds.
LONGEST = 2**17

# Items of all lists and members of the outermost object: so many, and one more for so
# many bytes. A picture with its hands takes hundreds; items of two bytes are no data.
ITEMS, BYTES_AN_ITEM = 250_000, 50

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = frozenset(" \t\n\r,:]}")


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(parse_constant=_refused)


def lists(data: bytes) -> Iterator[tuple[str, Iterator[Any] | None]]:
    """The members of an object, where lists are given item by item.

    Args:
      data: The text, in UTF-8.

    Yields:
      (name, the list's items), to be used before the next pair; None for the items
      where the value is no list.

    Raises:
      ValueError: If it is no JSON, no object, or a value or item is too long.
    """
    reader = _Reader(data)
    for name in reader.names():
        if reader.next() == "[":
            items = reader.items()
            yield name, items
            for _ in items:  # What nobody wanted.
                pass
        else:
            reader.value()
            yield name, None
    reader.end()


def members(data: bytes) -> Iterator[tuple[str, Any]]:
    """The (name, value) pairs of an object in UTF-8.

    Raises:
      ValueError: If it is no JSON, no object, or a value is too long.
    """
    reader = _Reader(data)
    for name in reader.names():
        yield name, reader.value()
    reader.end()


class _Reader:
    """A place in a text, that moves on with each value."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        # A part of it, decoded; where that begins, and the place in it.
        self._begin = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
        self._text, self._at, self._is_last = "", 0, False
        self._items = ITEMS + len(data) // BYTES_AN_ITEM
        self._decode()

    def names(self) -> Iterator[str]:
        """Yields each name of an object, its value to be read before the next."""
        for _ in self._separated("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a name must stand before byte {self._byte()}")
            self._take(":")
            yield name

    def items(self) -> Iterator[Any]:
        """Yields each item of a list."""
        for _ in self._separated("[", "]"):
            yield self.value()

    def next(self) -> str:
        """The next character that is no space; none at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._is_last:
                return self._text[self._at : self._at + 1]
            self._decode()

    def value(self) -> Any:
        """Reads whatever comes."""
        self.next()
        while True:
            fault = "it must end"
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                fault = getattr(error, "msg", str(error))
            else:
                # What ends with a part could go on: 12 of 123, 1.5 of 1.5e3.
                if self._is_last or self._text[end : end + 1] in _AFTER:
                    self._at = end
                    return found
            if not self._is_last and self._at == 0:
                fault = f"{fault}, or it is longer than {LONGEST} bytes"
            if self._is_last or self._at == 0:
                raise ValueError(f"{fault}, in the value at byte {self._byte()}")
            self._decode()

    def end(self) -> None:
        """Proves that nothing follows."""
        if self.next():
            raise ValueError(f"nothing must follow at byte {self._byte()}")

    def _separated(self, opening: str, closing: str) -> Iterator[None]:
        """Yields before each of the values that commas separate."""
        self._take(opening)
        if self.next() != closing:
            yield
            while self.next() == ",":
                self._at += 1
                self._items -= 1
                if self._items < 0:
                    raise ValueError("there must be fewer items for its length")
                yield
        self._take(closing)

    def _take(self, wanted: str) -> None:
        found = self.next()
        if found != wanted:
            raise ValueError(
                f"{wanted} must stand at byte {self._byte()}, "
                f"not {found or 'the end'}"
            )
        self._at += 1

    def _decode(self) -> None:
        """Decodes the part that begins at the place."""
        self._begin, self._at = self._byte(), 0
        part = self._data[self._begin : self._begin + LONGEST]
        self._is_last = self._begin + LONGEST >= len(self._data)
        try:
            self._text, _ = codecs.utf_8_decode(part, "strict", self._is_last)
        except UnicodeDecodeError as error:
            place = self._begin + error.start
            raise ValueError(f"it must be utf-8, at byte {place}") from None

    def _byte(self) -> int:
        """The place in the whole."""
        return self._begin + len(self._text[: self._at].encode())
