"""The `tf.Module` behind a trainable file: train, infer, save, restore, evaluate.

The module owns one variable for each trained weight; every other weight is a constant
of the graph, so that the converter and XNNPACK see plain convolutions there. Where
something is to train on the trunk's features the network comes in two parts, and two
more signatures stand for them.

Inputs and outputs of a signature are passed by their place in the contract and carry
the names `in_0`, ... and `out_0`, ... until conversion puts the contract's names into
the file: TensorFlow allows no slash in a signature's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints import manifest
from signatures import contract, optimizers, stateless
from signatures.gradients import graph

# Takes the network's outputs and the targets by name; gives at least `contract.LOSSES`.
Loss = Callable[..., Mapping[str, tf.Tensor]]

# Takes the network's outputs; gives what `infer` gives, in the contract's order.
Predict = Callable[[Mapping[str, tf.Tensor]], Sequence[tf.Tensor]]


class Trainable(tf.Module):
    """A network that learns through signatures."""

    def __init__(
        self,
        network: stateless.Stateless,
        weights: Mapping[str, np.ndarray],
        trained: Sequence[str],
        loss: Loss,
        predict: Predict,
        settings: optimizers.Settings,
        trunk: stateless.Stateless | None = None,
        rates: Mapping[str, float] | None = None,
        class_weights: Sequence[str] = (),
    ) -> None:
        """Takes the weights over: trained ones become variables, the rest constants.

        Args:
          network: From the image to the outputs, or where there is a trunk from its
            features to the outputs.
          weights: Every weight of the network and the trunk.
          trained: Names of the weights to train, in the file's order.
          loss: From outputs and targets to the losses.
          predict: From outputs to what `infer` gives.
          settings: The optimizer.
          trunk: From the image to a list of features.
          rates: Of the trained weights, as `optimizers.Optimizer` takes them.
          class_weights: Those of the trained weights that `train_classes` trains.

        Raises:
          ValueError: If nothing is trained, or a trained weight is not the network's.
        """
        super().__init__()
        below: frozenset[str] = trunk.names if trunk else frozenset()
        strangers = sorted(set(trained) - network.names - below)
        if strangers or not trained:
            raise ValueError(
                "At least one weight must be trained, and each must be the network's. "
                f"Received: {len(trained)} to train, of them unknown: {strangers}."
            )
        self._network, self._trunk = network, trunk
        self._frozen_trunk = trunk is not None and not below & set(trained)
        self._class_weights = tuple(class_weights)
        self._loss, self._predict = loss, predict
        self._frozen = {n: w for n, w in weights.items() if n not in set(trained)}
        self._weights = {n: tf.Variable(weights[n], name=n) for n in trained}
        self._optimizer = optimizers.Optimizer(settings, self._weights, rates)
        roles = [(n, manifest.WEIGHT, v) for n, v in self._weights.items()]
        self._state = [*roles, *self._optimizer.state()]

    @property
    def specs(self) -> tuple[manifest.VariableSpec, ...]:
        """Every variable: weights, slots, then the step."""
        return tuple(
            manifest.VariableSpec(name, tuple(v.shape), v.dtype.name, role)
            for name, role, v in self._state
        )

    @property
    def frozen(self) -> Mapping[str, np.ndarray]:
        """The weights that are constants."""
        return self._frozen

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets the variables that `state` names: weights, slots or the step."""
        for name, _, variable in self._state:
            if name in state:
                variable.assign(state[name])

    def functions(
        self, signatures: Sequence[manifest.SignatureSpec]
    ) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Traces every signature of a contract.

        Args:
          signatures: From `contract.signatures`.

        Returns:
          Key -> concrete function with inputs `in_0`, ... and outputs `out_0`, ...
        """
        return {s.key: self._trace(s) for s in signatures}

    def _trace(
        self, signature: manifest.SignatureSpec
    ) -> tf.types.experimental.ConcreteFunction:
        method = getattr(self, f"_{signature.key}")

        def call(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
            named = {s.name: a for s, a in zip(signature.inputs, arguments)}
            outputs = method(named)
            return {
                f"out_{i}": tf.identity(tf.ensure_shape(outputs[s.name], s.shape))
                for i, s in enumerate(signature.outputs)
            }

        return tf.function(
            call,
            input_signature=[
                tf.TensorSpec(s.shape, tf.as_dtype(s.dtype), name=f"in_{i}")
                for i, s in enumerate(signature.inputs)
            ],
            autograph=False,
        ).get_concrete_function()

    # The signatures, each named for its key.

    def _train(self, tensors):
        return self._step(self._inputs(tensors["image"]), tensors)

    def _train_features(self, tensors):
        return self._step(_features_in(tensors), tensors)

    def _train_classes(self, tensors):
        names = self._class_weights
        values = [self._weights[name].read_value() for name in names]
        # The features have been through the trunk's: the other heads' are left.
        others = {
            name: variable.read_value()
            for name, variable in self._weights.items()
            if name in self._network.names and name not in names
        }
        inputs = (others, _features_in(tensors))
        return self._moved(names, self._class_losses, values, inputs, tensors)

    def _features(self, tensors):
        inputs = self._inputs(tensors["image"])
        if not self._frozen_trunk:
            inputs = self._forward(self._trunk_outputs, self._values(), inputs)
        return {f"feature_{i}": feature for i, feature in enumerate(inputs)}

    def _infer(self, tensors):
        inputs = self._inputs(tensors["image"])
        predictions = self._forward(self._predictions, self._values(), inputs)
        return dict(zip(("regressors", "classificators"), predictions))

    def _evaluate(self, tensors):
        inputs = self._inputs(tensors["image"])
        losses = self._forward(self._losses, self._values(), inputs, _targets(tensors))
        return dict(zip(contract.LOSSES, losses))

    def _save(self, tensors):
        values = {name: v.read_value() for name, _, v in self._state}
        return {**values, "format_version": tensors["format_version"]}

    def _restore(self, tensors):
        """Takes what `_save` gave; of another version's tensors it counts none."""
        for name, _, variable in self._state:
            variable.assign(tensors[name])
        ours = tf.equal(tensors["format_version"], contract.FORMAT_VERSION)
        return {"restored": len(self._state) * tf.cast(ours, tf.int32)}

    # Parts of them.

    def _inputs(self, image):
        """What the weights have a say in: the image, or a frozen trunk's features."""
        return self._trunk_outputs([], image) if self._frozen_trunk else image

    def _trunk_outputs(self, values, image):
        assert self._trunk is not None
        # Keras gives a single feature bare.
        return tf.nest.flatten(self._trunk(self._all_weights(values), image))

    def _values(self) -> list[tf.Tensor]:
        return [variable.read_value() for variable in self._weights.values()]

    def _constants(self) -> dict[str, tf.Tensor]:
        return {name: tf.constant(value) for name, value in self._frozen.items()}

    def _all_weights(self, values):
        return {**self._constants(), **dict(zip(self._weights, values))}

    def _outputs(self, values, inputs):
        if self._trunk is not None and not self._frozen_trunk:
            inputs = self._trunk_outputs(values, inputs)
        return self._network(self._all_weights(values), inputs)

    def _predictions(self, values, inputs):
        return self._predict(self._outputs(values, inputs))

    def _losses(self, values, inputs, targets):
        return self._losses_of(self._outputs(values, inputs), targets)

    def _class_losses(self, values, others, features, targets):
        named = dict(zip(self._class_weights, values))
        weights = {**self._constants(), **others, **named}
        return self._losses_of(self._network(weights, features), targets)

    def _losses_of(self, outputs, targets):
        """The losses in the contract's order, the one to differentiate first."""
        losses = self._loss(outputs, **targets)
        return tuple(losses[name] for name in contract.LOSSES)

    def _step(self, inputs, tensors):
        values = self._values()
        return self._moved((), self._losses, values, (inputs,), tensors)

    def _moved(self, names, losses_of, values, inputs, tensors):
        """Differentiates and takes the step; `names` as `Optimizer.apply` has them."""
        losses, gradients = self._differentiate(
            losses_of, values, *inputs, _targets(tensors)
        )
        rate = tensors["learning_rate"]
        norm = self._optimizer.apply(values, gradients, rate, names)
        return {**dict(zip(contract.LOSSES, losses)), "gradient_norm": norm}

    # How a function of the weights is emitted; --ops=select leaves it to TensorFlow.
    _forward: Any = staticmethod(graph.forward)
    _differentiate: Any = staticmethod(graph.value_and_gradients)


def _features_in(tensors):
    """The features that a step was given, in order."""
    return [t for n, t in tensors.items() if n.startswith("feature_")]


def _targets(tensors):
    """What the loss takes beside the outputs."""
    return {n: t for n, t in tensors.items() if n in contract.TARGETS}
