"""A PyTorch module against .tflite files: outputs in every runtime, and operators."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tflite
import torch
from absl import logging

from checkpoints import tflite_file
from ondevice.device import runtimes
from ondevice.rebuild import torch_network
from ondevice.verification import check, compare, forward

# Brings a stored weight into float32 as the file is loaded, once.
_DECODER = "DEQUANTIZE"
_ACTIVATIONS = {
    value: name
    for name, value in vars(tflite.ActivationFunctionType).items()
    if isinstance(value, int) and value != tflite.ActivationFunctionType.NONE
}


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
    """Kind of probe -> what the module gives, an image at a time as the files take them.

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
      A check for each runtime, file, kind and output.
    """
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


def operators(file: tflite_file.TfliteFile) -> collections.Counter[str]:
    """The operators of a file, by name.

    An activation that is fused into another operator counts as the operator that it
    stands for; what only decodes weights does not count.
    """
    found: collections.Counter[str] = collections.Counter()
    for graph in file.subgraphs:
        for operator in graph.operators:
            if operator.name != _DECODER:
                found[operator.name] += 1
            fused = operator.options.get("fused_activation_function")
            if fused in _ACTIVATIONS:
                found[_ACTIVATIONS[fused]] += 1
    return found


def census(
    name: str, file: tflite_file.TfliteFile, vendor: tflite_file.TfliteFile
) -> list[check.Check]:
    """The operators of a frozen file against those of the vendor's."""
    got, expected = operators(file), operators(vendor)
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
            told or f"{sum(got.values())} operators in both",
        ),
        check.Check(
            "convert",
            f"TRANSPOSE in {name}",
            "",
            float(got["TRANSPOSE"]),
            check.NONE,
        ),
    ]
