"""Campaigns that give damaged pictures and annotations to their readers."""

from __future__ import annotations

import atexit
import functools
import io
import pathlib
import random
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ondevice.device import data, images
from tests import coco_annotations_test
from tests.soak import apart, json_mutations, limits, mutations

INPUTS = 50

CLASSES = ("palm", "fist")
# What Pillow writes of each format, and in which modes.
_FORMATS = {
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("P", "L"),
    "JPEG": ("RGB", "L", "CMYK"),
    "JPEG2000": ("RGB", "RGBA"),
    "PNG": ("RGB", "RGBA", "P", "L", "LA", "1", "I;16"),
    "PPM": ("RGB", "L", "1"),
    "TIFF": ("RGB", "RGBA", "CMYK", "P", "F", "I;16", "1"),
    "WEBP": ("RGB", "RGBA"),
}
# Small parts of a format, and what stands behind such: a segment, a chunk, comments.
_PARTS = {
    "JPEG": (b"\xff\xec\0\2", b"\xff\xdb"),
    "PNG": (b"\0\0\0\0aaAa8\x1c\xc1\xe7", b"\0\0\0\x0dIDAT"),
    "GIF": (b"!\xfe\1A\0", b",\0\0\0\0"),
    "PPM": (b"#\n", b"16 12"),
}
_LONG = 1_000_000
# Beside the bytes: a picture as Pillow's object, as RGB, and as float64 on the way.
_A_PIXEL = 32
_HAND = {
    "label": "fist",
    "bounding_box": [0.3, 0.25, 0.7, 0.75],
    "key_points": [0.4, 0.5] * 7,
}


def picture(seed: int) -> Mapping[str, int]:
    """Damaged pictures of every format, in a process of their own."""
    return apart.run(lambda: _pictures(seed))


def annotation(seed: int) -> Mapping[str, int]:
    """Damaged annotations of yirueilu-b's format, beside whole pictures."""
    hands = [_HAND, {**_HAND, "label": 2}]
    return _documents(f"annotation {seed}", "annotation/1.json", hands)


def coco(seed: int) -> Mapping[str, int]:
    """Damaged COCO files, beside whole pictures."""
    return _documents(f"coco {seed}", "hands.json", coco_annotations_test.COCO)


def _pictures(seed: int) -> Mapping[str, int]:
    draw, taken = random.Random(f"picture {seed}"), 0
    path = _folder() / "picture"
    for _ in range(INPUTS):
        kind = draw.choice(sorted(_FORMATS))
        content = _whole(kind, draw.choice(_FORMATS[kind]))
        if kind in _PARTS and draw.random() < 0.1:
            content = _repeated(draw, content, *_PARTS[kind])
        else:
            content = mutations.damaged(draw, content)
        path.write_bytes(content)
        side = draw.choice((None, 8))
        read = functools.partial(_decoded, path, side)
        # What a header declares is refused past MAX_PIXELS, see images_test.
        try:
            width, height = images.size(path)
        except images.ImageError:
            width = height = 0
        pixels = min(width * height, images.MAX_PIXELS)
        allowed = limits.GROWTH * len(content) + limits.FREE
        taken += limits.held(read, _A_PIXEL * pixels + allowed)
    return {"inputs": INPUTS, "taken": taken}


def _repeated(
    draw: random.Random, content: bytes, part: bytes, behind: bytes
) -> bytes:
    """With a small part, the format's or one of its own, there many times."""
    place = max(0, content.find(behind))
    if draw.random() < 0.2:
        at = draw.randrange(len(content))
        part = content[at : at + draw.choice((1, 2, 8, 32))]
    return content[:place] + part * (_LONG // len(part)) + content[place:]


def _decoded(path: pathlib.Path, side: int | None) -> None:
    pixels = images.read(path, side)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels.size


def _documents(seed: str, name: str, whole: Any) -> Mapping[str, int]:
    """Gives damaged documents to the reader of data sets."""
    draw, taken = random.Random(seed), 0
    root = _data(name)
    before = _contents(root)
    for _ in range(INPUTS):
        text = json_mutations.changed(draw, whole)
        (root / name).write_bytes(text)
        classes = draw.choice((CLASSES, ("fist",), None))
        read = functools.partial(_loaded, root, classes)
        taken += limits.held(read, limits.GROWTH * len(text) + limits.FREE)
        (root / name).unlink()
        assert _contents(root) == before, "something was written beside it"
    return {"inputs": INPUTS, "taken": taken}


def _loaded(root: pathlib.Path, classes: tuple[str, ...] | None) -> None:
    found = data.load(root, classes)
    for sample in found.samples:
        inside = sample.path.resolve()
        assert inside.is_relative_to(root.resolve()), f"{sample.path} lies outside"
        for label in sample.labels or ():
            assert np.isfinite(label.box).all() and np.isfinite(label.keypoints).all()
            assert 0 <= label.class_index < len(found.classes)


def _contents(root: pathlib.Path) -> list[str]:
    return sorted(str(path) for path in root.parent.rglob("*"))


@functools.cache
def _data(name: str) -> pathlib.Path:
    """A folder of pictures, another beside it that no annotation may reach."""
    root = _folder() / name.partition("/")[0] / "data"
    folder = root / "image" if "/" in name else root
    folder.mkdir(parents=True)
    (root / name).parent.mkdir(exist_ok=True)
    (root.parent / "images").mkdir()
    names = ("1",) if "/" in name else ("p", "q", "r")
    for number, stem in enumerate(names):
        shade = Image.new("RGB", (200, 100), (80 * number, 0, 0))
        shade.save(folder / f"{stem}.jpg")
        shade.save(root.parent / "images" / "x.jpg")
    return root


@functools.cache
def _whole(kind: str, mode: str) -> bytes:
    random_ = np.random.default_rng(len(kind) + len(mode))
    pixels = random_.integers(0, 256, (12, 16, 3), np.uint8)
    frame = Image.fromarray(pixels)
    frame = frame.convert("I").convert(mode) if mode == "I;16" else frame.convert(mode)
    stream = io.BytesIO()
    options: dict[str, Any] = {}
    if kind in ("GIF", "TIFF") and mode != "F":
        options = {"save_all": True, "append_images": [frame.transpose(1), frame]}
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif, "progressive": mode == "L"}
    frame.save(stream, kind, **options)
    return stream.getvalue()


@functools.cache
def _folder() -> pathlib.Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)
