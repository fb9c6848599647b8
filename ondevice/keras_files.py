"""What the files of a Keras model say of themselves, and which weights they hold."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

from checkpoints import folds, store
from checkpoints import manifest as manifests
from ondevice import rewrite
from signatures import contract, keras_model


def described(
    module: keras_model.KerasTrainable, versions: Mapping[str, str]
) -> manifests.Manifest:
    """The manifest of the trainable file, but for what the file itself tells.

    Args:
      module: The model.
      versions: Of the packages that make the file.
    """
    frozen = {n: np.asarray(w).tobytes() for n, w in module.frozen.items()}
    return manifests.Manifest(
        kind="trainable",
        source={"name": module.plan.name, "sha256": ""},
        spec=manifests.KERAS,
        classes=(),
        input_size=0,
        input_range=(0.0, 1.0),
        anchors={},
        keypoints=0,
        trainable="all",
        optimizer=dataclasses.asdict(module.settings),
        losses={},
        batch_size=module.plan.batch,
        ops=module.ops,
        signatures=module.signature_specs,
        variables=(),
        constants=(),
        fingerprint=manifests.fingerprint(manifests.KERAS, (), module.specs, frozen),
        census={},
        versions=dict(versions),
        target=module.target,
    )


def learnt(
    module: keras_model.KerasTrainable, checkpoint: str | os.PathLike[str] | None
) -> dict[str, np.ndarray]:
    """Every weight, those of a checkpoint in place of the module's.

    Raises:
      CheckpointError: If it is damaged, or another model's.
      OSError: If it cannot be read.
    """
    weights = module.parameters()
    if checkpoint is None:
        return weights
    tensors, header = store.load_file(checkpoint)
    own = described(module, {})
    store.require(tensors, header, module.specs, own.fingerprint, own.optimizer)
    return {name: tensors.get(name, value) for name, value in weights.items()}


def of_inference(
    data: bytes,
    module: keras_model.KerasTrainable,
    manifest: manifests.Manifest,
    weights: Mapping[str, np.ndarray],
) -> bytes:
    """Puts manifest and names into an inference file.

    Args:
      data: From the converter.
      module: The model.
      manifest: Of the inference file.
      weights: Every float32 weight; those that do not train, but are part of a fold of
        others that do, go into the file's metadata.

    Returns:
      The file, its signature called `infer`.
    """
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.signatureDefs[0].signatureKey = contract.INFER.encode()
    changing = {spec.name for spec in module.specs}
    needed: set[str] = set()
    for expression in manifest.folds.values():
        names = set(folds.weights(expression))
        if names & changing:
            needed |= names - changing
    for name in sorted(needed):
        content = np.ascontiguousarray(weights[name], "<f4").tobytes()
        rewrite.add_metadata(model, folds.METADATA_PREFIX + name, content)
    content = manifests.to_json(manifest).encode()
    rewrite.add_metadata(model, manifests.METADATA_NAME, content)
    return rewrite.pack(model)
