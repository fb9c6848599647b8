"""What goes into a Keras model and comes out of it, read off the model.

Names, shapes and dtypes of inputs, outputs and targets, and the losses between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from checkpoints import manifest
from signatures import objectives

_IMAGE, _OUTPUT, _TARGET = "x", "output", "y"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What goes into a model and comes out of it.

    Attributes:
      name: Of the model.
      inputs: Of one sample.
      outputs: Of one sample.
      targets: Of a batch.
      objectives: The losses, by output; None for one of all outputs.
      pack: Makes what the model takes of the list of inputs.
      batch: Samples in a training step.
      infer_batch: Samples in a call of `infer`.
    """

    name: str
    inputs: tuple[manifest.TensorSpec, ...]
    outputs: tuple[manifest.TensorSpec, ...]
    targets: tuple[manifest.TensorSpec, ...]
    objectives: Mapping[str | None, objectives.Objective]
    pack: Callable[[Sequence[tf.Tensor]], Any]
    batch: int
    infer_batch: int


def plan_of(
    model: keras.Model, loss: Any, targets: Any, batch: int, infer_batch: int
) -> Plan:
    """Reads what the user gave.

    Raises:
      ValueError: If it does not fit the model.
    """
    outputs = _outputs(model)
    names = [spec.name for spec in outputs]
    found: dict[str | None, objectives.Objective]
    if isinstance(loss, Mapping):
        if set(loss) != set(names):
            raise ValueError(
                f"A mapping of losses must have the outputs {names} as its keys. "
                f"Received: {sorted(loss)}."
            )
        found = {name: objectives.of(loss[name]) for name in names}
    else:
        found = {names[0] if len(names) == 1 else None: objectives.of(loss)}
    for spec, tensor in zip(outputs, _symbolic(model, "outputs")):
        applied = found[spec.name].activation if spec.name in found else ""
        if applied and _activation(tensor) == applied:
            raise twice(applied, spec.name)
    given = targets if isinstance(targets, Mapping) else dict.fromkeys(names, targets)
    specs = [_target(o, found.get(o.name), given.get(o.name)) for o in outputs]
    return Plan(
        model.name,
        _inputs(model),
        outputs,
        tuple(dataclasses.replace(s, shape=(batch, *s.shape)) for s in specs),
        found,
        _packer(model),
        batch,
        infer_batch,
    )


def target_of(output: str) -> str:
    """The name of an output's target."""
    return _TARGET if output == _OUTPUT else f"{_TARGET}_{output}"


def twice(activation: str, where: str) -> ValueError:
    """The error of an activation that the loss applies again."""
    return ValueError(
        f"A loss on logits must be given logits: the model ends in a {activation}, and "
        "the loss takes another. Leave the activation out of the last layer, or take a "
        f"loss on probabilities. Received: {where!r}."
    )


def _target(
    output: manifest.TensorSpec, objective: objectives.Objective | None, given: Any
) -> manifest.TensorSpec:
    """The target of one output, for one sample."""
    name = target_of(output.name)
    if given is not None:
        dtype = tf.as_dtype(given.dtype).name
        return manifest.TensorSpec(name, tuple(given.shape), dtype)
    if objective is not None and objective.sparse:
        return manifest.TensorSpec(name, output.shape[:-1], "int32")
    return dataclasses.replace(output, name=name)


def _inputs(model: keras.Model) -> tuple[manifest.TensorSpec, ...]:
    """Name, shape of one sample and dtype of each input: `x`, or the layers' names."""
    tensors = _symbolic(model, "inputs")
    names = _layers(tensors)
    return _specs(tensors, [_IMAGE] if len(names) == 1 else names, model)


def _outputs(model: keras.Model) -> tuple[manifest.TensorSpec, ...]:
    """Name, shape of one sample and dtype of each output: `output`, or the layers'."""
    tensors = _symbolic(model, "outputs")
    names = _layers(tensors)
    return _specs(tensors, [_OUTPUT] if len(names) == 1 else names, model)


def _layers(tensors: Sequence[Any]) -> list[str]:
    """The names of the layers that symbolic tensors come from."""
    return [tensor._keras_history.operation.name for tensor in tensors]


def _specs(
    tensors: Sequence[Any], names: Sequence[str], model: keras.Model
) -> tuple[manifest.TensorSpec, ...]:
    faults = [f"{n!r} of shape {t.shape}" for n, t in zip(names, tensors)
              if None in t.shape[1:] or not t.shape]  # fmt: skip
    faults += [f"{n!r} twice" for n in sorted({n for n in names if names.count(n) > 1})]
    if faults:
        raise ValueError(
            "Every input and output of a model must have a name of its own and a shape "
            f"that is known but for the batch. Received: {'; '.join(faults)}; of "
            f"{model.name!r}."
        )
    return tuple(
        manifest.TensorSpec(n, tuple(t.shape[1:]), tf.as_dtype(t.dtype).name)
        for n, t in zip(names, tensors)
    )


def _symbolic(model: keras.Model, which: str) -> list[Any]:
    tensors = getattr(model, which, None) if model.built else None
    if not tensors:
        raise ValueError(
            "A model must be Sequential or Functional, with its input's shape known: "
            "give it a keras.Input, or wrap it as keras.Model(inputs, model(inputs)). "
            f"Received: {type(model).__name__} {model.name!r}."
        )
    return list(tensors)


def _packer(model: keras.Model) -> Callable[[Sequence[tf.Tensor]], Any]:
    """Makes what the model takes of the list of its inputs."""
    structure = model.inputs if isinstance(model, keras.Sequential) else model.input
    if len(model.inputs) == 1 and not isinstance(structure, dict):
        return lambda tensors: tensors[0]
    return lambda tensors: keras.tree.pack_sequence_as(structure, list(tensors))


def _activation(tensor: Any) -> str:
    """The name of the activation that a symbolic output comes from, if it has one."""
    layer = tensor._keras_history.operation
    while isinstance(layer, keras.Model):
        layer = _symbolic(layer, "outputs")[0]._keras_history.operation
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", type(layer).__name__.lower())
