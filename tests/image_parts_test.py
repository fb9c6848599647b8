"""Pictures of very many parts: refused before they take time and memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from checkpoints import allowance
from ondevice.device import image_parts, images


def whole(kind, mode="RGB", **options):
    stream = io.BytesIO()
    Image.new(mode, (8, 8)).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def text(number, length):
    """A PNG's text whose characters take four bytes each in Python."""
    inflated = ("\U0001f600" + "a" * length).encode()
    return chunk(b"iTXt", b"k%d\0\1\0\0\0" % number + zlib.compress(inflated, 9))


def in_png(parts):
    data = whole("PNG")
    return data[:33] + parts + data[33:]  # Behind the header.


def in_gif(parts):
    data = whole("GIF", "P")
    at = data.index(b",")
    return data[:at] + parts + data[at:]


def in_jpeg(parts):
    data = whole("JPEG")
    return data[:2] + parts + data[2:]


def bmp(width, height, runs):
    """Of 8 bits, in runs."""
    head = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0
    )
    start = 14 + len(head) + 1024
    place = struct.pack("<IHHI", start + len(runs), 0, 0, start)
    return b"BM" + place + head + bytes(range(256)) * 4 + runs


def large(jpeg, width, height):
    """A JPEG that says that it is."""
    at = jpeg.index(b"\xff\xc2") + 5
    return jpeg[:at] + struct.pack(">2H", height, width) + jpeg[at + 4 :]


def tiff(strips):
    """One row of a pixel a strip, all of them in the same place."""
    tags = [
        (256, 3, 1, 1), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1),
        (262, 3, 1, 1), (273, 4, strips, 200), (277, 3, 1, 1), (278, 3, 1, 1),
        (279, 4, strips, 200),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries
    return head.ljust(200, b"\0") + struct.pack("<I", 1) * strips


def scans(count):
    """A JPEG whose last scan is there so many times."""
    data = whole("JPEG", "L", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * (count - 1) + data[-2:]


MANY = {
    "private chunks": in_png(chunk(b"aaAa", b"") * 300_000),
    "empty data": in_png(chunk(b"IDAT", b"") * 300_000),
    "texts": in_png(b"".join(text(n, 400_000) for n in range(60))),
    "long texts": in_png(text(1, 850_000) + text(2, 1_000_000)),
    "segments": in_jpeg(b"\xff\xec\0\2" * 1_000_000),
    "segments after restarts": in_jpeg(b"\xff\xd0" * 1_000_000),
    "filling": in_jpeg(b"\xff" * 1_000_000),
    "comments": in_gif(b"\x21\xfe\1A\0" * 200_000),
    "junk": in_gif(b"a" * 1_000_000),
    "strips": tiff(1_000_000),
    "scans": scans(200),
    "comment": b"P6\n#" + b"a" * 1_000_000 + b"\n1 1\n255\nabc",
    "ASCII comments": b"P3\n1 1\n255\n" + b"#\n" * 20_000 + b"1 1 1",
    "runs": bmp(60_000_000, 1, bytes([1, 7, 0, 0])),
    "bytes of runs": bmp(2_000, 2_000, bytes([1, 7]) * 2_500_000),
    "scans of large pictures": large(scans(40), 8000, 7900),
}


@pytest.mark.parametrize(
    ("read", "name"),
    [(images.read, name) for name in MANY]
    # What lies behind the header is no matter to the size.
    + [(images.size, name) for name in MANY if name != "empty data"],
)
def test_many_parts_are_refused_in_little_memory(tmp_path, read, name):
    path = tmp_path / "a"
    path.write_bytes(MANY[name])
    Image.init()
    tracemalloc.start()
    try:
        with pytest.raises(images.ImageError, match="at most|fewer|Too much|too large"):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= allowance.of(len(MANY[name]))


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (scans, image_parts.MAX_SCANS - 5),  # A progressive one has six anyway.
        (tiff, 29_000),
        (lambda n: in_jpeg(b"\xff\xec\0\2" * n), image_parts.MAX_SEGMENTS - 20),
        (lambda n: in_png(text(1, n)), 800_000),
    ],
)
def test_as_many_as_there_may_be(tmp_path, data, most):
    path = tmp_path / "a"
    path.write_bytes(data(most))
    images.read(path)
    path.write_bytes(data(most + most // 4))
    with pytest.raises(images.ImageError, match="at most|too large"):
        images.read(path)


def test_scans_are_those_of_the_first_picture(tmp_path):
    path = tmp_path / "a"
    # A preview in EXIF, stuffed bytes, restarts, and a film behind.
    exif = Image.Exif()
    exif[0x9C9C] = b"\xff\xda" * 500
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "JPEG", exif=exif, restart_marker_blocks=1)
    path.write_bytes(stream.getvalue() + b"\xff\xda" * 500)
    assert images.read(path).shape == (64, 64, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_in_a_big_tiff(order):
    mark = {"<": b"II+\0", ">": b"MM\0+"}[order]
    for kind, is_taken in ((16, False), (7, True)):
        tag = struct.pack(f"{order}QHHQQ", 1, 273, kind, 30_001, 0)
        data = mark + struct.pack(f"{order}HHQ", 8, 0, 16) + tag
        if is_taken:
            image_parts.Stream(data)
        else:
            with pytest.raises(image_parts.PartsError, match="numbers in a tag"):
                image_parts.Stream(data)


def test_a_file_may_be_read_from_the_more_often_the_longer_it_is():
    counts = []
    for size in (0, 10**6, 2 * 10**6):
        stream, count = image_parts.Stream(bytes(size)), 0
        with pytest.raises(image_parts.PartsError, match="fewer parts"):
            while True:
                stream.read(1)
                count += 1
        counts.append(count)
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_a_compressed_bmp_is_read_byte_by_byte(tmp_path):
    side, body = 400, b"\1\5" * 400 + b"\0\0"
    (tmp_path / "a").write_bytes(bmp(side, side, body * side + b"\0\1"))
    found = images.read(tmp_path / "a")
    assert found.shape == (side, side, 3) and len(np.unique(found)) > 1


def test_a_file_has_a_length(tmp_path, monkeypatch):
    monkeypatch.setattr(image_parts, "MAX_BYTES", 100)
    (tmp_path / "a").write_bytes(in_png(b""))
    images.read(tmp_path / "a")
    (tmp_path / "a").write_bytes(in_png(bytes(50)))
    with pytest.raises(images.ImageError, match="at most 100 bytes"):
        images.read(tmp_path / "a")


def test_pillow_warns_of_no_tag(tmp_path):
    tags = b"".join(struct.pack("<HHII", n, 2, 10**6, 8) for n in range(1000, 1500))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 500) + tags + bytes(4)
    (tmp_path / "a").write_bytes(whole("JPEG", exif=exif))
    script = (
        "import sys, warnings\n"
        "from ondevice.device import images\n"
        "images.read(sys.argv[1])\n"
        "warnings.warn('ours')"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "UserWarning: ours" in found.stderr and "PIL" not in found.stderr


def test_numbers_in_ascii_take_little_at_a_time(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"P2 1 1 255\n" + b"10 " * 333_333)
    tracemalloc.start()
    try:
        assert images.read(path).tolist() == [[[10, 10, 10]]]
        assert tracemalloc.get_traced_memory()[1] <= allowance.of(10**6) // 2
    finally:
        tracemalloc.stop()
    # Numbers are cut at the ends of what is read.
    pixels = np.arange(300 * 200 * 3).reshape(200, 300, 3) % 256
    numbers = " ".join(map(str, pixels.ravel()))
    path.write_bytes(f"P3 300 200 255\n{numbers}".encode())
    np.testing.assert_array_equal(images.read(path), pixels)


def test_a_tiff_of_a_strip_for_each_row_is_read(tmp_path):
    path = tmp_path / "a"
    picture = Image.new("L", (60, 25_000))
    picture.save(path, "TIFF", compression="tiff_lzw", strip_size=1)
    with Image.open(path) as found:
        assert len(found.tag_v2[273]) == 25_000
    assert images.read(path).shape == (25_000, 60, 3)
