"""Measures what detecting costs: contenders in turn, in one run, as paired ratios.

Sections, chosen by --sections (without it all but slowdown and build):
  classes   infer, decoding and suppression with 1, 7, 20 and 80 classes
  steps     training steps, with --peers beside others' who train the same network, and
            over the arithmetic: what the multiply-adds of a step must take
  infer     inference, infer and features beside the vendor's file
  storage   save, restore and export by a patch, flushed to disk
  startup   --help of each command, and the imports behind a session
  slowdown  slow ways of running a detector with 1 and 7 classes, each beside the right
            way: what may make seven classes 3.5 times as slow as one, and what does not
  build     from the vendor's file to both of ours, and through Keras again

Examples:
  python -m ondevice.benchmark
      palm_full with each number of classes, in every installed runtime; makes the files
      once (five minutes), in out/benchmark.
  python -m ondevice.benchmark --models=out/palm_full,out/digits --threads=1,2
      Files that ondevice.build wrote: one class, and however many; no tensorflow.
  python -m ondevice.benchmark --sections=slowdown --runtimes=tflite_runtime
  python -m ondevice.benchmark --sections=steps --source=palm_lite --batches=1,8,16
      --trainable=all,heads,classifier,bias --classes=1,7 --peers --threads=1,2
      Every step beside the Flex build, Keras, PyTorch and ONNX Runtime.
  python -m ondevice.benchmark --json > before.json
  python -m ondevice.benchmark --baseline=before.json
      What has become slower since: ratios, so that it may be another machine.

A table goes to stderr, unless --json says that nobody reads it; the last line of stdout
is one JSON object, {"rows", "ratios", "missing"}: a row for each contender and stage
with its median, quartiles and processor time in milliseconds, and in steps and infer
the peak memory of its process in bytes; ratios by name, of which some have a bound:
with one thread it is held against the ratio of processor times, which other programs
disturb less; and who could not be measured, with the reason. With --baseline "worse"
lists the ratios that grew by more than a tenth. Where a bound is missed, or a ratio is
worse, the exit status is 1. On a busy machine take more --rounds.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ondevice import commands

if TYPE_CHECKING:  # --help imports absl alone.
    from ondevice.measuring import sections

FLAGS = commands.flag_values()
_SECTIONS_FLAG = flags.DEFINE_list(
    "sections",
    "classes,steps,infer,storage,startup",
    "What to measure: classes, steps, infer, storage, startup, slowdown, build.",
    flag_values=FLAGS,
)
_SOURCE = flags.DEFINE_string(
    "source",
    "palm_full",
    "palm_full, palm_lite, or the path of a frozen .tflite to make the files from.",
    flag_values=FLAGS,
)
_CLASSES = flags.DEFINE_list(
    "classes",
    None,
    "Numbers of classes, 1 among them. Default: 1,7,20,80; 1,7 for slowdown; 1 for "
    "what trains.",
    flag_values=FLAGS,
)
_MODELS = flags.DEFINE_list(
    "models",
    None,
    "Folders that ondevice.build wrote, instead of --source, --classes, --trainable "
    "and --batches; for the section classes one of a single class. For steps one may "
    "be built with --ops=select: it is the peer of the one that is otherwise the same.",
    flag_values=FLAGS,
)
_TRAINABLE = flags.DEFINE_list(
    "trainable",
    "all",
    "What trains, in steps, infer and storage: of all, heads, classifier, bias, "
    "blocks:N.",
    flag_values=FLAGS,
)
_BATCHES = flags.DEFINE_list(
    "batches", "8", "Images in a training step, in steps.", flag_values=FLAGS
)
_PEERS = flags.DEFINE_bool(
    "peers",
    False,
    "Whether others train the same network beside ours: the overview's Flex build, "
    "Keras, a compiled tf.function, PyTorch, ONNX Runtime.",
    flag_values=FLAGS,
)
_PEER_PYTHONS = flags.DEFINE_list(
    "peer_pythons",
    None,
    "onnxruntime=PYTHON, pytorch=PYTHON, ...: interpreters of the environments that "
    "peers are installed in, where that is not this one.",
    flag_values=FLAGS,
)
_BASELINE = flags.DEFINE_string(
    "baseline",
    None,
    "What an earlier run printed: a ratio that grew by more than a tenth is listed.",
    flag_values=FLAGS,
)
_JSON = flags.DEFINE_bool(
    "json", False, "Only the JSON object, no table.", flag_values=FLAGS
)
_RUNTIMES = flags.DEFINE_list(
    "runtimes",
    None,
    "Of ai_edge_litert, tflite_runtime, tensorflow. Default: all that are installed.",
    flag_values=FLAGS,
)
_THREADS = flags.DEFINE_list(
    "threads", "1", "Numbers of threads of the runtimes.", flag_values=FLAGS
)
_ROUNDS = flags.DEFINE_integer(
    "rounds",
    96,
    "Calls of each contender; an eighth of them in steps, startup and slowdown, one in "
    "thirty in build.",
    lower_bound=1,
    flag_values=FLAGS,
)
_PHOTOGRAPHS = flags.DEFINE_string(
    "photographs",
    None,
    "A folder of images to detect in. Default: the one that matplotlib carries.",
    flag_values=FLAGS,
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    "out/benchmark",
    "Where files that were made are kept for the next run.",
    flag_values=FLAGS,
)


def benchmark(config: sections.BenchmarkConfig) -> dict[str, Any]:
    """Measures each section.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do.
      OSError: If a file cannot be read or written.
    """
    # TensorFlow's start-up notes say nothing about what is measured.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from ondevice.measuring import contest, sections, summary

    earlier = None if config.baseline is None else summary.read(config.baseline)
    found = contest.Found()
    for section in dict.fromkeys(config.sections):
        found.add(sections.SECTIONS[section](config))
    result = dataclasses.asdict(found)
    if earlier is not None:
        result["worse"] = summary.worse(found.ratios, earlier)
    return result


def holds(result: Mapping[str, Any]) -> bool:
    """Whether no ratio misses its bound, and none is worse than it was."""
    missed = [r for r in result["ratios"].values() if not r.get("holds", True)]
    return not missed and not result.get("worse")


def _numbers(flag: flags.FlagHolder) -> tuple[int, ...] | None:
    """A flag's list of whole numbers from 1 on, each once."""
    if flag.value is None:
        return None
    if not flag.value or not all(text.strip().isdecimal() for text in flag.value):
        raise commands.UsageError(
            f"--{flag.name} must be whole numbers separated by commas. "
            f"Received: {','.join(flag.value)!r}."
        )
    found = tuple(dict.fromkeys(int(text) for text in flag.value))
    if min(found) < 1:
        raise commands.UsageError(
            f"--{flag.name} must be 1 or more. Received: {','.join(flag.value)!r}."
        )
    return found


def _pythons() -> dict[str, str]:
    """Module of a peer -> interpreter, from --peer_pythons."""
    from ondevice.measuring import steps

    known = sorted({module for module, _ in steps.PEERS.values()})
    found = {}
    for text in _PEER_PYTHONS.value or ():
        name, _, path = text.partition("=")
        if name not in known or not pathlib.Path(path).is_file():
            raise commands.UsageError(
                f"--peer_pythons must be of {', '.join(known)}, each with =PYTHON, a "
                f"file. Received: {text!r}."
            )
        found[name] = path
    return found


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    models = [
        pathlib.Path(commands.existing(path, "A folder of --models"))
        for path in _MODELS.value or ()
    ]
    from ondevice.measuring import sections, summary

    found = benchmark(
        sections.BenchmarkConfig(
            sections=tuple(_SECTIONS_FLAG.value),
            source=_SOURCE.value,
            classes=_numbers(_CLASSES),
            models=tuple(models) or None,
            runtimes=tuple(_RUNTIMES.value or ()) or None,
            threads=_numbers(_THREADS) or (1,),
            rounds=_ROUNDS.value,
            photographs=commands.output_path(_PHOTOGRAPHS),
            output_dir=pathlib.Path(_OUTPUT_DIR.value),
            trainable=tuple(_TRAINABLE.value),
            batches=_numbers(_BATCHES) or (8,),
            peers=_PEERS.value,
            peer_pythons=_pythons(),
            baseline=commands.optional_path(_BASELINE),
        )
    )
    if not _JSON.value:
        print(summary.table(found), file=sys.stderr)
    return commands.Outcome(found, holds(found))


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
