"""The vendor's file in a proof: what it is a measure of, and the comparison with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import keras
import numpy as np

from checkpoints import tflite_file
from ondevice.rebuild import nodes, recognition
from ondevice.verification import check, compare, inputs, rounded


@dataclasses.dataclass(frozen=True)
class Vendor:
    """The vendor's side of the chain.

    Attributes:
      data: The vendor's file.
      found: What was recognised in it.
      weights: Its weights, one class.
    """

    data: bytes
    found: recognition.Recognised
    weights: Mapping[str, np.ndarray]

    @functools.cached_property
    def file(self) -> tflite_file.TfliteFile:
        """The file, parsed."""
        return tflite_file.parse(self.data)

    @functools.cached_property
    def rounds(self) -> bool:
        """Whether it rounds activations, so that no float network is near it."""
        return nodes.rounds(self.file)


def compared(
    vendor: Vendor,
    model: keras.Model,
    probes: Mapping[str, np.ndarray],
    outputs: Mapping[str, Mapping[str, np.ndarray]],
    arrays: Mapping[str, np.ndarray],
    refused: str,
    runtime: str,
) -> list[check.Check]:
    """The Keras model against the vendor's file, and the new files against either.

    Where the runtime refused the vendor's file, or the file is no measure of float
    networks, the new files are held against the Keras model: not in black frames, where
    their kernels round otherwise.

    Args:
      vendor: The vendor's side.
      model: The Keras model with its weights.
      probes: Kind -> [n, S, S, 3], what all were shown.
      outputs: Kind -> output layer -> [n, ...], of the Keras model.
      arrays: What the runtime kept.
      refused: Why it did not run the vendor's file, or nothing.
      runtime: Its name.
    """
    unframed = {k: v for k, v in outputs.items() if k != inputs.FRAMED}
    if refused:
        note = f"{runtime} does not run the vendor's file: {refused}"
        return compare.fresh(arrays, unframed, "the Keras model", runtime, note)
    vendors = {
        kind: {
            name: arrays[f"vendor/{kind}/{place}"]
            for name, place in vendor.found.outputs.items()
        }
        for kind in probes
    }
    if not vendor.rounds:
        checks = compare.rebuilt(outputs, vendors, runtime)
        return checks + compare.fresh(arrays, vendors, "the vendor's file", runtime)
    count = len(rounded.computed(vendor.file))
    kept = [arrays[f"layers/{i}"] for i in range(count)]
    image = inputs.first(probes)
    unlike = rounded.errors(model, vendor.found, vendor.file, image, kept)
    checks = [compare.layer_by_layer(unlike, outputs, vendors, runtime)]
    note = "the vendor's file rounds its activations"
    return checks + compare.fresh(arrays, unframed, "the Keras model", runtime, note)
