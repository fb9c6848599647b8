"""Training steps: ours in every runtime, and peers that train the same network."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from checkpoints import manifest as manifests
from checkpoints import tflite_file
from ondevice.device import runtimes as known
from ondevice.measuring import activations, bounds, contest, timing, work, worker
from ondevice.measuring.peers import product
from signatures import contract

SECTION = "steps"

FUNCTION = "compiled tf.function"
PYTORCH, ONNXRUNTIME = "PyTorch", "ONNX Runtime"

# Peer -> its module, and what `prepare` takes beside the file and the threads.
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    bounds.KERAS: ("keras_model", {"way": "train_on_batch"}),
    FUNCTION: ("keras_model", {"way": "function"}),
    PYTORCH: ("pytorch", {}),
    ONNXRUNTIME: ("onnxruntime", {}),
}
_PRODUCT = "matrix product"


@dataclasses.dataclass(frozen=True)
class Subject:
    """One network and a way of training it.

    Attributes:
      spec: Of the detector.
      trainable: What trains.
      classes: How many.
      batch: Images in a step.
    """

    spec: str
    trainable: str
    classes: int
    batch: int

    @classmethod
    def of(cls, manifest: manifests.Manifest) -> Subject:
        """The subject of a trainable file."""
        classes, batch = len(manifest.classes), manifest.batch_size
        return cls(manifest.spec, manifest.trainable, classes, batch)

    def __str__(self) -> str:
        many = f"{self.classes} class{'es' if self.classes > 1 else ''}"
        return f"{self.spec} {self.trainable}, {many}, batch {self.batch}"


@dataclasses.dataclass
class _Files:
    """A subject's files.

    Attributes:
      targets: With builtin operators, by the runtimes that they were made for.
      parsed: One of them.
      manifest: Embedded in it.
      flex: Built with --ops=select; None where there is none.
    """

    targets: dict[str, pathlib.Path]
    parsed: tflite_file.TfliteFile
    manifest: manifests.Manifest
    flex: pathlib.Path | None = None

    @property
    def plain(self) -> pathlib.Path:
        """The file for any runtime, where there is one."""
        return self.targets.get(manifests.ANY) or next(iter(self.targets.values()))


def measure(
    models: Sequence[pathlib.Path],
    peers: Sequence[str],
    pythons: Mapping[str, str],
    runtimes: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    progress: contest.Progress,
) -> contest.Found:
    """Measures the steps of trainable files.

    Args:
      models: Trainable files; of one subject one with builtin operators, perhaps one
        for each target, which stands for it in that runtime, and perhaps one built with
        --ops=select, which is its peer.
      peers: Of `PEERS`, which train what the file trains.
      pythons: Module of a peer -> interpreter of the environment that it is installed
        in, where that is not this one.
      runtimes: Names of installed runtimes.
      threads: Numbers of threads.
      rounds: Calls of each.
      progress: Wraps the rounds; is given a description.

    Raises:
      ValueError: If a file is damaged or not trainable.
      OSError: If one cannot be read.
    """
    found = contest.Found()
    memory: dict[tuple[Subject, str], dict[int, int]] = {}
    for subject, files in _subjects(models).items():
        for number in threads:
            said = f"{SECTION}: {subject}, {contest.threads_said(number)}"
            tasks = _tasks(subject, files, peers, pythons, runtimes, number)
            results = contest.hold(
                SECTION, tasks, rounds, lambda turns: progress(turns, said), found
            )
            _compare(subject, files, number, results, found)
            for runtime in runtimes:
                result = results.get((contract.TRAIN, runtime))
                if result and result.memory and number == min(threads):
                    alike = dataclasses.replace(subject, batch=0)
                    by_batch = memory.setdefault((alike, runtime), {})
                    by_batch[subject.batch] = result.memory
    _growth(memory, found)
    return found


def _subjects(models: Sequence[pathlib.Path]) -> dict[Subject, _Files]:
    """Subject -> its files, in the order given."""
    ours: dict[Subject, _Files] = {}
    flex: dict[Subject, pathlib.Path] = {}
    for path in models:
        parsed = tflite_file.read(path)
        manifest = manifests.of_file(parsed)
        if manifest is None or manifest.kind != "trainable":
            raise manifests.ManifestError(
                "A training step must be that of a trainable file, as ondevice.build "
                f"writes it. Received: {path}."
            )
        subject = Subject.of(manifest)
        if manifest.ops == "select":
            flex[subject] = path
        else:
            files = ours.setdefault(subject, _Files({}, parsed, manifest))
            files.targets[manifest.target] = path
    for subject, files in ours.items():
        files.flex = flex.get(subject)
    return ours


def _tasks(
    subject: Subject,
    files: _Files,
    peers: Sequence[str],
    pythons: Mapping[str, str],
    runtimes: Sequence[str],
    threads: int,
) -> dict[Hashable, worker.Task]:
    """Everyone that takes turns; ours by (signature, runtime), peers by name."""
    keys = [s.key for s in files.manifest.signatures if s.key in contract.STEPS]
    common = dataclasses.asdict(subject) | {"threads": threads}

    def task(peer: str, contender: str, path: pathlib.Path, **options: Any):
        labels = {"contender": contender, **common}
        labels["runtime"] = options.get("runtime", "")
        labels["signature"] = options.get("signature", contract.TRAIN)
        given = {"file": str(path), **common, **options}
        return worker.Task(peer, given, labels, pythons.get(peer, ""))

    tasks: dict[Hashable, worker.Task] = {
        (key, runtime): task(
            "files",
            "ours",
            files.targets.get(runtime, files.plain),
            runtime=runtime,
            signature=key,
        )
        for key in keys
        for runtime in runtimes
    }
    if files.flex is not None:
        tasks[bounds.FLEX] = task(
            "files",
            bounds.FLEX,
            files.flex,
            runtime=known.FLEX,
            signature=contract.TRAIN,
        )
    for name in peers:
        module, options = PEERS[name]
        tasks[name] = task(module, name, files.plain, **options)
    tasks[_PRODUCT] = task("product", _PRODUCT, files.plain)
    return tasks


def _compare(
    subject: Subject,
    files: _Files,
    threads: int,
    results: Mapping[Hashable, contest.Result],
    found: contest.Found,
) -> None:
    """Ours over everyone else, with the bounds."""
    others = {k: r.times for k, r in results.items() if isinstance(k, str)}
    reference = others.pop(_PRODUCT, None)
    if reference is not None:
        forward = work.multiply_adds(work.of_signature(files.parsed, contract.INFER))
        needed = work.of_step(forward, subject.batch)
        others[bounds.ARITHMETIC] = reference.scaled(needed / product.MULTIPLY_ADDS)
    judged = bounds.judged(threads)
    for key, result in results.items():
        if not isinstance(key, tuple):
            continue
        signature, runtime = key
        name = f"{SECTION}: {subject}, {signature}, {runtime}"
        said = f"{name}, {contest.threads_said(threads)}, over"
        if signature in contract.ON_FEATURES:
            count = len(result.times.wall[timing.TOTAL])
            allowed = timing.allowed(bounds.ON_FEATURES * subject.batch, count)
            found.ratios[f"{said} 1 ms a sample"] = timing.ratio(
                result.times, allowed, 1.0, judged
            )
            continue
        for peer, times in others.items():
            bound = bounds.step(peer, runtime, threads, subject.trainable)
            found.ratios[f"{said} {peer}"] = timing.ratio(
                result.times, times, bound, judged
            )
        if bounds.FLEX in results:
            ratio = contest.memory_ratio(
                result.memory,
                results[bounds.FLEX].memory,
                bounds.MEMORY if runtime in bounds.LEAN else None,
            )
            if ratio:
                found.ratios[f"{said} {bounds.FLEX}, memory"] = ratio


def _growth(
    memory: Mapping[tuple[Subject, str], Mapping[int, int]], found: contest.Found
) -> None:
    """What a sample more takes, over the activations that its gradients need."""
    for (subject, runtime), by_batch in memory.items():
        small, large = min(by_batch), max(by_batch)
        needed = activations.of_sample(
            subject.spec, subject.trainable, subject.classes
        )
        if small == large or needed is None:
            continue
        grown = (by_batch[large] - by_batch[small]) / (large - small)
        ratio = contest.memory_ratio(
            round(grown),
            needed,
            bounds.MEMORY_OF_SAMPLE if runtime in bounds.LEAN else None,
        )
        if ratio:
            alike = f"{subject.spec} {subject.trainable}"
            found.ratios[
                f"{SECTION}: {alike}, {subject.classes} classes, {runtime}, memory of "
                f"a sample from batch {small} to {large}, over its activations"
            ] = ratio
