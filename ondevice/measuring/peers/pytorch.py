"""The rebuilt network in eager PyTorch.

The loss is a squared error in place of the detector's: next to the network neither
takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ondevice.measuring import step_inputs
from ondevice.measuring.peers import missing
from ondevice.rebuild import specs, topology


def prepare(options: Mapping[str, Any]) -> Callable[[], Any]:
    """Draws the module of one class, as the vendor's file has it.

    Args:
      options: "spec", "trainable", "classes", "batch" and "threads".

    Raises:
      ImportError: If PyTorch is not installed.
      Missing: If there are several classes, which other heads tell apart there.
    """
    import torch

    from ondevice.rebuild import torch_names, torch_network

    if options["classes"] != 1:
        raise missing.Missing("its module tells classes apart without the branch")
    torch.set_num_threads(options["threads"])
    spec = specs.PRESETS[options["spec"]]
    layers = topology.draw(spec)
    trained = set(topology.trained_variables(layers, options["trainable"]))
    variables = {r.name: r.variable for r in torch_names.table(spec.name, layers)}
    model = torch_network.build(spec)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = variables.get(name) in trained
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=step_inputs.LEARNING_RATE)
    side = spec.input_size
    image = torch.rand(options["batch"], 3, side, side)

    def step() -> float:
        optimizer.zero_grad()
        loss = sum(output.square().mean() for output in model(image))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()

    return step
