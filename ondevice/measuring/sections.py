"""What a benchmark is to measure, and the sections that do."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence

from ondevice import commands
from ondevice.measuring import contest

# What takes seconds a call needs fewer rounds, and shows more than percents.
_SLOW_SHARE, _BUILD_SHARE = 8, 30


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; see the flags.

    Attributes:
      classes: None stands for the section's default.
      models: None: the files are made.
      runtimes: None stands for all that are installed.
      photographs: None stands for the sample that matplotlib carries.
      peers: Whether others train beside ours.
      peer_pythons: Module of a peer -> interpreter of its environment.
      baseline: What an earlier run printed.
    """

    sections: tuple[str, ...] = ("classes", "steps", "infer", "storage", "startup")
    source: str = "palm_full"
    classes: tuple[int, ...] | None = None
    models: tuple[pathlib.Path, ...] | None = None
    runtimes: tuple[str, ...] | None = None
    threads: tuple[int, ...] = (1,)
    rounds: int = 96
    photographs: pathlib.Path | None = None
    output_dir: pathlib.Path = pathlib.Path("out/benchmark")
    trainable: tuple[str, ...] = ("all",)
    batches: tuple[int, ...] = (8,)
    peers: bool = False
    peer_pythons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    baseline: pathlib.Path | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections if name not in SECTIONS]
        if unknown or not self.sections:
            raise commands.UsageError(
                f"--sections must be of {', '.join(SECTIONS)}. "
                f"Received: {','.join(self.sections)!r}."
            )
        if self.classes is not None and 1 not in self.classes:
            raise commands.UsageError(
                "--classes must have 1 among them, which the others are held against. "
                f"Received: {self.classes}."
            )
        own = {"slowdown", "build"}.intersection(self.sections)
        if self.models and (self.classes or own):
            raise commands.UsageError(
                "--models must go without --classes and without the sections slowdown "
                "and build, which make files of their own. Received: both."
            )
        if self.photographs is not None:
            _photographs(self)  # a folder without any is refused before the work


def _classes(config: BenchmarkConfig) -> contest.Found:
    from ondevice.measuring import classes

    return contest.Found(
        *classes.measure(
            _folders(config),
            _runtimes(config),
            config.threads,
            _photographs(config),
            config.rounds,
            commands.progress,
        )
    )


def _slowdown(config: BenchmarkConfig) -> contest.Found:
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
    return contest.Found(
        *slowdown.measure(
            files,
            anchors.PRESETS[spec.name],
            _runtimes(config),
            config.threads,
            classes.pictures(_photographs(config), spec.input_size, spec.input_range),
            max(1, config.rounds // _SLOW_SHARE),
            commands.progress,
        )
    )


def _steps(config: BenchmarkConfig) -> contest.Found:
    from ondevice.measuring import classes, steps

    kinds = _builtin_kinds(config) + [("select", "any")] * config.peers
    folders = _case_folders(config, config.batches, kinds)
    return steps.measure(
        [folder / classes.MODEL for folder in folders],
        tuple(steps.PEERS) if config.peers else (),
        config.peer_pythons,
        _runtimes(config),
        config.threads,
        max(1, config.rounds // _SLOW_SHARE),
        commands.progress,
    )


def _infer(config: BenchmarkConfig) -> contest.Found:
    from ondevice.measuring import inferring

    return inferring.measure(
        _plain_folders(config, _builtin_kinds(config)),
        config.source,
        _runtimes(config),
        config.threads,
        config.rounds,
        commands.progress,
    )


def _storage(config: BenchmarkConfig) -> contest.Found:
    from ondevice.measuring import classes, storage

    return storage.measure(
        [folder / classes.MODEL for folder in _plain_folders(config)],
        _runtimes(config),
        config.rounds,
        commands.progress,
    )


def _startup(config: BenchmarkConfig) -> contest.Found:
    from ondevice.measuring import startup

    rounds = max(1, config.rounds // _SLOW_SHARE)
    return startup.measure(_runtimes(config), rounds, commands.progress)


def _build(config: BenchmarkConfig) -> contest.Found:
    commands.require_tensorflow("--sections=build")
    from ondevice.measuring import making

    rounds = max(1, config.rounds // _BUILD_SHARE)
    return making.measure(
        config.source, (config.classes or (1,))[-1], rounds, commands.progress
    )


SECTIONS: dict[str, Callable[[BenchmarkConfig], contest.Found]] = {
    "classes": _classes,
    "steps": _steps,
    "infer": _infer,
    "storage": _storage,
    "startup": _startup,
    "slowdown": _slowdown,
    "build": _build,
}


def _case_folders(
    config: BenchmarkConfig,
    batches: Sequence[int] = (8,),
    kinds: Sequence[tuple[str, str]] = (("builtin", "any"),),
) -> list[pathlib.Path]:
    """Folders of trainable files, given or made, each of (ops, target) in `kinds`."""
    if config.models is not None:
        return list(config.models)
    commands.require_tensorflow("ondevice.benchmark without --models")
    from ondevice import vendor
    from ondevice.measuring import class_files

    ported = vendor.read(config.source)
    counts = config.classes or (1,)
    cases = [
        class_files.Case(count, trained, batch, ops, target)
        for count, trained, batch, (ops, target) in itertools.product(
            counts, config.trainable, batches, kinds
        )
    ]
    return [class_files.make_case(ported, c, config.output_dir) for c in cases]


def _builtin_kinds(config: BenchmarkConfig) -> list[tuple[str, str]]:
    """Files for any runtime, and for each one that files can be made for."""
    from checkpoints import manifest

    made_for = [r for r in _runtimes(config) if r in manifest.TARGETS]
    return [("builtin", target) for target in (manifest.ANY, *made_for)]


def _plain_folders(
    config: BenchmarkConfig, kinds: Sequence[tuple[str, str]] = (("builtin", "any"),)
) -> list[pathlib.Path]:
    """Those of `_case_folders` that every runtime runs."""
    from ondevice.measuring import classes

    folders = _case_folders(config, kinds=kinds)
    return [f for f in folders if classes.manifest_of(f).ops == "builtin"]


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
