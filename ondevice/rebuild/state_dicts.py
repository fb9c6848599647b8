"""Weights <-> state dict: a .pth file read and written strictly, by the table of names.

On the way out a change of layout is all that happens to a number. On the way in every
tensor of the table must be there, and no other, of its shape, finite. A depthwise bias,
which no variable of ours holds, is passed on through the convolution that follows: its
kernel is 1x1, so the bias it gets is W b more, which is the same function in real
arithmetic (computed in float64, rounded once). A bias of zero changes nothing.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import numpy as np
import torch

from ondevice.rebuild import layout, topology, torch_names

# Those that become float32 without rounding.
_EXACT = (torch.float32, torch.float16, torch.bfloat16)


class StateDictError(ValueError):
    """A file that is no state dict, or not of the network."""


def of_weights(
    name: str, layers: tuple[topology.Layer, ...], weights: Mapping[str, np.ndarray]
) -> dict[str, torch.Tensor]:
    """The state dict that holds weights.

    Args:
      name: Of the spec.
      layers: The network.
      weights: `<layer>/<attribute>` -> float32 array in Keras' layout.
    """
    state = {}
    for row in torch_names.table(name, layers):
        value = np.zeros(row.shape, np.float32)
        if row.variable is not None:
            value = layout.moved(weights[row.variable], row.axes, row.torch_axes)
        state[row.name] = torch.from_numpy(value.copy())
    return state


def to_weights(
    name: str, layers: tuple[topology.Layer, ...], state: Mapping[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """The weights that a state dict holds.

    Args:
      name: Of the spec.
      layers: The network.
      state: Of exactly the network's tensors.

    Returns:
      `<layer>/<attribute>` -> float32 array in Keras' layout, every variable once.

    Raises:
      StateDictError: If a tensor is missing, surplus, misshapen, of a dtype that
        float32 cannot hold, or not finite; one error names all.
    """
    rows = {row.name: row for row in torch_names.table(name, layers)}
    faults = [f"missing {n}" for n in rows if n not in state]
    faults += [f"surplus {n}" for n in state if n not in rows]
    arrays = {}
    for row in rows.values():
        if row.name not in state:
            continue
        tensor = state[row.name]
        if tuple(tensor.shape) != row.shape:
            faults.append(
                f"{row.name} of shape {tuple(tensor.shape)}, not {row.shape}"
            )
        elif (
            tensor.layout != torch.strided
            or tensor.dtype not in _EXACT
            or tensor.device.type != "cpu"  # `meta` has no numbers.
        ):
            faults.append(
                f"{row.name} of {tensor.dtype}, {tensor.layout}, {tensor.device}"
            )
        else:
            own = tensor.detach().to(torch.float32).resolve_neg()
            arrays[row.name] = own.numpy()
            if not np.isfinite(arrays[row.name]).all():
                faults.append(f"{row.name} with numbers that are not finite")
    if faults:
        raise StateDictError(
            f"The state dict must have the {len(rows)} tensors of {name}, and no "
            f"others, float32 (or float16, bfloat16) and finite. Received: "
            f"{'; '.join(faults)}."
        )
    weights, biases = {}, {}
    for row in rows.values():
        value = arrays[row.name]
        if row.variable is None:
            biases[row.layer] = value
        else:
            weights[row.variable] = layout.moved(value, row.torch_axes, row.axes)
    return _passed_on(layers, weights, biases)


def classes(
    name: str, layers: tuple[topology.Layer, ...], state: Mapping[str, torch.Tensor]
) -> int | None:
    """How many classes a state dict's class heads have.

    Args:
      name: Of the spec.
      layers: The network with one class.
      state: Read from a file, unchecked.

    Returns:
      K, or None where the heads are missing, or do not agree on a number.
    """
    heads = {layer.name for layer in layers if layer.group == topology.SCORE_HEAD}
    found = set()
    for row in torch_names.table(name, layers):
        if row.layer in heads:
            shape = tuple(state[row.name].shape) if row.name in state else ()
            found.add(shape[0] / row.shape[0] if shape else 0.5)
    (count,) = found if len(found) == 1 else (0.5,)
    return int(count) if count >= 1 and count == int(count) else None


def load(content: bytes, where: str) -> dict[str, torch.Tensor]:
    """Reads a .pth file; no code that is in it runs.

    Args:
      content: Of the file.
      where: Its name, for the message.

    Raises:
      StateDictError: If it is no mapping of names to tensors, or damaged.
    """
    _refuse_compressed(content, where)
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch have each their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise StateDictError(
            "A state dict must be a file that torch.save wrote, of tensors alone. "
            f"Received: {where}: {reason[0][:200]}"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(n, str) and isinstance(t, torch.Tensor) for n, t in found.items()
    ):
        keys = list(found)[:5] if isinstance(found, Mapping) else type(found).__name__
        raise StateDictError(
            "A state dict must map names to tensors, as model.state_dict() does. "
            f"Received: {where}, {keys}."
        )
    return dict(found)


def _refuse_compressed(content: bytes, where: str) -> None:
    """Refuses an archive that would become more than it is; torch.save packs none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except Exception:  # No archive, or a broken one: torch says so.
        return
    if size > len(content):
        raise StateDictError(
            "A state dict must be stored as torch.save does, uncompressed. Received: "
            f"{where}: {size} bytes packed in {len(content)}."
        )


def dump(state: Mapping[str, torch.Tensor]) -> bytes:
    """What a .pth file of a state dict holds."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    return content.getvalue()


def _passed_on(
    layers: tuple[topology.Layer, ...],
    weights: dict[str, np.ndarray],
    biases: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Gives depthwise biases to the convolutions that read their layers."""
    for layer in layers:
        bias = biases.get(layer.inputs[0]) if layer.inputs else None
        if bias is None or not bias.any():
            continue
        # In these networks nothing but a 1x1 convolution reads a depthwise one.
        assert (layer.kind, layer.kernel) == ("conv", 1), layer
        kernel = weights[f"{layer.name}/kernel"][0, 0].astype(np.float64)  # [I, O]
        name = f"{layer.name}/bias"
        weights[name] = (weights[name] + bias @ kernel).astype(np.float32)
    return weights
