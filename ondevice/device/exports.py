"""What an export is made of: the trainable file, the weights, the template; patching.

Whatever is wrong with them shows here, before anything is made.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from checkpoints import manifest as manifests
from checkpoints import patch, store, tensorflow_v1, tflite_file, weights

TEMPLATE_NAME = "inference.tflite"


class ExportError(ValueError):
    """Files that do not belong together, or an export that did not prove good."""


class TemplateMissing(ExportError):
    """No inference file to fill, where one is needed."""

    exit_status = 2  # Of a command: a flag is missing.


@dataclasses.dataclass(frozen=True)
class Source:
    """The trainable file, and where its template is looked for.

    Attributes:
      file: The parsed .tflite.
      manifest: Embedded in it.
      template_path: Of the inference file that holds the frozen weights.
    """

    file: tflite_file.TfliteFile
    manifest: manifests.Manifest
    template_path: pathlib.Path

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], template: str | os.PathLike[str] | None
    ) -> Source:
        """Reads a trainable file.

        Args:
          path: Of the file.
          template: Of the inference file; None looks for it beside the model.

        Raises:
          ExportError: If it is no trainable file of ours.
          TfliteError: If it is malformed.
          OSError: If it cannot be read.
        """
        file = tflite_file.read(path)
        found = pathlib.Path(template or pathlib.Path(path).parent / TEMPLATE_NAME)
        return cls(file, _manifest(file, os.fspath(path), "trainable"), found)

    def checkpoint(self, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
        """Every variable, from a checkpoint.

        Args:
          path: Of the checkpoint; under --ops=select of one that the file saved, in
            TensorFlow's first format.

        Raises:
          CheckpointError: If it is damaged, or another model's.
        """
        own, header = self.manifest, None
        if own.ops == "select":
            tensors = tensorflow_v1.load_file(path)
        else:
            tensors, header = store.load_file(path)
        store.require(tensors, header, own.variables, own.fingerprint, own.optimizer)
        return tensors

    def own_state(self) -> dict[str, np.ndarray]:
        """Every variable, as the file initialises it."""
        return weights.of_trainable(self.file, self.manifest)

    def template(self) -> tuple[tflite_file.TfliteFile, manifests.Manifest]:
        """The inference file that holds the frozen weights, and its manifest.

        Raises:
          TemplateMissing: If there is none.
          ExportError: If it is another build's, or its weights are rounded.
        """
        path = self.template_path
        if not path.is_file():
            raise TemplateMissing(
                f"{TEMPLATE_NAME}, which ondevice.build writes, must lie beside the "
                "model or be given by --template=FILE. Received: no file "
                f"{str(path)!r}."
            )
        file = tflite_file.read(path)
        found = _manifest(file, str(path), "inference")
        if found.fingerprint != self.manifest.fingerprint:
            raise ExportError(
                "The template must be of the model's fingerprint "
                f"{self.manifest.fingerprint}. Received: {path} of "
                f"{found.fingerprint}, another build's."
            )
        if not found.constants:
            raise ExportError(
                f"The template must hold its weights in float32. Received: {path}, "
                "whose weights are quantised, or folded into each other; it must be "
                "made anew: by --method=reconvert, of a Keras model by "
                "ondevice.convert.write_inference."
            )
        return file, found

    def patched(self, state: Mapping[str, np.ndarray], kind: str) -> bytes:
        """As `pieces`, in one."""
        return b"".join(self.pieces(state, kind))

    def pieces(self, state: Mapping[str, np.ndarray], kind: str) -> list[memoryview]:
        """Overwrites the weights in the model, or in the template.

        Args:
          state: Every variable.
          kind: `trainable` or `inference`.

        Returns:
          The new file, in pieces that are parts of the old one and of the state.

        Raises:
          ExportError: If there is no such kind; or as `template`.
          PatchError: If the weights do not fit.
        """
        if kind not in manifests.KINDS:
            raise ExportError(
                f"A file must be of one of the kinds {list(manifests.KINDS)}. "
                f"Received: {kind!r}."
            )
        if kind == "trainable":
            return patch.trainable_pieces(self.file, self.manifest, state)
        own = self.manifest.variables
        frozen, described = self.template()
        # What inference does not read is in no inference file: a state of training.
        read = patch.weights_of(described)
        names = [
            v.name
            for v in own
            if v.role == manifests.WEIGHT
            or (v.role in manifests.PARAMETERS and v.name in read)
        ]
        return patch.inference_pieces(frozen, described, {n: state[n] for n in names})


def _manifest(
    file: tflite_file.TfliteFile, path: str, kind: str
) -> manifests.Manifest:
    """The manifest of a file that must be of one kind."""
    try:
        found = manifests.of_file(file)
    except manifests.ManifestError as error:
        raise ExportError(f"{path}: {error}") from error
    if found is None or found.kind != kind:
        is_kind = f"of the kind {found.kind}" if found else "without a manifest"
        raise ExportError(
            f"{path} must be a file of the kind {kind} that ondevice.build wrote. "
            f"Received: one {is_kind}."
        )
    return found
