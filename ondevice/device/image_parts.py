"""Bounds what a picture is made of, beside its pixels.

Each part of a file costs Pillow a few calls in Python and an object or two, however
small it is, and each scan of a progressive JPEG costs a pass over all its pixels. So a
small file of very many parts would take seconds, or hundreds of megabytes.
"""

from __future__ import annotations

import io
import math
import re
import struct

from PIL import PngImagePlugin

from checkpoints import allowance

# Longest file; 64 Mpx of four channels take no more at 32 bits each.
MAX_BYTES = 2**30

# Encoders write about ten; libjpeg-turbo and browsers bound them at some hundreds. A
# large picture may have fewer: a scan takes about a nanosecond a pixel, if it is empty.
MAX_SCANS, SCANNED_PIXELS = 100, 1_500_000_000

# Of a JPEG; one holds up to 64 kB, and there are some tens.
MAX_SEGMENTS = 10_000

# Of memory, for each number in a tag of a TIFF: the places of its strips or tiles are
# the most that is in good ones, and each is 250 bytes to Pillow.
_A_NUMBER = 300

# Of a PPM in ASCII: Pillow copies what it has read to take one out, and splits it into
# texts, so it reads little at a time.
MAX_COMMENTS, _ASCII_READ = 10_000, 2**16

# Of a BMP whose runs are encoded, which Pillow unpacks byte by byte in Python.
MAX_RUN_PIXELS, MAX_RUN_BYTES = 8_000_000, 3_000_000

# Times that a file may be read from: so often, and once more for so many bytes. PNG
# encoders write chunks of 8 kB, four reads each.
_READS = 50_000
_BYTES_A_READ = 200

# A text or colour profile of a PNG, and all texts together, inflated: the longest takes
# nine times as much in Pillow while it is read. Its own bounds are 1 and 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 850_000

_JPEG, _BMP = b"\xff\xd8", b"BM"
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_ASCII_PPM = (b"P1", b"P2", b"P3")

# No stuffed byte, no filling and no restart, which have no length either.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA

# Of a JPEG's frame, with its height and width; the others there are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# Compressions of a BMP: runs of 8 and 4 bits.
_RUNS = (1, 2)

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
        self._is_ascii = data.startswith(_ASCII_PPM)
        if data.startswith(_JPEG):
            _bound_jpeg(data)
        elif data.startswith(_TIFF):
            most = allowance.of(len(data)) // _A_NUMBER
            _bound("numbers in a tag", _longest_tag(data), most)
        elif self._is_ascii:
            _bound("comments", data.count(b"#"), MAX_COMMENTS)
        elif is_bmp and int.from_bytes(data[30:34], "little") in _RUNS:
            sides = struct.unpack_from("<2i", data.ljust(26), 18)
            _bound("pixels in runs", abs(math.prod(sides)), MAX_RUN_PIXELS)
            _bound("bytes of runs", len(data), MAX_RUN_BYTES)

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads on.

        Raises:
          PartsError: If that was done too often.
        """
        self._left -= 1
        if self._left < 0:
            raise PartsError("it must have fewer parts for its length")
        if self._is_ascii and size is not None:
            size = min(size, _ASCII_READ)
        return super().read(size)


def _bound(of_what: str, count: int, most: int) -> None:
    if count > most:
        raise PartsError(f"it must have at most {most} {of_what}")


def _bound_jpeg(data: bytes) -> None:
    """Counts segments and scans as libjpeg finds them."""
    at = segments = scans = pixels = 0
    while found := _MARKER.search(data, at):
        at, kind = found.end(), found[1][0]
        if kind == _END_OF_IMAGE and scans:
            return  # Other pictures may follow, or a film.
        segments += 1
        scans += kind == _START_OF_SCAN
        _bound("segments", segments, MAX_SEGMENTS)
        if kind in _FRAMES:
            pixels = math.prod(struct.unpack(">2H", data[at + 3 : at + 7].ljust(4)))
        _bound("scans", scans, min(MAX_SCANS, max(16, SCANNED_PIXELS // (pixels or 1))))
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
