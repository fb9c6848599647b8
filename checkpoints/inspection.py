"""What is in a checkpoint, what differs from a model, and what from another one.

Everything is returned as JSON has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import figures, interchange, store, strict_json
from checkpoints import manifest as manifests


@dataclasses.dataclass(frozen=True)
class Model:
    """The file that a checkpoint may be of.

    Attributes:
      manifest: Of the trainable file.
      state: Name -> every variable as the file initialises it.
    """

    manifest: manifests.Manifest
    state: Mapping[str, np.ndarray]


def describe(
    checkpoint: interchange.Checkpoint, model: Model | None = None
) -> dict[str, Any]:
    """Describes a checkpoint.

    Args:
      checkpoint: Of either format.
      model: To compare it with.

    Returns:
      {"format", "header", "tensors": [{"name", "dtype", "shape", "role", "l2",
      "largest", "mean", "not_finite", "learnt": {"l2", "relative"}}], "not_finite",
      "model": {"fits", "faults", "fingerprint", "optimizer", "missing", "surplus",
      "misshapen"}}. `learnt` is the difference from the file's own variable, and
      `relative` that over its norm, null where it is zero. `fingerprint` and
      `optimizer` say whether they are the model's, null where there is no header.
      Without a model `role`, `learnt` and `model` are null.
    """
    roles = {v.name: v.role for v in model.manifest.variables} if model else {}
    tensors = []
    for name, array in sorted(checkpoint.tensors.items()):
        own = model.state.get(name) if model else None
        found = dataclasses.asdict(figures.of(array))
        learnt = None
        if own is not None and own.shape == array.shape:
            learnt = _learnt(array, own)
        tensors.append(
            {
                "name": name,
                **_kind(array),
                "role": roles.get(name),
                **found,
                "learnt": learnt,
            }
        )
    return {
        "format": checkpoint.format,
        "header": checkpoint.header,
        "tensors": tensors,
        "not_finite": sum(tensor["not_finite"] for tensor in tensors),
        "model": _fit(checkpoint, model.manifest) if model else None,
    }


def compare(
    one: interchange.Checkpoint, two: interchange.Checkpoint
) -> dict[str, Any]:
    """Compares two checkpoints, of either format.

    Returns:
      {"equal", "only_first", "only_second", "differing": [{"name", "first": {"dtype",
      "shape"}, "second"}], "common": [{"name", "max_difference", "relative",
      "bits_equal"}], "header": {field: [first, second]}}. `equal` is about tensors:
      the same names, dtypes, shapes and bits. `relative` is the largest difference over
      the largest magnitude in both; both are null where a number is not finite and
      differs. `header` has the fields that differ, null where one has none.
    """
    a, b = one.tensors, two.tensors
    differing, common = [], []
    for name in sorted(set(a) & set(b)):
        kinds = _kind(a[name]), _kind(b[name])
        if kinds[0] != kinds[1]:
            differing.append({"name": name, "first": kinds[0], "second": kinds[1]})
            continue
        found = figures.between(a[name], b[name])
        common.append(
            {
                "name": name,
                "max_difference": found.largest,
                "relative": found.relative,
                "bits_equal": found.bits_equal,
            }
        )
    apart = {
        "only_first": sorted(set(a) - set(b)),
        "only_second": sorted(set(b) - set(a)),
    }
    equal = all(tensor["bits_equal"] for tensor in common)
    return {
        "equal": equal and not differing and not any(apart.values()),
        **apart,
        "differing": differing,
        "common": common,
        "header": _headers(one.header, two.header),
    }


def _kind(array: np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}


def _learnt(array: np.ndarray, own: np.ndarray) -> dict[str, float]:
    norm, start = figures.between(array, own).l2, figures.of(own).l2
    return {"l2": norm, "relative": norm / start if start else math.nan}


def _fit(
    checkpoint: interchange.Checkpoint, manifest: manifests.Manifest
) -> dict[str, Any]:
    tensors, header = checkpoint.tensors, checkpoint.header
    faults = store.misfits(
        tensors, header, manifest.variables, manifest.fingerprint, manifest.optimizer
    )
    specs = {v.name: v for v in manifest.variables}
    misshapen = []
    for name in sorted(set(specs) & set(tensors)):
        there = _kind(tensors[name])
        wanted = {"dtype": specs[name].dtype, "shape": list(specs[name].shape)}
        if there != wanted:
            misshapen.append({"name": name, "checkpoint": there, "model": wanted})
    optimizers = header and [
        strict_json.dump(one) for one in (header.optimizer, manifest.optimizer)
    ]
    return {
        "fits": not faults,
        "faults": faults,
        "fingerprint": header and header.fingerprint == manifest.fingerprint,
        "optimizer": optimizers and optimizers[0] == optimizers[1],
        "missing": sorted(set(specs) - set(tensors)),
        "surplus": sorted(set(tensors) - set(specs)),
        "misshapen": misshapen,
    }


def _headers(
    one: store.Header | None, two: store.Header | None
) -> dict[str, list[Any]] | None:
    if one is None or two is None:
        return None
    names = [field.name for field in dataclasses.fields(store.Header)]
    pairs = {name: [getattr(one, name), getattr(two, name)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
