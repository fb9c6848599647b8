"""Exporting through Keras: weights of an interpreter -> a fresh file from TensorFlow.

The way that the project's guide recommends: the tensors go from the interpreter's
checkpoint into the TensorFlow model, and that is converted anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice import fresh
from ondevice import precision as precisions
from ondevice.rebuild import topology

# Gives the inference file that holds frozen weights, and its manifest.
Template = Callable[[], tuple[tflite_file.TfliteFile, manifests.Manifest]]


class ReconversionError(ValueError):
    """Weights that do not make the model that they are said to be of."""


def reconvert(
    manifest: manifests.Manifest,
    state: Mapping[str, np.ndarray],
    template: Template,
    kind: str,
    precision: precisions.Precision = precisions.FLOAT32,
    target: str | None = None,
) -> bytes:
    """Converts a model anew.

    Args:
      manifest: Of the trainable file.
      state: Every variable of it.
      template: Called only where a weight of the network is not among the variables.
      kind: `trainable` or `inference`.
      precision: Of an inference file's weights and activations.
      target: The runtimes that a trainable file is to be fast in; None: the old one's.

    Returns:
      The file, its manifest embedded; the fingerprint is the old one.

    Raises:
      RecipeError: If the manifest names what is not known.
      WeightsError: If the template has not every weight that is missing.
      ReconversionError: If the new file is another model than the old one.
      ConversionError: If the converter refuses.
    """
    recipe = fresh.recipe_of(manifest)
    recipe = dataclasses.replace(recipe, target=target or recipe.target)
    shapes = topology.variables(recipe.layers)
    frozen = {name: shape for name, shape in shapes.items() if name not in state}
    values = {name: state[name] for name in shapes if name in state}
    if frozen:
        values |= weights.of_inference(*template(), frozen)
    ordered = {name: np.ascontiguousarray(values[name]) for name in shapes}
    if kind == "inference":
        return fresh.make_inference(recipe, manifest, ordered, precision)[0]
    data, made = fresh.make_trainable(recipe, ordered, state)
    if made.fingerprint != manifest.fingerprint:
        raise ReconversionError(
            "The reconverted file must be of the model's fingerprint "
            f"{manifest.fingerprint}. Received: {made.fingerprint}; the frozen weights "
            "or the variables differ."
        )
    return data
