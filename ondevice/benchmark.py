"""Measures what detecting costs: contenders in turn, in one run, as paired ratios.

Sections, chosen by --sections:
  classes   infer, decoding and suppression with 1, 7, 20 and 80 classes
  slowdown  slow ways of running a detector with 1 and 7 classes, each beside the right
            way: what may make seven classes 3.5 times as slow as one, and what does not

Examples:
  python -m ondevice.benchmark
      palm_full with each number of classes, in every installed runtime; makes the files
      once (five minutes), in out/benchmark.
  python -m ondevice.benchmark --models=out/palm_full,out/digits --threads=1,2
      Files that ondevice.build wrote: one class, and however many; no tensorflow.
  python -m ondevice.benchmark --sections=slowdown --runtimes=tflite_runtime

A table goes to stderr; the last line of stdout is one JSON object, {"rows", "ratios"}:
a row for each contender and stage with its median, quartiles and processor time in
milliseconds, and ratios by name, of which some have a bound: with one thread it is held
against the ratio of processor times, which other programs disturb less. Where one
misses it the exit status is 1. On a busy machine take more --rounds.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from ondevice import commands

FLAGS = commands.flag_values()
_SECTIONS_FLAG = flags.DEFINE_list(
    "sections", "classes", "What to measure: classes, slowdown.", flag_values=FLAGS
)
_SOURCE = flags.DEFINE_string(
    "source",
    "palm_full",
    "As of ondevice.build: what to make the files from.",
    flag_values=FLAGS,
)
_CLASSES = flags.DEFINE_list(
    "classes",
    None,
    "Numbers of classes, 1 among them. Default: 1,7,20,80, and 1,7 for slowdown.",
    flag_values=FLAGS,
)
_MODELS = flags.DEFINE_list(
    "models",
    None,
    "Folders that ondevice.build wrote, one with a single class, for the section "
    "classes, instead of --source and --classes.",
    flag_values=FLAGS,
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
    "Calls of each contender; an eighth of them in slowdown.",
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

# Ways that take seconds a call need fewer rounds, and show more than percents.
_SLOW_SHARE = 8


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; see the flags.

    Attributes:
      classes: None stands for the section's default.
      models: None: the files are made.
      runtimes: None stands for all that are installed.
      photographs: None stands for the sample that matplotlib carries.
    """

    sections: tuple[str, ...] = ("classes",)
    source: str = "palm_full"
    classes: tuple[int, ...] | None = None
    models: tuple[pathlib.Path, ...] | None = None
    runtimes: tuple[str, ...] | None = None
    threads: tuple[int, ...] = (1,)
    rounds: int = 96
    photographs: pathlib.Path | None = None
    output_dir: pathlib.Path = pathlib.Path("out/benchmark")

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections if name not in _SECTIONS]
        if unknown or not self.sections:
            raise commands.UsageError(
                f"--sections must be of {', '.join(_SECTIONS)}. "
                f"Received: {','.join(self.sections)!r}."
            )
        if self.classes is not None and 1 not in self.classes:
            raise commands.UsageError(
                "--classes must have 1 among them, which the others are held against. "
                f"Received: {self.classes}."
            )
        if self.models and (self.classes or "slowdown" in self.sections):
            raise commands.UsageError(
                "--models must go without --classes and --sections=slowdown, which "
                "make files of their own. Received: both."
            )
        if self.photographs is not None and not self.photographs.is_dir():
            raise commands.UsageError(
                f"--photographs must be a folder. Received: {self.photographs}."
            )


# Rows, and ratios by name.
Found = tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measures each section.

    Returns:
      The JSON object of the command.

    Raises:
      ValueError: If something that was given does not do.
      OSError: If a file cannot be read or written.
    """
    # TensorFlow's start-up notes say nothing about what is measured.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    rows: list[dict[str, Any]] = []
    ratios: dict[str, dict[str, Any]] = {}
    for section in dict.fromkeys(config.sections):
        more, named = _SECTIONS[section](config)
        rows += more
        ratios |= named
    return {"rows": rows, "ratios": ratios}


def holds(ratios: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether no ratio misses its bound."""
    return all(ratio.get("holds", True) for ratio in ratios.values())


def table(found: Mapping[str, Any]) -> str:
    """Returns what `benchmark` found, for people."""
    lines = [
        f"{'median ms':>10}{'quartiles':>20}{'cpu ms':>10}  "
        "what, contender, runtime, threads, classes"
    ]
    for row in found["rows"]:
        low, high = row["spread_ms"]
        said = ", ".join(
            str(row[key])
            for key in ("what", "contender", "runtime", "threads", "classes")
        )
        spread = f"{low:.2f} - {high:.2f}"
        lines.append(
            f"{row['median_ms']:>10.2f}{spread:>20}{row['cpu_ms']:>10.2f}  {said}"
        )
    lines.append(f"{'ratio':>10}{'quartiles':>20}{'cpu':>10}  bound, what")
    for name, ratio in found["ratios"].items():
        low, high = ratio["quartiles"]
        bound = f"<= {ratio['bound']:g}" if "bound" in ratio else "-"
        missed = "" if ratio.get("holds", True) else "  MISSED"
        spread = f"{low:.3f} - {high:.3f}"
        lines.append(
            f"{ratio['median']:>10.3f}{spread:>20}{ratio['cpu_median']:>10.3f}  "
            f"{bound}, {name}{missed}"
        )
    return "\n".join(lines)


def _classes(config: BenchmarkConfig) -> Found:
    from ondevice.measuring import classes

    return classes.measure(
        _folders(config),
        _runtimes(config),
        config.threads,
        _photographs(config),
        config.rounds,
        commands.progress,
    )


def _slowdown(config: BenchmarkConfig) -> Found:
    commands.require_tensorflow("--sections=slowdown")
    from ondevice import vendor
    from ondevice.detection import anchors
    from ondevice.measuring import classes, slow_graphs, slowdown

    ported = vendor.read(config.source)
    spec = ported.found.spec
    counts = config.classes or slowdown.CLASSES
    files = {
        graph: slow_graphs.frozen(ported, graph)
        for graph in commands.progress(slowdown.graphs(counts), "slow graphs")
    }
    return slowdown.measure(
        files,
        anchors.PRESETS[spec.name],
        _runtimes(config),
        config.threads,
        classes.pictures(_photographs(config), spec.input_size, spec.input_range),
        max(1, config.rounds // _SLOW_SHARE),
        commands.progress,
    )


_SECTIONS: dict[str, Callable[[BenchmarkConfig], Found]] = {
    "classes": _classes,
    "slowdown": _slowdown,
}


def _folders(config: BenchmarkConfig) -> dict[int, pathlib.Path]:
    """Number of classes -> folder of files, given or made."""
    from ondevice.measuring import classes

    if config.models is not None:
        given = {classes.count(folder): folder for folder in config.models}
        if len(given) != len(config.models) or 1 not in given:
            raise commands.UsageError(
                "--models must be folders with files of different numbers of classes, "
                f"one of a single class. Received: {sorted(given)} classes in "
                f"{', '.join(map(str, config.models))}."
            )
        return given
    commands.require_tensorflow("ondevice.benchmark without --models")
    from ondevice import vendor
    from ondevice.measuring import class_files

    ported = vendor.read(config.source)
    counts = config.classes or (1, *classes.BOUNDS)
    return {
        count: class_files.make(ported, count, config.output_dir) for count in counts
    }


def _runtimes(config: BenchmarkConfig) -> tuple[str, ...]:
    from ondevice.device import runtimes

    named = dict.fromkeys(config.runtimes or runtimes.installed())
    return tuple(runtimes.choose(name) for name in named)


def _photographs(config: BenchmarkConfig) -> list[pathlib.Path]:
    from ondevice.verification import inputs

    return inputs.photographs(config.photographs)


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


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    models = [
        pathlib.Path(commands.existing(path, "A folder of --models"))
        for path in _MODELS.value or ()
    ]
    found = benchmark(
        BenchmarkConfig(
            sections=tuple(_SECTIONS_FLAG.value),
            source=_SOURCE.value,
            classes=_numbers(_CLASSES),
            models=tuple(models) or None,
            runtimes=tuple(_RUNTIMES.value or ()) or None,
            threads=_numbers(_THREADS) or (1,),
            rounds=_ROUNDS.value,
            photographs=commands.output_path(_PHOTOGRAPHS),
            output_dir=pathlib.Path(_OUTPUT_DIR.value),
        )
    )
    print(table(found), file=sys.stderr)
    return commands.Outcome(found, holds(found["ratios"]))


if __name__ == "__main__":
    commands.run(main, __doc__, FLAGS)
