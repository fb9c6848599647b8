"""The `tf.Module` behind a trainable file: train, infer, save, restore, evaluate.

`of_keras` makes one of any Keras model; `Trainable` is the detectors'.
Where something is to train on the trunk's features the network comes in two parts, and
two more signatures stand for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints import manifest
from signatures import contract, keras_model, losses, module, optimizers
from signatures import sample_by_sample, select, stateless

# Takes the network's outputs and the targets by name; gives at least `contract.LOSSES`,
# means over the images by `losses.shares`.
Loss = Callable[..., Mapping[str, tf.Tensor]]

# Takes the network's outputs; gives what `infer` gives, in the contract's order.
Predict = Callable[[Mapping[str, tf.Tensor]], Sequence[tf.Tensor]]


def of_keras(
    model: keras.Model,
    loss: Any,
    optimizer: str | optimizers.Settings = "adam",
    batch_size: int = 32,
    targets: Any = None,
    infer_batch_size: int = 1,
    ops: str = "builtin",
    target: str = manifest.ANY,
) -> keras_model.KerasTrainable:
    """Makes any Keras model trainable; `ondevice.convert.write` makes its files.

    Layers with `trainable = False` become constants. Gradients are not clipped unless
    the optimizer's settings say so. A last batch that is filled up counts as the batch
    that it was, but for BatchNormalization's statistics, which see every sample: there
    fill it up with others of the data, their weight 0.

    Args:
      model: Sequential or Functional, its input's shape known but for the batch.
      loss: A name of `objectives.LOSSES`, one of `keras.losses`, or a function
        (outputs, y) that gives a loss a sample [B, ...] or a scalar, or (outputs, y,
        sample_weights) that gives a scalar. With several outputs a mapping of their
        names to losses, which are added, or a function of two mappings.
      optimizer: A name of `optimizers.RULES`, or settings.
      batch_size: B, samples in a training step.
      targets: A `tf.TensorSpec` of one sample's target, or a mapping of them by output;
        the output's own where it is not told, int32 without the last axis for a sparse
        loss.
      infer_batch_size: Samples in a call of `infer`.
      ops: `builtin`, or `select` for the official recipe, which needs the Flex delegate
        and tensorflow < 2.20.
      target: The runtime that the file is to be fast in: `any`, or `tflite_runtime`,
        whose kernels want other operators. It gives the same numbers in all of them.

    Returns:
      The module.

    Raises:
      ValueError: If the model, loss or optimizer cannot be used so; among these a loss
        on logits of a model that ends in a softmax.
      GradientError: If a shape is not known.
    """
    if isinstance(optimizer, str):
        optimizer = optimizers.Settings(optimizer, clip_norm=0.0)
    kinds = {k.ops: k for k in (keras_model.KerasTrainable, keras_model.SelectKeras)}
    if ops not in kinds:
        raise ValueError(f"ops must be one of {', '.join(kinds)}. Received: {ops!r}.")
    return kinds[ops](
        model, loss, optimizer, batch_size, targets, infer_batch_size, target
    )


class Trainable(module.Module):
    """A detector that learns through signatures."""

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
        target: str = manifest.ANY,
        together: int = 1,
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
          target: As `module.Module` takes it.
          together: How many images `train` and `evaluate` take at a time; one where
            they do not fill a batch.

        Raises:
          ValueError: If nothing is trained, a trained weight is not the network's, or
            there is no such target.
        """
        below: frozenset[str] = trunk.names if trunk else frozenset()
        strangers = sorted(set(trained) - network.names - below)
        if strangers or not trained:
            raise ValueError(
                "At least one weight must be trained, and each must be the network's. "
                f"Received: {len(trained)} to train, of them unknown: {strangers}."
            )
        super().__init__(weights, trained, settings, rates, target=target)
        self._network, self._trunk = network, trunk
        self._frozen_trunk = trunk is not None and not below & set(trained)
        self._class_weights = tuple(class_weights)
        self._images_together = together
        self._loss, self._predict = loss, predict

    # The signatures, each named for its key.

    def _train(self, tensors):
        return self._step(tensors["image"], tensors, below=self._inputs)

    def _train_features(self, tensors):
        return self._step(_features_in(tensors), tensors)

    def _train_classes(self, tensors):
        names = self._class_weights
        # The features have been through the trunk's: the other heads' are left.
        others = tuple(
            name
            for name in self._weights
            if name in self._network.names and name not in names
        )

        def losses_of(values, features, targets):
            named = dict(zip((*names, *others), values, strict=True))
            weights = {**self._constants(), **named}
            return self._losses_of(self._network(weights, features), targets)

        return self._step(_features_in(tensors), tensors, names, others, losses_of)

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
        values = self._values()

        def of_batch(losses_of, image, targets):
            return self._forward(losses_of, values, self._inputs(image), targets)

        shapes = [()] * len(contract.LOSSES)
        batch = tensors["image"], _targets(tensors)
        found = self._over_samples(of_batch, self._losses, *batch, shapes)
        return dict(zip(contract.LOSSES, found))

    # Parts of them.

    def _inputs(self, image):
        """What the weights have a say in: the image, or a frozen trunk's features."""
        return self._trunk_outputs([], image) if self._frozen_trunk else image

    def _trunk_outputs(self, values, image):
        assert self._trunk is not None
        # Keras gives a single feature bare.
        return tf.nest.flatten(self._trunk(self._all_weights(values), image))

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

    def _losses_of(self, outputs, targets):
        """The losses in the contract's order, the one to differentiate first."""
        found = self._loss(outputs, **targets)
        return tuple(found[name] for name in contract.LOSSES)

    def _step(
        self, inputs, tensors, names=(), others=(), losses_of=None, below=lambda x: x
    ):
        """Takes a step.

        Args:
          inputs: Tensors [B, ...].
          tensors: The targets and the learning rate, by name.
          names: Of the weights that train; none stands for all.
          others: Of weights that change between steps, but not in this one.
          losses_of: From the values of both, what `below` gives and the targets to the
            losses; the network's if it is not given.
          below: From the inputs to what is not differentiated.
        """
        values = self._values(names)
        left = self._values(others) if others else []

        def of_batch(losses_of, inputs, targets):
            given = below(inputs), targets
            found, gradients = self._differentiate(
                losses_of, values, *given, others=left
            )
            return *found, *gradients

        shapes = [()] * len(contract.LOSSES) + [value.shape for value in values]
        batch = inputs, _targets(tensors)
        losses_of = losses_of or self._losses
        found = self._over_samples(of_batch, losses_of, *batch, shapes)
        count = len(contract.LOSSES)
        rate = tensors["learning_rate"]
        norm = self._optimizer.apply(values, found[count:], rate, names)
        return {**dict(zip(contract.LOSSES, found)), contract.GRADIENT_NORM: norm}

    def _over_samples(self, of_batch, losses_of, inputs, targets, shapes):
        """What `of_batch` gives, whose losses and gradients are means over a batch.

        A few samples at a time, but as TensorFlow does it where its operators are
        selected.
        """
        weights = targets["sample_weights"]
        batch = weights.shape[0]
        # Of features one sample's: what is done to them is small.
        together = 1 if isinstance(inputs, list) else self._images_together
        if batch % together:
            together = 1
        if batch == together or self.ops == "select":
            return of_batch(losses_of, inputs, targets)

        def of_samples(samples):
            inputs, targets = samples
            share = tf.reduce_sum(targets["sample_weights"])

            def shared(*given):
                return tuple(loss * share for loss in losses_of(*given))

            return of_batch(shared, inputs, targets)

        shared = {**targets, "sample_weights": losses.shares(weights)}
        return sample_by_sample.summed(of_samples, (inputs, shared), shapes, together)


class SelectTrainable(select.Select, Trainable):
    """A detector whose file needs the Flex delegate."""


def _features_in(tensors):
    """The features that a step was given, in order."""
    return [t for n, t in tensors.items() if n.startswith("feature_")]


def _targets(tensors):
    """What the loss takes beside the outputs."""
    return {n: t for n, t in tensors.items() if n in contract.TARGETS}
