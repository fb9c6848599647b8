"""The detectors as PyTorch modules, for those who train them there.

    from ondevice import torch_models

    model = torch_models.load("palm_full")                  # the vendor's weights
    model = torch_models.load("palm_full", "signs.pth", 7)  # a state dict's, 7 classes

`ondevice.rebuild.torch_network` says what goes in and comes out.
"""

from __future__ import annotations

import os
import pathlib

from checkpoints import manifest as manifests
from ondevice import vendor
from ondevice.rebuild import state_dicts, topology, torch_network


def load(
    source: str, state_dict: str | os.PathLike[str] | None = None, classes: int = 1
) -> torch_network.Detector:
    """Makes a detector's module.

    Args:
      source: A name, or the path of a frozen .tflite.
      state_dict: A .pth file with its weights; None for the source's own, whose class
        heads have one class.
      classes: K, of the state dict's class heads.

    Returns:
      The module.

    Raises:
      StateDictError: If the state dict is not exactly the module's.
      ValueError: If the source cannot be had, is damaged or no detector of ours.
      OSError: If a file cannot be read.
    """
    ported = vendor.read(source)
    spec = ported.found.spec
    layers = topology.draw(spec, classes, manifests.PLAIN)
    if state_dict is None:
        state = state_dicts.of_weights(spec.name, layers, ported.weights)
    else:
        content = pathlib.Path(state_dict).read_bytes()
        state = state_dicts.load(content, os.fspath(state_dict))
        state_dicts.to_weights(spec.name, layers, state)  # refuses what does not fit
    model = torch_network.build(spec, layers)
    model.load_state_dict(state)
    return model
