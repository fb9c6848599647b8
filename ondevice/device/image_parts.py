"""Bounds what a picture is made of, beside its pixels.

Each part of a file costs Pillow a few calls in Python and an object or two, however
small it is, and each scan of a progressive JPEG costs a pass over all its pixels. So a
small file of very many parts would take seconds, or hundreds of megabytes.
"""

from __future__ import annotations

import io
import re

from PIL import PngImagePlugin

# Longest file; 64 Mpx of four channels take no more at 32 bits each.
MAX_BYTES = 2**30

# Encoders write about ten; libjpeg-turbo and browsers bound them at some hundreds.
MAX_SCANS = 100

# Of a JPEG; one holds up to 64 kB, and there are some tens.
MAX_SEGMENTS = 10_000

# Numbers in a tag of a TIFF: the places of its strips, a row or more each, are the most
# that is in good ones, and each strip is 250 bytes to Pillow.
MAX_NUMBERS = 20_000

# Of a PPM in ASCII: Pillow copies a megabyte to take one out.
MAX_COMMENTS = 1_000

# Times that a file may be read from: so often, and once more for so many bytes. PNG
# encoders write chunks of 8 kB, four reads each.
_READS = 50_000
_BYTES_A_READ = 200

# A text or colour profile of a PNG, and all texts together, inflated: the longest takes
# nine times as much in Pillow while it is read. Its own bounds are 1 and 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**19

_JPEG, _BMP = b"\xff\xd8", b"BM"
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_ASCII_PPM = (b"P1", b"P2", b"P3")

# No stuffed byte, no filling and no restart, which have no length either.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA

# Types of tags that are bytes to Pillow, too, not numbers: BYTE, ASCII and UNDEFINED.
_BYTES = (1, 2, 7)


class PartsError(ValueError):
    """A picture of too many parts; the message says of which."""


class Stream(io.BytesIO):
    """A picture's bytes, to be read by Pillow so often and no more."""

    def __init__(self, data: bytes) -> None:
        """Counts what Pillow would count too late.

        Raises:
          PartsError: If there are too many scans, segments, numbers or comments.
        """
        super().__init__(data)
        # Pillow reads a compressed BMP byte by byte, and nothing is kept of them.
        is_bmp = data.startswith(_BMP)
        self._left = _READS + len(data) // (1 if is_bmp else _BYTES_A_READ)
        if data.startswith(_JPEG):
            _bound_jpeg(data)
        elif data.startswith(_TIFF):
            _bound("numbers in a tag", _longest_tag(data), MAX_NUMBERS)
        elif data.startswith(_ASCII_PPM):
            _bound("comments", data.count(b"#"), MAX_COMMENTS)

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads on.

        Raises:
          PartsError: If that was done too often.
        """
        self._left -= 1
        if self._left < 0:
            raise PartsError("it must have fewer parts for its length")
        return super().read(size)


def _bound(of_what: str, count: int, most: int) -> None:
    if count > most:
        raise PartsError(f"it must have at most {most} {of_what}")


def _bound_jpeg(data: bytes) -> None:
    """Counts segments and scans as libjpeg finds them."""
    at = segments = scans = 0
    while found := _MARKER.search(data, at):
        at, kind = found.end(), found[1][0]
        if kind == _END_OF_IMAGE and scans:
            return  # Other pictures may follow, or a film.
        segments += 1
        scans += kind == _START_OF_SCAN
        _bound("segments", segments, MAX_SEGMENTS)
        _bound("scans", scans, MAX_SCANS)
        if kind >= 0xC0 and kind not in (_START_OF_IMAGE, _END_OF_IMAGE):
            at += max(2, int.from_bytes(data[at : at + 2], "big"))


def _longest_tag(data: bytes) -> int:
    """Most numbers in a tag of the first picture of a TIFF or BigTIFF."""

    def number(start: int, size: int) -> int:
        part = data[start : start + size]
        return int.from_bytes(part, "little" if data.startswith(b"I") else "big")

    is_big = b"+" in data[2:4]
    wide, many, tag = (8, 8, 20) if is_big else (4, 2, 12)
    first = number(8 if is_big else 4, wide)
    end = min(first + many + number(first, many) * tag, len(data))
    return max(
        (
            number(at + 4, wide)
            for at in range(first + many, end, tag)
            if number(at + 2, 2) not in _BYTES
        ),
        default=0,
    )
