"""Campaigns that give damaged checkpoints to their readers, of both formats."""

from __future__ import annotations

import atexit
import functools
import json
import pathlib
import random
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

from checkpoints import inspection, interchange, store
from tests import checkpoint_data, sorted_table_test, tensorflow_v1_test
from tests.soak import json_mutations, limits, mutations

INPUTS = 50


def checkpoint(seed: int) -> Mapping[str, int]:
    """Checkpoints of ours: bytes, tables, headers; most with checksums made right."""
    draw = random.Random(f"checkpoint {seed}")
    whole = _whole()
    taken = 0
    for _ in range(INPUTS):
        way = draw.randrange(3)
        if way == 0:
            data = mutations.damaged(draw, whole)
        elif way == 1:
            data = _with_table(draw, whole, "header")
        else:
            data = _with_table(draw, whole, "table")
        taken += _held(data)
    return {"inputs": INPUTS, "taken": taken}


def tensorflow(seed: int) -> Mapping[str, int]:
    """TensorFlow's: bytes, blocks and records, most with checksums made right."""
    draw = random.Random(f"tensorflow {seed}")
    whole, records = tensorflow_v1_test.content(), tensorflow_v1_test.records()
    block = b"".join(tensorflow_v1_test.sorted_table.write(sorted(records.items())))
    taken = 0
    for _ in range(INPUTS):
        way = draw.randrange(4)
        if way == 0:
            data = mutations.damaged(draw, whole)
        elif way == 1:
            data = sorted_table_test.table(mutations.damaged(draw, block[:-200]))
        else:
            key = draw.choice(sorted(records))
            changed = {key: mutations.damaged(draw, records[key])}
            if way == 3:  # Under another name, too.
                changed = {mutations.damaged(draw, key): records[key], **changed}
            data = tensorflow_v1_test.changed(records | changed)
        taken += _held(data)
    return {"inputs": INPUTS, "taken": taken}


def _held(data: bytes) -> bool:
    path = _folder() / "checkpoint"
    path.write_bytes(data)
    allowed = limits.GROWTH * len(data) + limits.FREE
    held = limits.held(functools.partial(_read, path), allowed)
    assert path.read_bytes() == data, "the file was changed"
    assert [one.name for one in _folder().iterdir()] == ["checkpoint"]
    return held


def _read(path: pathlib.Path) -> None:
    """Reads a checkpoint as `checkpoint inspect`, `diff` and `restore` do."""
    found = interchange.load_file(path)
    manifest = checkpoint_data.MANIFEST
    inspection.describe(found, inspection.Model(manifest, checkpoint_data.tensors()))
    inspection.compare(found, found)
    try:
        interchange.fit(found, manifest, zero_slots=True)
        interchange.average([path, path], [1.0, 2.0], None)
    except store.CheckpointError:
        pass


def _with_table(draw: random.Random, whole: bytes, part: str) -> bytes:
    """A checkpoint whose table says something else, under a right checksum."""
    (length,) = struct.unpack_from("<Q", whole)
    table = json.loads(whole[8 : 8 + length])
    texts = table.pop("__metadata__")
    if part == "table":
        changed = _text(draw, table)
        try:
            table = json.loads(changed)
        except (ValueError, RecursionError):
            return _headed(changed, whole[8 + length :])
    else:
        part = draw.choice(("header", "crc32"))
        texts[part] = _text(draw, json.loads(texts[part]))
    if isinstance(table, dict):
        texts["checksum"] = _checksum(texts, table)
        table["__metadata__"] = texts
    return _headed(json.dumps(table), whole[8 + length :])


def _headed(text: str, rest: bytes) -> bytes:
    head = text.encode(errors="surrogatepass")
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + rest


def _checksum(texts: Mapping[str, str], table: Mapping[str, Any]) -> str:
    try:
        described = sorted([n, e["dtype"], e["shape"]] for n, e in table.items())
    except (TypeError, KeyError):
        return "0" * 8
    text = json.dumps(described, separators=(",", ":"))
    sums = "\n".join((texts["header"], texts["crc32"], text))
    return f"{zlib.crc32(sums.encode(errors='replace')):08x}"


def _text(draw: random.Random, value: object) -> str:
    return json_mutations.changed(draw, value).decode(errors="replace")


@functools.cache
def _whole() -> bytes:
    path = _folder() / "whole"
    tensors = checkpoint_data.tensors()
    store.save_file(path, tensors, checkpoint_data.HEADER)
    data = path.read_bytes()
    path.unlink()
    return data


@functools.cache
def _folder() -> pathlib.Path:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)
