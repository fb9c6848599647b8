"""Makes a trainable .tflite from a frozen detector, and proves it.

The frozen file is recognised by its graph, its Keras model rebuilt, the weights copied
back, the signatures train, infer, evaluate, save and restore traced and converted with
builtin operators only. Then the files that came out are run in every installed runtime
and compared with the vendor's file, with tf.GradientTape and with Keras' optimizers.

Examples:
  python -m ondevice.build
      palm_full with its one class and every weight trainable, in out/palm_full.
  python -m ondevice.build --classes=fist,open,point --output_dir=out/signs
      Three classes of your own; detection works before the first step.
  python -m ondevice.build --source=face_detection_back.tflite --trainable=heads
      Any file whose graph is a known detector's; only the heads train.
  python -m ondevice.build --target=tflite_runtime --output_dir=out/quick
      A file that trains as fast in tflite-runtime 2.14 as that runtime can.

Writes model.tflite (trainable), inference.tflite (frozen), manifest.json, report.json
and report.html. Where a proof does not hold the exit status is 1, and only the report
is left.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from absl import flags, logging

from ondevice import commands

FLAGS = commands.flag_values()

_SOURCE = flags.DEFINE_string(
    "source",
    "palm_full",
    "palm_full, palm_lite, face_short_range, or the path of a frozen .tflite: a "
    "BlazePalm's or a BlazeFace's.",
    flag_values=FLAGS,
)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "Names of the classes, separated by commas. Default: palm, or face.",
    flag_values=FLAGS,
)
_TRAINABLE = flags.DEFINE_string(
    "trainable",
    "all",
    "What trains: all; heads, class and box heads; classifier, class heads; blocks:N, "
    "the last N residual blocks and the heads; bias, every bias and PReLU slope.",
    flag_values=FLAGS,
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer",
    "adam",
    ["adam", "adamw", "momentum", "sgd"],
    "The optimizer.",
    flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "Images in a training step; fixed in the file.",
    lower_bound=1,
    flag_values=FLAGS,
)
_CLIP_NORM = flags.DEFINE_float(
    "clip_norm",
    None,
    "Largest global norm of the gradients, 0 for none. Default: 1, with sgd none.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_SCORE_WEIGHT = flags.DEFINE_float(
    "score_weight",
    1.0,
    "Weight of the palm's focal loss.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_CLASS_WEIGHT = flags.DEFINE_float(
    "class_weight",
    1.0,
    "Weight of the classes' cross-entropy.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_BOX_WEIGHT = flags.DEFINE_float(
    "box_weight", 1.0, "Weight of the boxes' smooth L1; 0 to learn classes alone.",
    lower_bound=0.0,
    flag_values=FLAGS,
)  # fmt: skip
_KEYPOINT_WEIGHT = flags.DEFINE_float(
    "keypoint_weight",
    1.0,
    "Weight of the keypoints' smooth L1.",
    lower_bound=0.0,
    flag_values=FLAGS,
)
_OPS = flags.DEFINE_enum(
    "ops",
    "builtin",
    ["builtin", "select"],
    "builtin: builtin operators only. select: the official recipe, which needs the "
    "Flex delegate and tensorflow < 2.20.",
    flag_values=FLAGS,
)
_TARGET = flags.DEFINE_enum(
    "target",
    "any",
    ["any", "tflite_runtime"],
    "The runtime that model.tflite is to be fast in; it runs in every one. any: "
    "ai-edge-litert and tf.lite. tflite_runtime: tflite-runtime 2.14, where a training "
    "step takes two fifths of the time so; elsewhere it takes a quarter more.",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "Where to write. Default: out/NAME of the source.",
    flag_values=FLAGS,
)
_PHOTOGRAPHS = flags.DEFINE_string(
    "photographs",
    None,
    "A folder of images to prove parity on, beside noise.",
    flag_values=FLAGS,
)

# The first release whose wheel has no Flex delegate.
_WITHOUT_FLEX = (2, 20)


@dataclasses.dataclass(frozen=True)
class BuildConfig:
    """What to build; see the flags for the meaning of each.

    Attributes:
      classes: An empty tuple stands for the vendor's one class.
      clip_norm: None stands for the optimizer's default.
      output_dir: None stands for out/NAME.
      photographs: None stands for the sample that matplotlib carries.
    """

    source: str = "palm_full"
    classes: tuple[str, ...] = ()
    trainable: str = "all"
    optimizer: str = "adam"
    batch_size: int = 8
    clip_norm: float | None = None
    loss_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    ops: str = "builtin"
    target: str = "any"
    output_dir: pathlib.Path | None = None
    photographs: pathlib.Path | None = None

    def __post_init__(self) -> None:
        numbers = (*self.loss_weights, self.clip_norm or 0.0)
        if not all(math.isfinite(n) for n in numbers) or not any(self.loss_weights):
            raise commands.UsageError(
                "The weights of the loss and --clip_norm must be finite, and one "
                f"weight positive. Received: {numbers}."
            )
        if self.ops == "select" and self.target != "any":
            raise commands.UsageError(
                f"--target={self.target} must go with --ops=builtin. "
                f"Received: --ops={self.ops}."
            )


def build(config: BuildConfig) -> dict[str, Any]:
    """Builds, proves and writes.

    Args:
      config: What to build.

    Returns:
      What the command prints; `verified` says whether every proof holds.

    Raises:
      ValueError: If the source is unknown, damaged or no detector of ours, or a flag
        contradicts another; nothing is written then.
    """
    started = time.monotonic()
    commands.require_tensorflow("ondevice.build")
    if config.ops == "select":
        _require_flex()
    # TensorFlow takes seconds to import: only once the flags have proven good. Its own
    # start-up notes say nothing about the build.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from checkpoints import atomic, tflite_file
    from ondevice import sources
    from ondevice.verification import inputs

    source = sources.locate(config.source)
    file = tflite_file.parse(source.data)
    photographs = inputs.photographs(config.photographs)

    from ondevice import fresh
    from ondevice.device import needs
    from ondevice.rebuild import porting, recognition, topology
    from ondevice.verification import prove, vendors
    from signatures import losses, optimizers

    found = recognition.recognise(file)
    clip_norm = config.clip_norm
    if clip_norm is None:
        clip_norm = 0.0 if config.optimizer == "sgd" else 1.0
    recipe = fresh.Recipe(
        spec=found.spec,
        classes=config.classes or (found.spec.subject,),
        trainable=config.trainable,
        settings=optimizers.Settings(config.optimizer, clip_norm),
        losses=losses.LossWeights(*config.loss_weights),
        batch_size=config.batch_size,
        ops=config.ops,
        source={"name": source.name, "sha256": source.sha256},
        target=config.target,
    )
    shapes = topology.variables(recipe.layers)
    trained = recipe.trained  # a wrong --trainable shows here, before the work
    ported = porting.port(file, found)
    weights = porting.with_classes(ported, recipe.layers)
    directory = config.output_dir or pathlib.Path("out") / source.name
    atomic.make_directory(directory)
    logging.info(
        "%s is %s: %d weights ported. Converting.", source.name, found.spec.name,
        len(ported),
    )  # fmt: skip
    files = fresh.make(recipe, weights)
    made = time.monotonic() - started
    logging.info("Converted after %.0f s. Proving.", made)
    proof = prove.prove(
        vendors.Vendor(source.data, found, ported), recipe, weights, files, photographs
    )
    result = {
        "output_dir": str(directory),
        "source": source.name,
        "verified": proof.holds,
        "variables": len(files.manifest.variables),
        "parameters": sum(math.prod(shapes[name]) for name in trained),
        "checks": [check.as_json() for check in proof.checks],
        "seconds": round(time.monotonic() - started, 1),
    }
    described = {
        **result,
        "sha256": source.sha256,
        "spec": found.spec.name,
        "classes": list(recipe.classes),
        "trainable": config.trainable,
        "optimizer": config.optimizer,
        "target": config.target,
        "versions": dict(files.manifest.versions),
        "seconds_to_convert": round(made, 1),
        "memory": dataclasses.asdict(needs.of_file(tflite_file.parse(files.model))),
        "losses": proof.losses,
    }
    _write(directory, files, described, proof)
    return result


def _require_flex() -> None:
    """Refuses a TensorFlow whose interpreter could not run what --ops=select makes."""
    version = importlib.metadata.version("tensorflow")
    if tuple(int(part) for part in version.split(".")[:2]) >= _WITHOUT_FLEX:
        raise commands.UserError(
            "--ops=select must be used with tensorflow before "
            f"{'.'.join(map(str, _WITHOUT_FLEX))}, which alone carries "
            f"Flex. Received: tensorflow {version}; install 'tensorflow<2.20'."
        )


def _write(directory, files, described, proof) -> None:
    """The report always; the files only where every proof holds."""
    from ondevice import report

    pages = {
        "report.json": report.as_json(described),
        "report.html": report.as_html(described, proof.losses, proof.errors),
    }
    encoded = {name: page.encode() for name, page in pages.items()}
    files.write(directory, proof.holds, encoded)


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    config = BuildConfig(
        source=_SOURCE.value,
        classes=commands.class_names(_CLASSES.value),
        trainable=_TRAINABLE.value,
        optimizer=_OPTIMIZER.value,
        batch_size=_BATCH_SIZE.value,
        clip_norm=_CLIP_NORM.value,
        loss_weights=(
            _SCORE_WEIGHT.value,
            _CLASS_WEIGHT.value,
            _BOX_WEIGHT.value,
            _KEYPOINT_WEIGHT.value,
        ),
        ops=_OPS.value,
        target=_TARGET.value,
        output_dir=_path(_OUTPUT_DIR.value),
        photographs=_path(_PHOTOGRAPHS.value),
    )
    result = build(config)
    return commands.Outcome(result, result["verified"])


def _path(value: str | None) -> pathlib.Path | None:
    return pathlib.Path(value) if value else None


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
