"""A small model's variables, manifest and checkpoint, for tests of checkpoints."""

from __future__ import annotations

import numpy as np

from checkpoints import manifest, store

OPTIMIZER = {"name": "adam", "clip_norm": 1.0}
_SHAPES = {"stem/kernel": (2, 3), "stem/bias": (3,), "head/kernel": (3, 1)}


def _variables() -> tuple[manifest.VariableSpec, ...]:
    found = []
    for name, shape in _SHAPES.items():
        found.append(manifest.VariableSpec(name, shape, "float32", manifest.WEIGHT))
        found += [
            manifest.VariableSpec(f"{name}/{slot}", shape, "float32", manifest.SLOT)
            for slot in ("m", "v")
        ]
    return (*found, manifest.VariableSpec("step", (), "int32", manifest.STEP))


MANIFEST = manifest.Manifest(
    kind="trainable",
    source={"name": "vendor", "sha256": "0" * 64},
    spec="tiny",
    classes=("a", "b"),
    input_size=32,
    input_range=(0.0, 1.0),
    anchors={},
    keypoints=7,
    trainable="all",
    optimizer=OPTIMIZER,
    losses={},
    batch_size=2,
    ops="builtin",
    signatures=(),
    variables=_variables(),
    constants=(),
    fingerprint="ab" * 32,
    census={},
    versions={},
)
HEADER = store.Header(
    fingerprint=MANIFEST.fingerprint, optimizer=OPTIMIZER, step=3, classes=("a", "b")
)


def tensors() -> dict[str, np.ndarray]:
    """Every variable, with numbers of its own."""
    random = np.random.default_rng(0)
    found = {
        v.name: random.normal(size=v.shape).astype(np.float32)
        for v in MANIFEST.variables
    }
    return found | {"step": np.array(3, np.int32)}


def weights() -> dict[str, np.ndarray]:
    """The weights alone, as TensorFlow's overview saves them."""
    return {name: array for name, array in tensors().items() if name in _SHAPES}
