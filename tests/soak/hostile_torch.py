"""A campaign that gives damaged and foreign files to the reader of PyTorch's."""

from __future__ import annotations

import functools
import io
import random
import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from safetensors import numpy as safetensors

from ondevice.rebuild import specs, state_dicts, topology
from tests.soak import apart, limits, mutations

INPUTS = 50

_SPEC = specs.PRESETS["face_short_range"]


def state_dict(seed: int) -> Mapping[str, int]:
    """Damaged .pth, and .safetensors and .npz in its place; in a process apart."""
    return apart.run(lambda: _state_dicts(seed))


def _state_dicts(seed: int) -> Mapping[str, int]:
    draw, taken = random.Random(f"state dict {seed}"), 0
    torch.set_num_threads(1)
    for _ in range(INPUTS):
        whole = _whole(draw.choice(("pth", "pth", "pth", "safetensors", "npz")))
        data = mutations.damaged(draw, whole)
        if whole[:2] == b"PK" and draw.random() < 0.7:
            data = _with_member(draw, whole)
        read = functools.partial(_read, data)
        taken += limits.held(read, 8 * len(data) + limits.FREE)
    return {"inputs": INPUTS, "taken": taken}


def _read(data: bytes) -> None:
    layers = topology.draw(_SPEC)
    state = state_dicts.load(data, "W.pth")
    state_dicts.classes(_SPEC.name, layers, state)
    state_dicts.to_weights(_SPEC.name, layers, state)


def _with_member(draw: random.Random, whole: bytes) -> bytes:
    """An archive in which one member's bytes are damaged, its checksum right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old:
        names = old.namelist()
        wanted = [name for name in names if name.endswith(".pkl")]
        chosen = wanted[0] if wanted and draw.random() < 0.8 else draw.choice(names)
        way = draw.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))
        with zipfile.ZipFile(stream, "w", way) as new:
            for name in names:
                content = old.read(name)
                if name == chosen:
                    content = mutations.damaged(draw, content)
                new.writestr(name, content)
    return stream.getvalue()


@functools.cache
def _whole(kind: str) -> bytes:
    layers = topology.draw(_SPEC)
    random_ = np.random.default_rng(0)
    weights = {
        name: random_.normal(size=shape).astype(np.float32)
        for name, shape in topology.variables(layers).items()
    }
    if kind == "safetensors":
        return safetensors.save(weights)
    if kind == "npz":
        stream = io.BytesIO()
        np.savez(stream, **weights)
        return stream.getvalue()
    return state_dicts.dump(state_dicts.of_weights(_SPEC.name, layers, weights))
