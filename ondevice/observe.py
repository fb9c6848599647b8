"""Makes what a guide observed about fresh and non-fresh .tflite files happen again.

Each claim of the guide becomes an experiment, on the palm detector and on a small
network, with a verdict: whether training changes the file, where the weights are, what
a checkpoint restores, and why training from a checkpoint may not lead to further
learning: the causes one by one, each against a run that was not stopped.

Examples:
  python -m ondevice.observe --output_dir=out/observations
      All of it, about a quarter of an hour.
  python -m ondevice.observe --output_dir=out/small --networks=overview
      The small network alone, two minutes.
  python -m ondevice.observe --output_dir=out/again --seed=1
      On other pictures: the verdicts are the same.

Writes observations.html, which needs no other file, and observations.json. The last
line of stdout is one JSON object: {"verdicts": [{"key", "network", "claim", "holds",
"evidence", "because"}], "seconds"}. A claim that does not hold is a result, not a
failure: the exit status is 0.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from ondevice import commands

if TYPE_CHECKING:
    from ondevice.observing import study, verdict

FLAGS = commands.flag_values()
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Where to write the two files.", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the pictures.", lower_bound=0, flag_values=FLAGS
)
_STEPS = flags.DEFINE_integer(
    "steps",
    20,
    "Steps before and after a run is stopped.",
    lower_bound=4,
    flag_values=FLAGS,
)
_NETWORKS = flags.DEFINE_list(
    "networks",
    ["palm_full", "overview"],
    "What to observe: the palm detector, the network of TensorFlow's overview.",
    flag_values=FLAGS,
)


def main(arguments: Sequence[str]) -> commands.Outcome:
    commands.no_arguments(arguments)
    commands.require_tensorflow("ondevice.observe")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from checkpoints import atomic
    from ondevice.observing import networks, observations

    unknown = sorted(set(_NETWORKS.value) - set(networks.NAMES))
    if unknown or not _NETWORKS.value:
        raise commands.UsageError(
            f"--networks must be of {', '.join(networks.NAMES)}. Received: "
            f"{','.join(_NETWORKS.value)!r}."
        )
    started = time.monotonic()
    directory = pathlib.Path(_OUTPUT_DIR.value or "")
    atomic.make_directory(directory)
    verdicts: list[verdict.Verdict] = []
    curves: dict[str, Sequence[study.Curve]] = {}
    for name in _NETWORKS.value:
        found, curves[name] = _observed(name, _SEED.value, _STEPS.value)
        verdicts += found
    seconds = round(time.monotonic() - started, 1)
    result: dict[str, Any] = {
        "verdicts": [dataclasses.asdict(each) for each in verdicts],
        "seconds": seconds,
    }
    facts = {
        "Seed": _SEED.value,
        "Steps before and after a run is stopped": _STEPS.value,
        "Seconds": seconds,
    }
    drawn = {n: [dataclasses.asdict(c) for c in each] for n, each in curves.items()}
    written = json.dumps({**result, "curves": drawn}, indent=1) + "\n"
    page = observations.as_html(verdicts, curves, facts)
    atomic.write(directory / "observations.json", [written.encode()])
    atomic.write(directory / "observations.html", [page.encode()])
    return commands.Outcome(result)


def _observed(
    name: str, seed: int, steps: int
) -> tuple[list[verdict.Verdict], list[study.Curve]]:
    """Every experiment on one network."""
    from checkpoints import manifest as manifests
    from ondevice.device import runtimes
    from ondevice.observing import causes, files, networks, paths, subject, workflows

    observed = networks.make(name, seed)
    verdicts: list[verdict.Verdict] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = pathlib.Path(temporary)
        logging.info("%s: converting.", name)
        model = observed.model(subject.Variant())
        for runtime in runtimes.installed():
            logging.info("%s: claims a, b and c on %s.", name, runtime)
            verdicts += files.observe(observed, runtime, place)
        experiments = causes.Causes(observed, steps, place)
        each = list(experiments.experiments())
        for what, run in commands.progress(each, f"{name}, claim d"):
            logging.info("%s: claim d, %s.", name, what)
            run()
        verdicts += experiments.verdicts
        logging.info("%s: claim e.", name)
        verdicts.append(workflows.observe(observed, model, runtimes.choose(), place))
        for ops in manifests.OPS:
            logging.info("%s: --ops=%s in every runtime.", name, ops)
            verdicts.append(paths.observe(observed, ops, place))
    return verdicts, experiments.curves


if __name__ == "__main__":
    flags.mark_flag_as_required("output_dir", flag_values=FLAGS)
    commands.run(main, __doc__, FLAGS)
