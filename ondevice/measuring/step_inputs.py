"""What a training step is given while it is measured: noise in the right shapes."""

from __future__ import annotations

import numpy as np

from checkpoints import manifest as manifests

# So small that weights stay where they are however often a step is taken.
LEARNING_RATE = 1e-7

# Anchors that hold a class: a hand or two an image.
_POSITIVE = 0.005


def of_signature(
    manifest: manifests.Manifest, key: str, seed: int = 0
) -> dict[str, np.ndarray]:
    """Inputs of a signature.

    Args:
      manifest: Of the file.
      key: Of a signature that takes an image or features, with targets or without.
      seed: Of the noise.

    Returns:
      Name -> float32 array: images in the manifest's input range, few anchors with a
      class, boxes within the input, every weight 1.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in manifest.signature(key).inputs:
        noise = random.random(spec.shape, np.float32)
        if spec.name == "image":
            low, high = manifest.input_range
            noise = low + (high - low) * noise
        elif spec.name == "class_targets":
            noise = (noise < _POSITIVE).astype(np.float32)
        elif spec.name == "box_targets":
            noise = manifest.input_size * (noise - np.float32(0.5))
        elif spec.name.endswith("_weights"):
            noise = np.ones(spec.shape, np.float32)
        elif spec.name == "learning_rate":
            noise = np.array(LEARNING_RATE, np.float32)
        arrays[spec.name] = np.asarray(noise, np.float32)
    return arrays
