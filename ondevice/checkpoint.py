"""Shows, converts, compares and averages checkpoints, ours and TensorFlow's.

    M=out/palm_full/model.tflite C=out/run/best.safetensors
    python -m ondevice.checkpoint inspect $C --model=$M
        Its header, and of each tensor the norm, the largest number, the mean, how many
        numbers are not finite, and how far training has moved it from the file's own.
    python -m ondevice.checkpoint convert $C --model=$M --to=tensorflow \\
        --output=out/run/best.ckpt
        For tf.raw_ops.Restore, and for files built with --ops=select.
    python -m ondevice.checkpoint convert phone.ckpt --model=$M --to=ondevice \\
        --missing_slots=zero '--rename=*:0=*' --output=p.safetensors
        What an app saved with tf.raw_ops.Save, as in TensorFlow's overview of training
        on the device: weights alone, under names of its own.
    python -m ondevice.checkpoint diff $C out/run/latest.safetensors
    python -m ondevice.checkpoint average a.safetensors b.safetensors \\
        --weights=0.2,0.8 --output=mean.safetensors
        What several phones learnt. ondevice.export makes a file of it that trains on.

A checkpoint is recognised by its content: ours, or TensorFlow's first format, one file
that tf.raw_ops.Save wrote. TensorFlow is not needed. The last line of stdout is a JSON
object, and what people read goes to stderr:

inspect  {"format", "header", "tensors", "not_finite", "model"}; with --model also what
         differs from the file: fingerprint, optimizer, missing, surplus and misshapen
         tensors, and for each variable the norm of what was learnt
convert  {"output", "from", "to", "tensors", "renamed", "zeroed", "step", "bytes",
         "seconds"}; the checkpoint must hold exactly the model's variables, finite.
         TensorFlow's format has no header: of that the model gives fingerprint,
         optimizer and classes, the variable `step` the step, and the rest is 0
diff     {"equal", "only_first", "only_second", "differing", "common", "header"}; exit
         status 0 where names, dtypes, shapes and bits are equal, 1 where they are not
average  {"output", "inputs", "shares", "tensors", "zeroed", "bytes", "seconds"}; the
         arithmetic mean, in float64; the optimizer's slots and the step are zero, as in
         a new file, since their mean is the state of no run
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from ondevice.device import exports

FLAGS = commands.flag_values()
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "The trainable .tflite (inspect, convert; average, to tell slots from weights).",
    flag_values=FLAGS,
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The file to write (convert, average).", flag_values=FLAGS
)
_TO = flags.DEFINE_enum(
    "to", None, ["tensorflow", "ondevice"], "The format (convert).", flag_values=FLAGS
)
_RENAME = flags.DEFINE_multi_string(
    "rename",
    [],
    "OLD=NEW: the tensor OLD is the model's variable NEW (convert); a * in both stands "
    "for what names have in common. May be repeated.",
    flag_values=FLAGS,
)
_MISSING_SLOTS = flags.DEFINE_enum(
    "missing_slots",
    "refuse",
    ["refuse", "zero"],
    "What to do where the optimizer's slots or the step are missing (convert).",
    flag_values=FLAGS,
)
_WEIGHTS = flags.DEFINE_list(
    "weights",
    None,
    "Share of each checkpoint in the mean, in their order, as 0.2,0.8; their sum is "
    "taken for 1 (average). Default: the same for all.",
    flag_values=FLAGS,
)


def inspect(path: str, model: str | None = None) -> dict[str, Any]:
    """Describes a checkpoint, and compares it with a model where one is given.

    Raises:
      CheckpointError: If the checkpoint is of neither format, or damaged.
      ExportError: If the model is no trainable file of ours.
      OSError: If a file cannot be read.
    """
    from checkpoints import inspection, interchange

    found = interchange.load_file(path)
    if model is None:
        return inspection.describe(found)
    source = _source(model)
    own = inspection.Model(source.manifest, source.own_state())
    return inspection.describe(found, own)


def convert(
    path: str,
    model: str,
    output: str,
    to: str,
    renames: Sequence[tuple[str, str]] = (),
    zero_slots: bool = False,
) -> dict[str, Any]:
    """Writes a checkpoint in a format, by the model's names and with all it has.

    Raises:
      CheckpointError: If the checkpoint is damaged, or naming all that keeps it from
        being the model's; nothing is written.
      ExportError: If the model is no trainable file of ours.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import interchange

    started = time.monotonic()
    found = interchange.load_file(path)
    fitted = interchange.fit(found, _source(model).manifest, renames, zero_slots)
    if fitted.zeroed:
        logging.warning(
            "Set to zero, since %s has none: %s.", path, ", ".join(fitted.zeroed)
        )
    if to == interchange.TENSORFLOW:
        logging.info(
            "TensorFlow's format holds tensors alone: fingerprint, optimizer, epoch, "
            "seed, random state and classes are left out."
        )
    elif found.header is None:
        logging.info("The header is the model's; epoch and seed are 0.")
    size = interchange.save_file(output, to, fitted.tensors, fitted.header)
    logging.info("%s: %d tensors, %d bytes.", output, len(fitted.tensors), size)
    return {
        "output": output,
        "from": found.format,
        "to": to,
        "tensors": len(fitted.tensors),
        "renamed": dict(renames),
        "zeroed": fitted.zeroed,
        "step": fitted.header.step,
        "bytes": size,
        "seconds": round(time.monotonic() - started, 3),
    }


def average(
    paths: Sequence[str], output: str, weights: Sequence[float], model: str | None
) -> dict[str, Any]:
    """Writes the mean of checkpoints of one model.

    Raises:
      CheckpointError: If one is damaged, or they are not of one model; nothing is
        written.
      ExportError: If the model is no trainable file of ours.
      OSError: If a file cannot be read or written.
    """
    from checkpoints import interchange

    started = time.monotonic()
    manifest = _source(model).manifest if model else None
    mean = interchange.average(paths, weights, manifest)
    logging.info(
        "The step and %d slots of the optimizer are zero: their mean would be the "
        "state of no run. Training goes on as from a new start.",
        len([name for name in mean.zeroed if name != "step"]),
    )
    size = interchange.save_file(
        output, interchange.ONDEVICE, mean.tensors, mean.header
    )
    logging.info("%s: the mean of %d, %d bytes.", output, len(paths), size)
    return {
        "output": output,
        "inputs": list(paths),
        "shares": [weight / sum(weights) for weight in weights],
        "tensors": len(mean.tensors),
        "zeroed": mean.zeroed,
        "bytes": size,
        "seconds": round(time.monotonic() - started, 3),
    }


def inspection_table(found: dict[str, Any]) -> str:
    """Returns what `inspect` found, for people."""
    header = found["header"]
    lines = [f"{'format':<15}{found['format']}"]
    for name, value in vars(header).items() if header else ():
        shown = str(value)
        lines.append(f"{name:<15}{shown[:200]}{'...' * (len(shown) > 200)}")
    lines.append(
        f"{'tensor':<48}{'role':<8}{'dtype':<9}{'shape':<18}{'l2':>11}{'largest':>11}"
        f"{'mean':>11}  learnt"
    )
    for tensor in found["tensors"]:
        shape = ",".join(map(str, tensor["shape"]))
        learnt, told = tensor["learnt"], ""
        if learnt:
            told = f"  {learnt['l2']:.4g}"
            # Of what was zero there is no share.
            if math.isfinite(learnt["relative"]):
                told += f" ({learnt['relative']:.2%})"
        if tensor["not_finite"]:
            told += f"  {tensor['not_finite']} not finite"
        lines.append(
            f"{tensor['name']:<48}{tensor['role'] or '-':<8}{tensor['dtype']:<9}"
            f"{f'[{shape}]':<18}{tensor['l2']:>11.4g}{tensor['largest']:>11.4g}"
            f"{tensor['mean']:>11.3g}{told}"
        )
    if found["model"]:
        verdict = found["model"]["faults"] or ["fits the model"]
        lines += [f"{'model':<15}{line}" for line in verdict]
    return "\n".join(lines)


def difference_table(found: dict[str, Any]) -> str:
    """Returns what `diff` found, for people."""
    lines = [f"only in the first: {name}" for name in found["only_first"]]
    lines += [f"only in the second: {name}" for name in found["only_second"]]
    for tensor in found["differing"]:
        kinds = [
            f"{tensor[which]['dtype']} {tensor[which]['shape']}"
            for which in ("first", "second")
        ]
        lines.append(f"{tensor['name']}: {' and '.join(kinds)}")
    apart = [tensor for tensor in found["common"] if not tensor["bits_equal"]]
    for tensor in sorted(apart, key=lambda tensor: -tensor["relative"]):
        lines.append(
            f"{tensor['name']}: {tensor['max_difference']:.4g} at most, "
            f"{tensor['relative']:.2e} of the largest number"
        )
    for name, (first, second) in (found["header"] or {}).items():
        lines.append(f"{name}: {str(first)[:200]} and {str(second)[:200]}")
    equal = len(found["common"]) - len(apart)
    lines.append(f"{equal} tensors are equal, bit for bit")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> commands.Outcome:
    name, *paths = arguments or [""]
    if name not in _COMMANDS:
        raise commands.UsageError(
            f"There must be one of {list(_COMMANDS)} first. "
            f"Received: {list(arguments)}."
        )
    run, least, most, taken = _COMMANDS[name]
    for flag in FLAGS:
        if FLAGS[flag].present and flag not in taken:
            raise commands.UsageError(
                f"--{flag} must not go with {name}. Received: both."
            )
    if not least <= len(paths) <= most:
        number = least if least == most else f"{least} or more"
        raise commands.UsageError(
            f"{name} must have {number} checkpoints. Received: {paths}."
        )
    for path in paths:
        commands.existing(path, "A checkpoint")
    return run(paths)


def _inspect(paths: Sequence[str]) -> commands.Outcome:
    model = commands.optional_path(_MODEL)
    found = inspect(paths[0], str(model) if model else None)
    print(inspection_table(found), file=sys.stderr)
    return commands.Outcome(found)


def _convert(paths: Sequence[str]) -> commands.Outcome:
    model = str(commands.required_path(_MODEL))
    output = commands.new_file(
        _OUTPUT.value, {"--model": model, "the checkpoint that is read": paths[0]}
    )
    if _TO.value is None:
        raise commands.UsageError(
            "--to must say the format, tensorflow or ondevice. Received: none."
        )
    return commands.Outcome(
        convert(
            paths[0],
            model,
            output,
            _TO.value,
            [_rename(text) for text in _RENAME.value],
            _MISSING_SLOTS.value == "zero",
        )
    )


def _diff(paths: Sequence[str]) -> commands.Outcome:
    from checkpoints import inspection, interchange

    found = inspection.compare(*(interchange.load_file(path) for path in paths))
    print(difference_table(found), file=sys.stderr)
    return commands.Outcome(found, holds=found["equal"])


def _average(paths: Sequence[str]) -> commands.Outcome:
    read = {f"checkpoint {place}": path for place, path in enumerate(paths, 1)}
    model = commands.optional_path(_MODEL)
    if model:
        read["--model"] = str(model)
    output = commands.new_file(_OUTPUT.value, read)
    shares = _shares(len(paths))
    return commands.Outcome(
        average(paths, output, shares, str(model) if model else None)
    )


# Name -> what runs it, how many checkpoints it takes, and the flags it takes.
_COMMANDS: dict[
    str,
    tuple[
        Callable[[Sequence[str]], commands.Outcome], float, float, tuple[str, ...]
    ],
] = {
    "inspect": (_inspect, 1, 1, ("model",)),
    "convert": (_convert, 1, 1, ("model", "output", "to", "rename", "missing_slots")),
    "diff": (_diff, 2, 2, ()),
    "average": (_average, 2, math.inf, ("output", "weights", "model")),
}


def _source(model: str) -> exports.Source:
    from ondevice.device import exports

    return exports.Source.read(model, None)


def _rename(text: str) -> tuple[str, str]:
    """Reads one --rename."""
    old, _, new = text.partition("=")
    if not old or not new or "=" in new:
        raise commands.UsageError(
            f"--rename must be OLD=NEW, with one `=`. Received: {text!r}."
        )
    return old, new


def _shares(count: int) -> list[float]:
    """Reads --weights for a number of checkpoints."""
    if _WEIGHTS.value is None:
        return [1.0] * count
    try:
        shares = [float(text) for text in _WEIGHTS.value]
    except ValueError:
        shares = []
    good = all(share >= 0 for share in shares) and 0 < sum(shares) < math.inf
    if len(shares) != count or not good:
        raise commands.UsageError(
            f"--weights must be {count} numbers, as many as there are checkpoints, "
            f"finite, not negative and not all 0. Received: {_WEIGHTS.value}."
        )
    return shares


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
