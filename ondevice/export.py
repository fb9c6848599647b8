"""Writes what was learnt back into a new .tflite, trainable or inference-only.

    M=out/palm_full/model.tflite C=run/best.safetensors
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/trained.tflite
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/app.tflite \\
        --kind=inference
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/small.tflite \\
        --kind=inference --method=reconvert --dtype=int8 --data=unseen --frame=0.55
        Measured on labelled images, and refused if it lost more than 0.01.
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/integer.tflite \\
        --kind=inference --method=reconvert --dtype=int8 --calibration=photos \\
        --calibration_frame=0.4:0.8 --force
    python -m ondevice.export --model=$M --checkpoint=$C --output=out/quick.tflite \\
        --method=reconvert --target=tflite_runtime
        The same model, its training steps fast in tflite-runtime.

--method=patch overwrites the weights' bytes and needs no tensorflow; for an inference
file it fills inference.tflite, which ondevice.build wrote beside the model.
--method=reconvert goes through Keras and the converter, and needs tensorflow. Without
--checkpoint the weights are the model's own. The last line of stdout is a JSON object:
{"output", "kind", "method", "dtype", "bytes", "seconds", "max_difference", "accuracy"}.

Before anything is written the new file is run, and its outputs compared with those of
the model that holds the checkpoint, on noise and on noise in a black frame.
`max_difference` is the largest difference over the largest output; a patched trainable
file must give 0, another one at most 5e-6; for float16 and int8 it is only told.

What rounding costs is measured with --data: neither class accuracy nor recall may fall
by more than --max_loss. `accuracy` is then {"images", "float32", "exported"}. Without
labels, but with --calibration, it is {"images", "detections", "agreement"}: the share
of the float32 model's detections in those images that the new file gives, which may be
--max_loss below 1. With neither it is null. --force writes the file all the same.

float16 stores weights in half the bytes. int8 stores the kernels in a quarter and, by
--activations, computes in float32 (the default), rounds to int8 for each product as it
runs (dynamic), or computes in int8 throughout (int8, the default with --calibration).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from ondevice import commands

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
    "Of a reconverted inference file's weights.",
    flag_values=FLAGS,
)
_ACTIVATIONS = flags.DEFINE_enum(
    "activations",
    None,
    ["float32", "dynamic", "int8"],
    "What a file with --dtype=int8 computes with. Default: int8 with --calibration, "
    "float32 without.",
    flag_values=FLAGS,
)
_CALIBRATION = flags.DEFINE_string(
    "calibration",
    None,
    "Folder of images, in any folders, that show the ranges of int8 activations.",
    flag_values=FLAGS,
)
_CALIBRATION_FRAME = flags.DEFINE_string(
    "calibration_frame",
    "0.4:1.0",
    "Share of the black frame's side that a calibration image takes, as --frame of "
    "ondevice.train.",
    flag_values=FLAGS,
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images to measure the loss on, as --data of ondevice.evaluate.",
    flag_values=FLAGS,
)
_FRAME = flags.DEFINE_string(
    "frame",
    "1.0",
    "Share of the black frame's side that an image of --data takes, in the middle.",
    flag_values=FLAGS,
)
_LABELS_FROM = flags.DEFINE_string(
    "labels_from",
    None,
    "The .tflite that draws boxes where images of --data have none. Default: --model "
    "without the checkpoint.",
    flag_values=FLAGS,
)
_MAX_LOSS = flags.DEFINE_float(
    "max_loss",
    0.01,
    "By how much class accuracy and recall may fall, of 1.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
_FORCE = flags.DEFINE_bool(
    "force", False, "Write the file whatever it has lost.", flag_values=FLAGS
)
_TARGET = flags.DEFINE_enum(
    "target",
    None,
    ["any", "tflite_runtime"],
    "The runtime that a reconverted trainable file is to be fast in, as --target of "
    "ondevice.build. Default: the model's own.",
    flag_values=FLAGS,
)
_TEMPLATE = flags.DEFINE_string(
    "template",
    None,
    "The inference file to fill. Default: inference.tflite beside the model.",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    from ondevice import exporting

    commands.no_arguments(arguments)
    config = exporting.ExportConfig(
        model=_MODEL.value,
        output=_OUTPUT.value,
        checkpoint=_CHECKPOINT.value,
        kind=_KIND.value,
        method=_METHOD.value,
        dtype=_DTYPE.value,
        template=_TEMPLATE.value,
        activations=_ACTIVATIONS.value,
        calibration=_CALIBRATION.value,
        calibration_frame=commands.frame_range(
            _CALIBRATION_FRAME.value, _CALIBRATION_FRAME.name
        ),
        data=_DATA.value,
        share=commands.frame_share(_FRAME.value),
        labels_from=_LABELS_FROM.value,
        max_loss=_MAX_LOSS.value,
        force=_FORCE.value,
        target=_TARGET.value,
    )
    return exporting.export(config)


if __name__ == "__main__":
    flags.mark_flags_as_required([_MODEL, _OUTPUT], flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
