"""Takes a detector to PyTorch, and what was fine-tuned there back to .tflite.

    python -m ondevice.pytorch export --source=palm_full --output=palm_full.pth
        The vendor's weights as a state dict, to the bit. In PyTorch:

        from ondevice import torch_models
        model = torch_models.load("palm_full", "palm_full.pth")
        model.classifier_8 = torch.nn.Conv2d(128, 2 * 7, 1)  # anchors * classes
        model.classifier_16 = torch.nn.Conv2d(256, 6 * 7, 1)
        ...  # train; model(images [B, 3, S, S]) gives regressors and classificators
        torch.save(model.state_dict(), "signs.pth")

    python -m ondevice.pytorch import --source=palm_full --state_dict=signs.pth \\
        --classes=0,1,2,3,4,5,6 --output_dir=out/signs
        model.tflite, trainable, and inference.tflite, frozen, with those weights: no
        transposes, the operators are the vendor's.

The tensors are called as in hollance/BlazeFace-PyTorch (blazeface.pth and
blazefaceback.pth) and vidursatija/BlazePalm (palmdetector.pth) where the detector is
one of theirs, so that their state dicts are read and their modules take ours; otherwise
<layer>.weight and <layer>.bias. A class head of A anchors has A * K outputs, the K
classes of an anchor side by side. Every tensor must be there, and no other. With one
class the network is the vendor's.

Both need the extra `torch`, import needs `build` too. Before anything is written the
files are run in every installed runtime, and compared with the PyTorch module on noise
and photographs. The last line of stdout is a JSON object:

export  {"output", "source", "spec", "tensors", "parameters", "bytes", "verified",
        "checks", "seconds"}
import  {"output_dir", "source", "spec", "classes", "variables", "parameters",
        "verified", "checks", "seconds"}

where checks are as those of ondevice.build. Where one does not hold the exit status is
1, and nothing is written.
"""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from ondevice.verification import check

FLAGS = commands.flag_values()
_SOURCE = flags.DEFINE_string(
    "source",
    "palm_full",
    "As of ondevice.build: a name, or the path of a frozen .tflite.",
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The .pth file to write (export).", flag_values=FLAGS
)
_STATE_DICT = flags.DEFINE_string(
    "state_dict", None, "The .pth file to read (import).", flag_values=FLAGS
)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "Names of the classes, separated by commas, in the order of the class heads' "
    "outputs (import). Default: one, palm or face.",
    flag_values=FLAGS,
)
_TRAINABLE = flags.DEFINE_string(
    "trainable",
    "all",
    "What trains in model.tflite, as of ondevice.build (import).",
    flag_values=FLAGS,
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer",
    "adam",
    ["adam", "adamw", "momentum", "sgd"],
    "The optimizer in model.tflite (import).",
    flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    8,
    "Images in a training step (import).",
    lower_bound=1,
    flag_values=FLAGS,
)
_TARGET = flags.DEFINE_enum(
    "target",
    "any",
    ["any", "tflite_runtime"],
    "The runtime that model.tflite is to be fast in, as of ondevice.build (import).",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where to write (import).", flag_values=FLAGS
)
_PHOTOGRAPHS = flags.DEFINE_string(
    "photographs",
    None,
    "A folder of images to compare on, beside noise.",
    flag_values=FLAGS,
)


def export(
    source: str, output: str, photographs: pathlib.Path | None = None
) -> dict[str, Any]:
    """Writes a detector's weights as a state dict.

    Args:
      source: A name, or the path of a frozen .tflite.
      output: The file to write.
      photographs: A folder to compare on, or None for the sample of matplotlib.

    Returns:
      What the command prints; `verified` says whether every check holds, and the file
      is written only then.

    Raises:
      ValueError: If the source is unknown, damaged or no detector of ours.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import atomic
    from ondevice import vendor
    from ondevice.rebuild import nodes, state_dicts, torch_network
    from ondevice.verification import check, inputs, torch_parity

    started = time.monotonic()
    ported = vendor.read(source)
    spec, layers = ported.found.spec, ported.found.layers
    shown = inputs.probe_images(spec, inputs.photographs(photographs))
    content = state_dicts.dump(
        state_dicts.of_weights(spec.name, layers, ported.weights)
    )
    # What a reader of the file gets, not what was meant to go in.
    state = state_dicts.load(content, output)
    again = state_dicts.to_weights(spec.name, layers, state)
    differing = [
        name
        for name, value in ported.weights.items()
        if again[name].tobytes() != value.tobytes()
    ]
    model = torch_network.build(spec)
    model.load_state_dict(state)
    checks = [
        check.Check(
            "export",
            f"weights of {len(again)} that differ in a bit, written and read back",
            "",
            float(len(differing)),
            check.NONE,
            ", ".join(differing[:3]),
        ),
    ]
    if nodes.rounds(ported.file):
        # Its activations are rounded, and no network of floats is near it. The Keras
        # model is compared with it layer by layer, by ondevice.build.
        commands.require_tensorflow("The export of a file that rounds its activations")
        checks += torch_parity.against_keras(model, ported.weights, shown)
    else:
        places = ported.found.outputs
        vendors = torch_parity.Compared(
            ported.source.data, str(places["regressors"]), str(places["scores"])
        )
        checks += torch_parity.parity(model, {"vendor.tflite": vendors}, shown)
    holds = all(one.holds for one in checks)
    if holds:
        atomic.write(output, [content])
        logging.info("%s: %d tensors, %d bytes.", output, len(state), len(content))
    return {
        "output": output,
        "source": ported.source.name,
        "spec": spec.name,
        "tensors": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "bytes": len(content),
        **_judged(checks, started),
    }


def bring_back(
    source: str,
    state_dict: str,
    output_dir: pathlib.Path,
    classes: tuple[str, ...] = (),
    trainable: str = "all",
    optimizer: str = "adam",
    batch_size: int = 8,
    photographs: pathlib.Path | None = None,
    target: str = "any",
) -> dict[str, Any]:
    """Makes the files of a state dict: a trainable .tflite and a frozen one.

    Args:
      source: The vendor's file that the state dict began as.
      state_dict: The .pth file.
      output_dir: Where to write; made where it is not there, before the work.
      classes: Names; none stands for the vendor's one class.
      trainable: As of `ondevice.build`.
      optimizer: Its name.
      batch_size: Images in a training step.
      photographs: A folder to compare on, or None for the sample of matplotlib.
      target: As of `ondevice.build`.

    Returns:
      What the command prints; `verified` says whether every check holds, and the files
      are written only then.

    Raises:
      ValueError: If the source is unknown, damaged or no detector of ours, the state
        dict not exactly the network's, or the choice of what trains is none.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import atomic, tflite_file
    from checkpoints import manifest as manifests
    from ondevice import fresh, vendor
    from ondevice.rebuild import state_dicts, topology, torch_network
    from ondevice.verification import inputs, torch_parity
    from signatures import losses, optimizers

    started = time.monotonic()
    ported = vendor.read(source)
    spec = ported.found.spec
    shown = inputs.probe_images(spec, inputs.photographs(photographs))
    recipe = fresh.Recipe(
        spec=spec,
        classes=classes or (spec.subject,),
        trainable=trainable,
        settings=optimizers.Settings(optimizer, 0.0 if optimizer == "sgd" else 1.0),
        losses=losses.LossWeights(),
        batch_size=batch_size,
        ops="builtin",
        source={"name": ported.source.name, "sha256": ported.source.sha256},
        heads=manifests.PLAIN,
        target=target,
    )
    trained = recipe.trained  # a wrong --trainable shows here, before the work
    content = pathlib.Path(state_dict).read_bytes()
    state = state_dicts.load(content, state_dict)
    found = state_dicts.classes(spec.name, ported.found.layers, state)
    if found not in (None, len(recipe.classes)):
        raise commands.UsageError(
            f"--classes must name the {found} classes of the state dict's class heads. "
            f"Received: {len(recipe.classes)}, {','.join(recipe.classes)}."
        )
    weights = state_dicts.to_weights(spec.name, recipe.layers, state)
    model = torch_network.build(spec, recipe.layers)
    model.load_state_dict(state)
    atomic.make_directory(output_dir)
    logging.info("%s is %s: converting.", state_dict, spec.name)
    files = fresh.make(recipe, weights)
    checks = torch_parity.parity(
        model,
        {
            "model.tflite": torch_parity.Compared(
                files.model, "regressors", "classificators"
            ),
            "inference.tflite": torch_parity.Compared(files.inference, "0", "1"),
        },
        shown,
    )
    frozen = tflite_file.parse(files.inference)
    checks += torch_parity.census("inference.tflite", frozen, ported.file)
    judged = _judged(checks, started)
    files.write(output_dir, judged["verified"])
    shapes = topology.variables(recipe.layers)
    return {
        "output_dir": str(output_dir),
        "source": ported.source.name,
        "spec": spec.name,
        "classes": list(recipe.classes),
        "variables": len(files.manifest.variables),
        "parameters": sum(math.prod(shapes[name]) for name in trained),
        **judged,
    }


def _judged(checks: Sequence[check.Check], started: float) -> dict[str, Any]:
    """What both commands end with."""
    return {
        "verified": all(one.holds for one in checks),
        "checks": [one.as_json() for one in checks],
        "seconds": round(time.monotonic() - started, 1),
    }


def main(arguments: Sequence[str]) -> commands.Outcome:
    name, *others = arguments or [""]
    if name not in _COMMANDS or others:
        raise commands.UsageError(
            f"There must be one of {list(_COMMANDS)}, and flags. "
            f"Received: {list(arguments)}."
        )
    run, taken = _COMMANDS[name]
    for flag in FLAGS:
        if FLAGS[flag].present and flag not in ("source", "photographs", *taken):
            raise commands.UsageError(
                f"--{flag} must not go with {name}. Received: both."
            )
    result = run()
    return commands.Outcome(result, result["verified"])


def _export() -> dict[str, Any]:
    commands.require_torch("ondevice.pytorch")
    path = pathlib.Path(_SOURCE.value)
    inputs = {"--source": str(path)} if path.is_file() else {}
    output = commands.new_file(_OUTPUT.value, inputs)
    return export(_SOURCE.value, output, commands.optional_path(_PHOTOGRAPHS))


def _import() -> dict[str, Any]:
    commands.require_torch("ondevice.pytorch")
    commands.require_tensorflow("ondevice.pytorch import")
    # TensorFlow's own start-up notes say nothing about the files.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    state_dict = commands.required_path(_STATE_DICT)
    output_dir = commands.output_path(_OUTPUT_DIR)
    if output_dir is None:
        raise commands.UsageError("--output_dir must say where to write.")
    return bring_back(
        _SOURCE.value,
        str(state_dict),
        output_dir,
        commands.class_names(_CLASSES.value),
        _TRAINABLE.value,
        _OPTIMIZER.value,
        _BATCH_SIZE.value,
        commands.optional_path(_PHOTOGRAPHS),
        _TARGET.value,
    )


# Name -> what runs it, and the flags that it alone takes.
_COMMANDS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "export": (_export, ("output",)),
    "import": (
        _import,
        (
            "state_dict",
            "classes",
            "trainable",
            "optimizer",
            "batch_size",
            "target",
            "output_dir",
        ),
    ),
}


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
