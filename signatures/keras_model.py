"""A Keras model that is no detector as a trainable `tf.Module`.

What trains are the model's trainable variables; what a step assigns beside them, the
moving statistics of BatchNormalization, are variables of the file too; the rest are
constants, and the backward pass ends where nothing below is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints import manifest
from signatures import contract, keras_plan, module, optimizers, select, stateless
from signatures.gradients import randomness, trace

# The name of the variable in which Keras keeps the state of a random layer.
_SEED = "seed_generator_state"
# Operators that take logits, or logarithms of what a softmax gives.
_SOFTMAX = (
    "LogSoftmax",
    "Softmax",
    "SoftmaxCrossEntropyWithLogits",
    "SparseSoftmaxCrossEntropyWithLogits",
)
_SAME = ("Cast", "EnsureShape", "Identity", "Reshape")


class KerasTrainable(module.Module):
    """A Keras model that learns through signatures."""

    def __init__(
        self,
        model: keras.Model,
        loss: Any,
        settings: optimizers.Settings,
        batch_size: int,
        targets: Any = None,
        infer_batch_size: int = 1,
        target: str = manifest.ANY,
    ) -> None:
        """Takes a model's weights over; see `trainable.of_keras`."""
        if min(batch_size, infer_batch_size) < 1:
            raise ValueError(
                "Batches must have at least 1 sample. "
                f"Received: {batch_size} to train, {infer_batch_size} to infer."
            )
        self._network = stateless.Stateless(model)
        plan = keras_plan.plan_of(model, loss, targets, batch_size, infer_batch_size)
        self._plan = plan
        weights, trained = _weights(model)
        program = self._trial(weights, trained)
        _refuse_two_softmaxes(program)
        kinds = {node.type for node in program.nodes}
        self._seeded = bool(kinds.intersection(randomness.DRAWN))
        read = {value for node in program.nodes for value in node.inputs}
        place = len(trained) + len(plan.inputs) + len(plan.targets)
        self._weighted = list(program.bound)[place] in read
        updated = sorted(program.outputs[1])
        super().__init__(
            weights, trained, settings, updated=updated, target=target
        )
        self._settings = settings

    @property
    def settings(self) -> optimizers.Settings:
        """The optimizer."""
        return self._settings

    @property
    def plan(self) -> keras_plan.Plan:
        """What goes in and out."""
        return self._plan

    @property
    def signature_specs(self) -> tuple[manifest.SignatureSpec, ...]:
        """The signatures of the file."""
        plan, targets = self._plan, self._plan.targets
        if self._weighted:
            targets += (manifest.TensorSpec("sample_weights", (plan.batch,)),)
        return contract.of_model(
            plan.inputs,
            targets,
            plan.outputs,
            self.specs,
            plan.batch,
            plan.infer_batch,
            self._seeded,
            self.ops,
        )

    def inference(
        self, weights: Mapping[str, tf.Tensor], *inputs: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """What `infer` gives, of weights and inputs."""
        images = self._plan.pack(inputs)
        outputs, _, _ = self._network.run(weights, images, training=False)
        return tuple(keras.tree.flatten(outputs))

    def parameters(self) -> dict[str, np.ndarray]:
        """Every weight that inference may depend on: variables and constants."""
        variables = {**self._weights, **self._updated}
        return {**self._frozen, **{n: v.numpy() for n, v in variables.items()}}

    # The signatures.

    def _train(self, tensors):
        values = self._values()
        drawn = {}
        if self._seeded:
            step = self._optimizer.step
            drawn["generator"] = randomness.Generator(tensors["seed"], step)
        (loss, updated), gradients = self._differentiate(
            self._losses, values, *self._given(tensors), **drawn
        )
        norm = self._optimizer.apply(values, gradients, tensors["learning_rate"])
        for name, value in updated.items():
            self._updated[name].assign(value)
        return {"loss": loss, contract.GRADIENT_NORM: norm}

    def _evaluate(self, tensors):
        given = self._given(tensors)
        loss, _ = self._forward(self._evaluated, self._values(), *given)
        return {"loss": loss}

    def _infer(self, tensors):
        plan = self._plan
        inputs = [tensors[spec.name] for spec in self._plan.inputs]
        outputs = self._forward(
            lambda values, state, *images: self.inference(
                self._all(values, state), *images
            ),
            self._values(),
            self._state_values(),
            *inputs,
        )
        return {spec.name: y for spec, y in zip(plan.outputs, outputs, strict=True)}

    # Parts of them.

    def _given(self, tensors):
        """State, inputs, targets and samples' weights, as `_losses` takes them."""
        weights = tensors.get("sample_weights", tf.ones([self._plan.batch]))
        return (
            self._state_values(),
            [tensors[spec.name] for spec in self._plan.inputs],
            {spec.name: tensors[spec.name] for spec in self._plan.targets},
            weights,
        )

    def _state_values(self):
        return {name: v.read_value() for name, v in self._updated.items()}

    def _all(self, values, state):
        return {**self._constants(), **state, **dict(zip(self._weights, values))}

    def _losses(self, values, state, inputs, targets, sample_weights):
        return self._loss_of(
            self._all(values, state), inputs, targets, sample_weights, training=True
        )

    def _evaluated(self, values, state, inputs, targets, sample_weights):
        return self._loss_of(
            self._all(values, state), inputs, targets, sample_weights, training=False
        )

    def _loss_of(self, weights, inputs, targets, sample_weights, training):
        """The loss, and what the model assigned, by name."""
        outputs, assigned, own = self._network.run(
            weights, self._plan.pack(inputs), training=training
        )
        names = [spec.name for spec in self._plan.outputs]
        by_name = dict(zip(names, keras.tree.flatten(outputs), strict=True))
        terms = []
        for name, objective in self._plan.objectives.items():
            if name is not None:
                y = targets[keras_plan.target_of(name)]
                terms.append(objective(by_name[name], y, sample_weights))
            else:
                plain = {n: targets[keras_plan.target_of(n)] for n in by_name}
                terms.append(objective(by_name, plain, sample_weights))
        loss = tf.add_n([*terms, *own]) if len(terms) + len(own) > 1 else terms[0]
        return loss, {n: v for n, v in assigned.items() if not n.endswith(_SEED)}

    def _trial(self, weights, trained) -> trace.Program:
        """Traces the loss once, to know what it draws and assigns."""
        plan = self._plan
        found: list[trace.Program] = []
        names = [n for n in weights if n not in set(trained)]

        def call(values, others, inputs, targets, sample_weights):
            def losses(values, inputs, targets, sample_weights):
                known = dict(zip(names, others)) | dict(zip(trained, values))
                return self._loss_of(known, inputs, targets, sample_weights, True)

            arguments = (inputs, targets, sample_weights)
            found.append(trace.trace(losses, values, arguments))

        def spec(shape, dtype):
            return tf.TensorSpec(shape, tf.as_dtype(dtype))

        tf.function(call, autograph=False).get_concrete_function(
            [spec(weights[n].shape, weights[n].dtype) for n in trained],
            [spec(weights[n].shape, weights[n].dtype) for n in names],
            [spec((plan.batch, *s.shape), s.dtype) for s in plan.inputs],
            {s.name: spec(s.shape, s.dtype) for s in plan.targets},
            spec((plan.batch,), "float32"),
        )
        (program,) = found
        return program


class SelectKeras(select.Select, KerasTrainable):
    """A Keras model whose file needs the Flex delegate."""

    def __init__(self, model: keras.Model, *args: Any, **kwargs: Any) -> None:
        """As `KerasTrainable`.

        Raises:
          ValueError: Also if a step draws random numbers: there they are TensorFlow's,
            which a resumed run cannot repeat.
        """
        super().__init__(model, *args, **kwargs)
        if self._seeded:
            raise ValueError(
                "With ops='select' a training step must draw no random numbers. "
                f"Received: {model.name!r}, which does (Dropout, for one)."
            )


def _weights(model: keras.Model) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every weight by name, and the names of those that train.

    Raises:
      ValueError: If none trains, one is no float32, or has a constraint.
    """
    variables = stateless.named_variables(model)
    trainable = {id(v) for v in model.trainable_variables}
    trained = [n for n, v in variables.items() if id(v) in trainable]
    weights, faults = {}, []
    for name, variable in variables.items():
        value = np.asarray(variable)
        # Random numbers come from elsewhere: where Keras stands says nothing.
        weights[name] = np.zeros_like(value) if name.endswith(_SEED) else value
        if name in trained and value.dtype != np.float32:
            faults.append(f"{name!r} of {value.dtype.name}")
        if name in trained and getattr(variable, "constraint", None) is not None:
            faults.append(f"{name!r} with a constraint")
    if faults or not trained:
        raise ValueError(
            "A model must have weights that train, all float32 and without constraints."
            f" Received: {len(trained)} in {model.name!r}; {'; '.join(faults)}."
        )
    return weights, trained


def _refuse_two_softmaxes(program: trace.Program) -> None:
    """Refuses a loss that takes logits of outputs that a softmax gave.

    Both samples of TensorFlow's on-device training do so; the loss then hardly falls.
    """
    producer = {output: node for node in program.nodes for output in node.outputs}
    for node in program.nodes:
        if node.type not in _SOFTMAX:
            continue
        source = producer.get(node.inputs[0])
        while source is not None and source.type in _SAME:
            source = producer.get(source.inputs[0])
        if source is not None and source.type == "Softmax":
            raise keras_plan.twice("softmax", source.name)
