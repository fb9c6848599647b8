"""A file of ours in an interpreter: train, infer, save, restore; numpy only.

    with session.Session("model.tflite") as detector:
        loss = detector.train(image=..., learning_rate=1e-3, ...).loss
        regressors, classificators = detector.infer(image)
        detector.save("latest.safetensors", epoch=3)
        detector.export("trained.tflite")

The interpreter is not thread-safe; the session is: calls wait for each other.
"""

from __future__ import annotations

import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints import atomic, soundness, store, strict_json, tflite_file
from checkpoints import manifest as manifests
from ondevice.device import checks, exports, finite, results, runtimes
from signatures import contract

# What `save` and `restore` exchange beside variables, as the contract names it.
_VERSION, _RESTORED, _PATH = "format_version", "restored", "checkpoint_path"
_NOW = {_VERSION: np.int32(contract.FORMAT_VERSION)}


class SessionError(ValueError):
    """A file that a session cannot serve, or arrays that a signature does not take."""


class Session:
    """One interpreter and its weights.

    Attributes:
      file: The parsed .tflite; its constants stay what they were.
      manifest: Embedded in it.
      runtime: Name of the runtime that runs it.
      threads: Of the runtime, as it was given.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        runtime: str = runtimes.AUTO,
        threads: int | None = None,
    ) -> None:
        """Reads a file, proves that it is what its manifest says, and loads it.

        Args:
          model: Path or content of a .tflite that has a manifest.
          runtime: `auto` or a name of `runtimes.NAMES`.
          threads: At least 1; None leaves it to the runtime.

        Raises:
          TfliteError: If the file is malformed.
          ManifestError: If its manifest is.
          SessionError: If it has none, or its signatures are not the manifest's.
          RuntimeChoiceError: If the runtime is not installed.
          RuntimeFailure: If the runtime does not run the file.
          OSError: If the file cannot be read.
        """
        if isinstance(model, bytes):
            self.file, name = tflite_file.parse(model), "the file"
        else:
            self.file, name = tflite_file.read(model), os.fspath(model)
        self._beside = pathlib.Path("" if isinstance(model, bytes) else model).parent
        embedded = manifests.of_file(self.file)
        if embedded is None:
            raise SessionError(
                f"A file must have an embedded manifest, as ondevice.build writes it. "
                f"Received: {name}, with the metadata {sorted(self.file.metadata)}."
            )
        self.manifest: manifests.Manifest = embedded
        if faults := checks.disagreements(self.file, self.manifest):
            raise SessionError(
                f"A file's signatures must be those of its manifest. Received: "
                f"{strict_json.summary(faults)}; in {name}."
            )
        soundness.require(self.file)
        self.runtime = runtimes.choose(runtime, bool(self.file.flex()))
        self.threads = threads
        self._interpreter = self._created()
        self._runners: dict[str, Any] = {}
        self._lock = threading.RLock()
        self._keeper = finite.Keeper()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the interpreter and its weights; closing twice does nothing."""
        with self._lock:
            self._interpreter = None
            self._runners.clear()

    def train(self, **arrays: Any) -> results.Losses:
        """Takes one optimizer step.

        Args:
          **arrays: By the names, shapes and dtypes of the manifest's `train`; Python
            numbers serve for scalars.

        Raises:
          SessionError: Naming every missing, unknown or misshapen array.
          NotFiniteError: If a number that goes in is not finite, and nothing happened;
            or a loss or the gradient's norm, and the variables are again what they
            were when they were last loaded or saved, or as the file has them.
        """
        return self._step(contract.TRAIN, arrays)

    def evaluate(self, **arrays: Any) -> results.Losses:
        """Returns the losses and updates nothing; arrays as of `train`."""
        return results.losses(self.call(contract.EVALUATE, arrays))

    def train_features(self, **arrays: Any) -> results.Losses:
        """Takes one step of the heads on what `features` gave; arrays as of `train`."""
        return self._step(contract.TRAIN_FEATURES, arrays)

    def train_classes(self, **arrays: Any) -> results.Losses:
        """Takes one step of new class heads alone, on the trunk's features."""
        return self._step(contract.TRAIN_CLASSES, arrays)

    def infer(self, *inputs: np.ndarray) -> Any:
        """Runs the model.

        Args:
          *inputs: In the order of the signature; of a detector the image, [1, S, S, 3]
            float32 in the manifest's input range.

        Returns:
          The outputs in the order of the signature, a single one bare; of a detector
          regressors [1, N, C], pixels of the input, and classificators [1, N, K],
          logits.

        Raises:
          SessionError: Naming every missing, surplus or misshapen array.
        """
        if not any(s.key == contract.INFER for s in self.file.signatures):
            (image,) = inputs
            return self._invoke(image)
        names = [s.name for s in self.manifest.signature(contract.INFER).inputs]
        names += [f"input {place}" for place in range(len(names), len(inputs))]
        outputs = tuple(self.call(contract.INFER, dict(zip(names, inputs))).values())
        return outputs if len(outputs) > 1 else outputs[0]

    def features(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the trunk's features of [1, S, S, 3] float32, by name."""
        return self.call(contract.FEATURES, {"image": image})

    def features_of(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The same of one image [S, S, 3], without the batch's axis."""
        return {n: a[0] for n, a in self.features(image[np.newaxis]).items()}

    def state(self) -> dict[str, np.ndarray]:
        """Returns every variable by name: weights, slots and the step.

        Raises:
          SessionError: If the file saves by itself, under --ops=select.
        """
        if self.manifest.ops == "select":
            raise SessionError(
                "A file built with --ops=select must save its variables by itself. "
                "Received: a request for their values."
            )
        found = self.call(contract.SAVE, _NOW)
        del found[_VERSION]
        return found

    def load_state(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Sets every variable.

        Args:
          tensors: As `state` gives them.

        Raises:
          SessionError: Naming every misfit, before any variable is set; or if the file
            did not take them all.
        """
        self._set(tensors)
        self._keeper.remember(tensors)

    def forget_steps(self) -> None:
        """Sets the optimizer's slots and its step to zero; the weights stay.

        In a new interpreter: the memory of signatures that ran is freed.

        Raises:
          SessionError: As `state`.
        """
        with self._lock:
            tensors = self.state()
            for variable in self.manifest.variables:
                if variable.role not in manifests.PARAMETERS:
                    tensors[variable.name] = np.zeros_like(tensors[variable.name])
            self.close()
            self._interpreter = self._created()
            self.load_state(tensors)

    def save(
        self,
        path: str | os.PathLike[str],
        epoch: int = 0,
        seed: int = 0,
        random_state: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes a checkpoint; at any moment `path` is the old one or the new one.

        Under --ops=select in the file's own format, which holds variables alone.

        Args:
          path: Of the checkpoint.
          epoch: Epochs completed.
          seed: Of the run.
          random_state: State of the run's generators; any JSON.
          extra: Whatever else the run needs to go on; any JSON.

        Raises:
          CheckpointError: If a variable is not finite; the old file stays.
          OSError: If the file cannot be written.
        """
        if self.manifest.ops == "select":
            self.call(contract.SAVE, {_PATH: os.fspath(path)})
            return
        tensors = self.state()
        steps = [v.name for v in self.manifest.variables if v.role == manifests.STEP]
        header = store.Header(
            fingerprint=self.manifest.fingerprint,
            optimizer=self.manifest.optimizer,
            step=int(tensors[steps[0]]) if steps else 0,
            epoch=epoch,
            seed=seed,
            random_state=random_state,
            classes=self.manifest.classes,
            extra=extra or {},
        )
        store.save_file(path, tensors, header)
        self._keeper.keep(tensors)

    def export(
        self,
        path: str | os.PathLike[str],
        kind: str = "trainable",
        template: str | os.PathLike[str] | None = None,
    ) -> None:
        """Writes a .tflite that starts from this session's weights.

        At any moment `path` is the old file or the new one. `ondevice.export` also
        proves the new file before it takes its place.

        Args:
          path: Of the new file.
          kind: `trainable`, with the optimizer's slots and step, or `inference`.
          template: The inference file to fill; None takes the one beside the model.

        Raises:
          ExportError: If there is no such kind, or the template is missing or another
            build's.
          PatchError: If a weight is not finite or does not fit; nothing is written.
          SessionError: As `state`.
          OSError: If a file cannot be read or written.
        """
        beside = pathlib.Path(template or self._beside / exports.TEMPLATE_NAME)
        source = exports.Source(self.file, self.manifest, beside)
        atomic.write(path, source.pieces(self.state(), kind))

    def restore(self, path: str | os.PathLike[str]) -> store.Header | None:
        """Takes up the checkpoint at `path`, whole or not at all.

        Returns:
          Its header; None under --ops=select, where there is none.

        Raises:
          CheckpointError: If the file is damaged or of another model or optimizer; the
            variables stay as they were.
          OSError: If it cannot be read.
        """
        if self.manifest.ops == "select":
            with open(path, "rb"):  # A missing file is the caller's mistake, not ours.
                pass
            self.call(contract.RESTORE, {_PATH: os.fspath(path)})
            return None
        tensors, header = store.load_file(path)
        own = self.manifest
        store.require(tensors, header, own.variables, own.fingerprint, own.optimizer)
        self._set(tensors)
        self._keeper.keep(tensors)
        return header

    def call(self, key: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs one signature.

        Args:
          key: Of the signature.
          arrays: Name -> array, checked against the manifest.

        Returns:
          Name -> array; they belong to the caller.

        Raises:
          ManifestError: If there is no such signature.
          SessionError: Naming every missing, unknown or misshapen array.
          RuntimeFailure: If the runtime fails.
          RuntimeError: If the session is closed.
        """
        signature = self.manifest.signature(key)
        checked = _checked(signature, arrays)
        with self._lock:
            interpreter = self._open()
            try:
                if key not in self._runners:
                    self._runners[key] = interpreter.get_signature_runner(key)
                found = self._runners[key](**checked)
            except (RuntimeError, ValueError) as error:
                raise runtimes.RuntimeFailure(
                    f"The signature {key!r} must run on {self.runtime!r}. Received: "
                    f"{' '.join(str(error).split())}."
                ) from error
            names = [spec.name for spec in signature.outputs]
            return {name: results.own(found[name]) for name in names}

    def _set(self, tensors: Mapping[str, np.ndarray]) -> None:
        """As `load_state`, which also takes note."""
        found = self.call(contract.RESTORE, {**_NOW, **tensors})
        if int(found[_RESTORED]) != len(tensors):
            raise SessionError(
                f"The file must take all {len(tensors)} tensors. Received: "
                f"{int(found[_RESTORED])} taken."
            )

    def _step(self, key: str, arrays: Mapping[str, Any]) -> results.Losses:
        """Takes a step, or none where something is not finite; as `train`."""
        with self._lock:
            return results.losses(self._keeper.step(self, key, arrays))

    def _invoke(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs an inference file, which has the vendor's outputs and no signature."""
        with self._lock:
            interpreter = self._open()
            entry = interpreter.get_input_details()[0]
            shape = tuple(int(side) for side in entry["shape"])
            dtype = np.dtype(entry["dtype"]).name
            spec = manifests.TensorSpec("image", shape, dtype)
            signature = manifests.SignatureSpec(contract.INFER, (spec,), ())
            value = _checked(signature, {"image": image})["image"]
            interpreter.set_tensor(entry["index"], value)
            interpreter.invoke()
            outputs = interpreter.get_output_details()
            found = [interpreter.get_tensor(output["index"]) for output in outputs]
        classes = len(self.manifest.classes)
        # The vendor's order; told apart by their last axis where that can be done.
        if len(found) == 2 and found[0].shape[-1] == classes != found[1].shape[-1]:
            found.reverse()
        if len(found) != 2:
            raise SessionError(
                "An inference file must give regressors and classificators. Received: "
                f"{[output.shape for output in found]}."
            )
        return results.own(found[0]), results.own(found[1])

    def _created(self) -> Any:
        return runtimes.create(self.file.data, self.runtime, self.threads)

    def _open(self) -> Any:
        if self._interpreter is None:
            raise RuntimeError(
                "The session must be open. Received: a call after close()."
            )
        return self._interpreter


def _checked(
    signature: manifests.SignatureSpec, arrays: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    checked, faults = checks.inputs(signature, arrays)
    if faults:
        names = sorted(spec.name for spec in signature.inputs)
        raise SessionError(
            f"The inputs of the signature {signature.key!r} must be {names}, of the "
            f"manifest's shapes and dtypes. Received: {strict_json.summary(faults)}."
        )
    return checked
