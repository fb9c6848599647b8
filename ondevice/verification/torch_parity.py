"""A PyTorch module against .tflite files: outputs in every runtime, and operators."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from absl import logging

from checkpoints import tflite_file
from ondevice.device import runtimes
from ondevice.rebuild import nodes, topology, torch_network
from ondevice.verification import check, compare, forward, inputs


@dataclasses.dataclass(frozen=True)
class Compared:
    """A file, and what its outputs are called.

    Attributes:
      data: The .tflite.
      regressors: Name, or place, of the output.
      classificators: The same.
    """

    data: bytes
    regressors: str
    classificators: str


def outputs(
    model: torch_network.Detector, probes: Mapping[str, np.ndarray]
) -> dict[str, torch_network.Outputs]:
    """Kind of probe -> what the module gives, an image at a time as files take them.

    Args:
      model: The module.
      probes: Kind -> [n, S, S, 3] float32, channels last.
    """
    found = {}
    with torch.no_grad():
        for kind, images in probes.items():
            each = [
                model(torch.from_numpy(image[None]).permute(0, 3, 1, 2))
                for image in images
            ]
            found[kind] = torch_network.Outputs(*map(torch.cat, zip(*each)))
    return found


def parity(
    model: torch_network.Detector,
    files: Mapping[str, Compared],
    probes: Mapping[str, np.ndarray],
    only: Sequence[str] = (),
) -> list[check.Check]:
    """The files' outputs against the module's.

    Args:
      model: The module.
      files: By names that end in .tflite.
      probes: Kind -> [n, S, S, 3] float32 images.
      only: Runtimes to run in; none stands for every one installed.

    Returns:
      A check for each runtime, file, kind and output, but for the framed ones, where
      rounding errors of other kernels add up: see `compare.rebuilt`.
    """
    probes = _even(probes)
    expected = outputs(model, probes)
    checks = []
    for runtime in only or runtimes.installed():
        logging.info("Running the files in %s.", runtime)
        try:
            got = forward.run({n: f.data for n, f in files.items()}, probes, runtime)
        except forward.ForwardError as error:
            checks.append(check.failed_to_run(runtime, str(error)))
            continue
        checks += [
            check.Check(
                "convert",
                f"{name} against the PyTorch module, {output}, {kind}",
                runtime,
                compare.parity(
                    got[f"{name}/{kind}/{getattr(file, output)}"],
                    getattr(expected[kind], output).numpy(),
                ),
                check.OTHER_KERNELS,
            )
            for name, file in files.items()
            for kind in probes
            for output in torch_network.Outputs._fields
        ]
    return checks


def against_keras(
    model: torch_network.Detector,
    weights: Mapping[str, np.ndarray],
    probes: Mapping[str, np.ndarray],
) -> list[check.Check]:
    """The Keras model's outputs against the module's.

    Args:
      model: The module, of one class.
      weights: Of the Keras model, `<layer>/<attribute>` -> float32 array.
      probes: Kind -> [n, S, S, 3] float32 images.

    Returns:
      A check for each kind, as `parity` has them, and output.
    """
    from ondevice.rebuild import network  # needs tensorflow, and nothing else here does

    rebuilt = network.build(topology.draw(model.spec), model.spec.name)
    network.assign(rebuilt, weights)
    checks = []
    for kind, images in _even(probes).items():
        got = outputs(model, {kind: images})[kind]
        each = [rebuilt(image[None]) for image in images]
        for name, ours in (("regressors", got[0]), ("scores", got[1])):
            expected = np.concatenate([np.asarray(one[name]) for one in each])
            checks.append(
                check.Check(
                    "rebuild",
                    f"Keras model against the PyTorch module, {name}, {kind}",
                    "",
                    compare.parity(ours.numpy(), expected),
                    check.OTHER_KERNELS,
                )
            )
    return checks


def _even(probes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The probes without large black areas."""
    return {kind: i for kind, i in probes.items() if kind != inputs.FRAMED}


def census(
    name: str, file: tflite_file.TfliteFile, vendor: tflite_file.TfliteFile
) -> list[check.Check]:
    """What a frozen file does against what the vendor's does, operator by operator.

    Both are read as `rebuild.nodes`: decoding of weights is left out, an activation
    counts whether it is fused into another operator or not, a bias of a transpose
    convolution whether it is added inside or behind.
    """
    got, expected = _kinds(file), _kinds(vendor)
    apart = {
        kind: (got[kind], expected[kind])
        for kind in sorted({*got, *expected})
        if got[kind] != expected[kind]
    }
    told = ", ".join(f"{a} {kind} for {b}" for kind, (a, b) in apart.items())
    return [
        check.Check(
            "convert",
            f"operators of {name} that the vendor's file has not, or more of",
            "",
            float(sum(abs(a - b) for a, b in apart.values())),
            check.NONE,
            told or f"{sum(got.values())} in both",
        ),
        check.Check(
            "convert",
            f"TRANSPOSE in {name}",
            "",
            float(file.census().get("TRANSPOSE", 0)),
            check.NONE,
        ),
    ]


def _kinds(file: tflite_file.TfliteFile) -> collections.Counter[str]:
    """How many nodes of each kind the outputs of a file depend on."""
    graph = nodes.read(file)
    needed = set(graph.outputs)
    found: collections.Counter[str] = collections.Counter()
    for node in reversed(graph.nodes):
        # What only a part of another node stands for is read by nothing.
        if node.output in needed:
            found[node.kind] += 1
            needed.update(node.inputs)
    return found
