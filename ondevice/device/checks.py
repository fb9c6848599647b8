"""Proofs that arrays fit a signature, and that a file fits its manifest.

An interpreter that is handed something else fails late, or resizes its tensors; so both
are proven before it sees anything.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import strict_json, tflite_file
from signatures import contract


def inputs(
    signature: manifests.SignatureSpec, arrays: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Checks arrays by name against a signature.

    Args:
      signature: What must be given.
      arrays: What is given: arrays of exactly that shape and dtype, Python numbers for
        scalars, paths for strings.

    Returns:
      (name -> array as the interpreter takes it, faults); use the first only where
      there are no faults.
    """
    specs = {spec.name: spec for spec in signature.inputs}
    faults = [f"{name!r} is missing" for name in specs if name not in arrays]
    faults += [f"{name!r} is not among them" for name in arrays if name not in specs]
    checked = {}
    for name in [name for name in specs if name in arrays]:
        spec, value = specs[name], arrays[name]
        if spec.dtype == "string":
            checked[name] = np.array(os.fsencode(value), np.bytes_)
            continue
        if isinstance(value, (int, float)) and not spec.shape:
            value = np.asarray(value, spec.dtype)
        array = np.asarray(value)
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            faults.append(
                f"{name!r} is {array.dtype} {array.shape}, not {spec.dtype} "
                f"{spec.shape}"
            )
        # Not np.ascontiguousarray, which makes a scalar a vector.
        checked[name] = np.asarray(array, order="C")
    return checked, sorted(faults)


def disagreements(
    file: tflite_file.TfliteFile, manifest: manifests.Manifest
) -> list[str]:
    """Returns where a file's signatures are not what its manifest says.

    Of a hostile number the first thousand, and of long names the beginnings: one
    signature's key is that of thousands of inputs.
    """
    found = _disagreements(file, manifest)
    return list(itertools.islice(found, strict_json.MOST_FAULTS))


def _disagreements(
    file: tflite_file.TfliteFile, manifest: manifests.Manifest
) -> Iterator[str]:
    there = {signature.key: signature for signature in file.signatures}
    for spec in manifest.signatures:
        key = repr(spec.key[:80])
        if spec.key not in there:
            yield f"no signature {key}"
            continue
        signature = there[spec.key]
        tensors = file.subgraphs[signature.subgraph].tensors
        for what, specs, named in (
            ("input", spec.inputs, signature.inputs),
            ("output", spec.outputs, signature.outputs),
        ):
            for name in sorted(set(named) ^ {s.name for s in specs}):
                yield f"{what} {name[:80]!r} of {key} in one of the two"
            for each in specs:
                if each.name in named:
                    for fault in _tensor(tensors[named[each.name]], each):
                        yield f"{what} {each.name[:80]!r} of {key}: {fault}"
        if spec.key == contract.SAVE and manifest.ops == "builtin":
            state = {variable.name for variable in manifest.variables}
            saved = {output.name for output in spec.outputs}
            for name in sorted(saved ^ state ^ {"format_version"}):
                yield f"variable {name[:80]!r} in one of manifest and {key}"


def _tensor(tensor: tflite_file.Tensor, spec: manifests.TensorSpec) -> list[str]:
    if spec.dtype == "string" or (
        tensor.shape == spec.shape and tensor.dtype == spec.dtype.upper()
    ):
        return []
    return [
        f"{tensor.dtype} {tensor.shape} in the file, {spec.dtype} {spec.shape} in the "
        "manifest"
    ]
