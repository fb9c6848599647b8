"""Writes what was learnt back into a new .tflite, trainable or inference-only.

    M=out/palm_full/model.tflite C=run/best.safetensors
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/trained.tflite
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/app.tflite \\
        --kind=inference
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/small.tflite \\
        --kind=inference --method=reconvert --dtype=int8

--method=patch overwrites the weights' bytes and needs no tensorflow; for an inference
file it fills inference.tflite, which ondevice.build wrote beside the model.
--method=reconvert goes through Keras and the converter, and needs tensorflow. Without
--checkpoint the weights are the model's own. The last line of stdout is a JSON object:
{"output", "kind", "method", "dtype", "bytes", "seconds", "max_difference"}.

Before anything is written the new file is run, and its outputs compared with those of
the model that holds the checkpoint, on noise and on noise in a black frame.
`max_difference` is the largest difference over the largest output; a patched trainable
file must give 0, another one at most 5e-6; for float16 and int8 it is only told.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    import numpy as np

    from checkpoints import manifest as manifests
    from checkpoints import tflite_file
    from ondevice.device import session

    Template = Callable[[], tuple[tflite_file.TfliteFile, manifests.Manifest]]

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_string(
    "model", None, "The trainable .tflite.", flag_values=FLAGS
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "What the model learnt, as ondevice.train wrote it. Default: the model's own.",
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", flag_values=FLAGS)
_KIND = flags.DEFINE_enum(
    "kind",
    "trainable",
    ["trainable", "inference"],
    "trainable: the model's signatures, slots and step included. inference: the "
    "vendor's input and outputs.",
    flag_values=FLAGS,
)
_METHOD = flags.DEFINE_enum(
    "method",
    "patch",
    ["patch", "reconvert"],
    "patch: overwrite the weights. reconvert: through Keras; needs tensorflow.",
    flag_values=FLAGS,
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "float16", "int8"],
    "Of a reconverted inference file's weights; int8 is dynamic range quantisation.",
    flag_values=FLAGS,
)
_TEMPLATE = flags.DEFINE_string(
    "template",
    None,
    "The inference file to fill. Default: inference.tflite beside the model.",
    flag_values=FLAGS,
)

# The largest difference on noise and in a black frame, relative. A patched trainable
# file computes what the model does, to the bit; another graph rounds otherwise.
_SAME, _PARITY = 0.0, 5e-6
_TEMPLATE_NAME = "inference.tflite"


class ExportError(ValueError):
    """Files that do not belong together, or an export that did not prove good."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What to export; see the flags for the meaning of each."""

    model: str | None
    output: str | None
    checkpoint: str | None = None
    kind: str = "trainable"
    method: str = "patch"
    dtype: str = "float32"
    template: str | None = None

    def __post_init__(self) -> None:
        if self.dtype != "float32" and (self.kind, self.method) != (
            "inference",
            "reconvert",
        ):
            raise commands.UsageError(
                f"--dtype={self.dtype} must go with --kind=inference "
                f"--method=reconvert. Received: --kind={self.kind} "
                f"--method={self.method}."
            )
        output = os.path.realpath(self.output or "")
        folder = os.path.dirname(output)
        if not self.output or os.path.isdir(output) or not os.path.isdir(folder):
            raise commands.UsageError(
                "--output must name a file in a directory that exists. Received: "
                f"{self.output!r}."
            )
        for name in ("model", "checkpoint", "template"):
            path = getattr(self, name)
            if path is None and name != "model":
                continue
            if os.path.realpath(commands.existing(path, f"--{name}")) == output:
                raise commands.UsageError(
                    f"--output must be another file than --{name}. "
                    f"Received: {self.output!r} for both."
                )

    @property
    def template_path(self) -> pathlib.Path:
        """Of the inference file to fill."""
        if self.template:
            return pathlib.Path(self.template)
        return pathlib.Path(self.model or "").parent / _TEMPLATE_NAME

    @property
    def bound(self) -> float:
        """Of the difference; none where weights are rounded."""
        if self.dtype != "float32":
            return math.inf
        patched = (self.kind, self.method) == ("trainable", "patch")
        return _SAME if patched else _PARITY


def export(config: ExportConfig) -> dict[str, Any]:
    """Makes the file, proves it, and writes it.

    Args:
      config: What to export.

    Returns:
      The JSON object of the command.

    Raises:
      ExportError: If the files do not belong together, the new file's outputs are not
        the model's, or tensorflow is missing where it is needed; nothing is written.
      ValueError: If a file is malformed, or the checkpoint of another model.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import atomic, tflite_file

    started = time.monotonic()
    model, output = str(config.model), str(config.output)
    if config.method == "reconvert":
        commands.require_tensorflow("--method=reconvert")
    file = tflite_file.read(model)
    manifest = _manifest(file, model, "trainable")
    state = _state(config, file, manifest)
    template = functools.partial(_template, config, manifest)
    if config.method == "reconvert":
        # TensorFlow's start-up notes say nothing about the export.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from ondevice import reconvert

        logging.info("Converting; this takes as long as a build does.")
        data = reconvert.reconvert(
            manifest, state, template, config.kind, config.dtype
        )
    else:
        data = patched(file, manifest, state, template, config.kind)
    difference = _compare(config, file, manifest, state, data)
    atomic.write(output, [data])
    logging.info("%s: %d bytes, %s.", output, len(data), config.kind)
    return {
        "output": output,
        "kind": config.kind,
        "method": config.method,
        "dtype": config.dtype,
        "bytes": len(data),
        "seconds": round(time.monotonic() - started, 3),
        "max_difference": difference,
    }


def patched(
    file: tflite_file.TfliteFile,
    manifest: manifests.Manifest,
    state: Mapping[str, np.ndarray],
    template: Template,
    kind: str,
) -> bytes:
    """Overwrites the weights in the model, or in the template.

    Args:
      file: The trainable file.
      manifest: Its manifest.
      state: Every variable.
      template: Called for the inference file and its manifest.
      kind: `trainable` or `inference`.

    Returns:
      The new file.

    Raises:
      PatchError: If the weights do not fit.
    """
    from checkpoints import manifest as manifests
    from checkpoints import patch

    if kind == "trainable":
        return patch.patch_trainable(file, manifest, state)
    names = [v.name for v in manifest.variables if v.role == manifests.WEIGHT]
    frozen, described = template()
    return patch.patch_inference(frozen, described, {n: state[n] for n in names})


def main(arguments: Sequence[str]) -> dict[str, Any]:
    commands.no_arguments(arguments)
    config = ExportConfig(
        model=_MODEL.value,
        output=_OUTPUT.value,
        checkpoint=_CHECKPOINT.value,
        kind=_KIND.value,
        method=_METHOD.value,
        dtype=_DTYPE.value,
        template=_TEMPLATE.value,
    )
    return export(config)


def _manifest(
    file: tflite_file.TfliteFile, path: str, kind: str
) -> manifests.Manifest:
    """The manifest of a file that must be of one kind."""
    from checkpoints import manifest as manifests

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


def _state(
    config: ExportConfig,
    file: tflite_file.TfliteFile,
    manifest: manifests.Manifest,
) -> dict[str, np.ndarray]:
    """Every variable, from the checkpoint or else from the model."""
    from checkpoints import store, weights

    if config.checkpoint is None:
        return weights.of_trainable(file, manifest)
    if manifest.ops == "select":
        commands.require_tensorflow("A checkpoint of a file built with --ops=select")
        from ondevice import reconvert

        return reconvert.read_select_checkpoint(config.checkpoint, manifest)
    tensors, header = store.load_file(config.checkpoint)
    store.require(
        tensors, header, manifest.variables, manifest.fingerprint, manifest.optimizer
    )
    return tensors


def _template(
    config: ExportConfig, manifest: manifests.Manifest
) -> tuple[tflite_file.TfliteFile, manifests.Manifest]:
    """The inference file that holds the frozen weights, and its manifest."""
    from checkpoints import tflite_file

    path = config.template_path
    if not path.is_file():
        raise commands.UsageError(
            f"{_TEMPLATE_NAME}, which ondevice.build writes, must lie beside the model "
            f"or be given by --template=FILE. Received: no file {str(path)!r}."
        )
    file = tflite_file.read(path)
    found = _manifest(file, str(path), "inference")
    if found.fingerprint != manifest.fingerprint:
        raise ExportError(
            f"The template must be of the model's fingerprint {manifest.fingerprint}. "
            f"Received: {path} of {found.fingerprint}, another build's."
        )
    if not found.constants:
        raise ExportError(
            f"The template must hold its weights in float32. Received: {path}, whose "
            "weights are quantised."
        )
    return file, found


def _compare(
    config: ExportConfig,
    file: tflite_file.TfliteFile,
    manifest: manifests.Manifest,
    state: Mapping[str, np.ndarray],
    data: bytes,
) -> float:
    """Runs the new file beside the model that holds the state.

    Returns:
      The largest difference of an output over that output's largest number.

    Raises:
      ExportError: If it is above the bound, or a variable is not the state's, bit for
        bit.
    """
    from ondevice.device import session

    select = manifest.ops == "select"  # Such a file tells no variable, only saves.
    with session.Session(file.data) as model, session.Session(data) as exported:
        if select and config.checkpoint is not None:
            model.restore(config.checkpoint)
        elif not select:
            model.load_state(state)
        found = _difference(model, exported)
        differing: list[str] = []
        if config.kind == "trainable" and not select:
            got = exported.state()
            differing = [n for n in state if got[n].tobytes() != state[n].tobytes()]
    if differing or not math.isfinite(found) or found > config.bound:
        raise ExportError(
            "The exported file must hold the weights, and give the model's outputs "
            f"within {config.bound} on noise and in a black frame. Received: "
            f"{found:.3g}; variables that differ: {differing[:8]}; nothing was written."
        )
    return found


def _difference(model: session.Session, exported: session.Session) -> float:
    """max|difference| / max|output| of the two, on noise and in a black frame."""
    import numpy as np

    size, (low, high) = model.manifest.input_size, model.manifest.input_range
    noise = np.random.default_rng(0).uniform(low, high, (1, size, size, 3))
    noise = noise.astype(np.float32)
    # In a constant patch the cells of a max-pool tie, which noise never does.
    framed = np.full_like(noise, low)
    inner = slice(size // 8, size - size // 8)
    framed[:, inner, inner] = noise[:, inner, inner]

    def difference(image: np.ndarray) -> float:
        figures = []
        for expected, got in zip(model.infer(image), exported.infer(image)):
            if got.shape != expected.shape:
                return math.nan
            error = np.abs(got.astype(np.float64) - expected).max()
            figures.append(float(error / max(np.abs(expected).max(), 1e-30)))
        return float(np.max(figures))  # np.max hands a NaN on.

    return float(np.max([difference(noise), difference(framed)]))


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _OUTPUT], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
