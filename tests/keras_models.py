"""Small Keras models with the layers that people use, and data to train each on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

L = keras.layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and its loss.

    Attributes:
      build: Makes the model.
      loss: As `trainable.of_keras` takes it.
      keras_loss: The same as Keras has it, by output.
      classes: Of integer targets; 0 where targets are of the output's shape.
      vocabulary: Of integer inputs.
    """

    build: Callable[[], keras.Model]
    loss: Any = "sparse_softmax_cross_entropy"
    keras_loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classes: int = 3
    vocabulary: int = 0


def overview() -> keras.Model:
    """The network of TensorFlow's on-device training overview."""
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            L.Flatten(),
            L.Dense(128, activation="relu"),
            L.Dense(10),
        ]
    )


def batch_norm() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((10, 10, 2)),
            L.Conv2D(6, 3, use_bias=False),
            L.BatchNormalization(momentum=0.9),
            L.ReLU(),
            L.DepthwiseConv2D(3, padding="same"),
            L.BatchNormalization(scale=False, epsilon=1e-2),
            L.ReLU(max_value=6.0),
            L.GlobalAveragePooling2D(),
            L.Dense(8),
            L.BatchNormalization(center=False),
            L.Dense(3),
        ]
    )


def dropout() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(6, 3, activation="tanh"),
            L.SpatialDropout2D(0.25),
            L.BatchNormalization(),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(16, activation="tanh"),
            L.Dropout(0.1),
            L.Dense(3),
        ]
    )


def squeeze_and_excite() -> keras.Model:
    image = keras.Input((12, 12, 3))
    x = L.Rescaling(1 / 2.0, offset=-0.5)(image)
    x = L.SeparableConv2D(8, 3, padding="same", activation="hard_silu")(x)
    gate = L.GlobalAveragePooling2D(keepdims=True)(x)
    gate = L.Conv2D(4, 1, activation="silu")(gate)
    gate = L.Conv2D(8, 1, activation="sigmoid")(gate)
    y = L.Add()([x, L.Multiply()([x, gate])])
    y = L.AveragePooling2D(3, 2, padding="same")(y)
    y = L.LayerNormalization()(y)
    y = L.Flatten()(L.LeakyReLU(0.2)(y))
    return keras.Model(image, L.Dense(3)(y))


def decoder() -> keras.Model:
    image = keras.Input((8, 8, 2))
    x = L.ZeroPadding2D(1)(image)
    x = L.Conv2D(4, 3, strides=2, activation="elu")(x)
    deep = L.Conv2D(6, 3, padding="same", dilation_rate=2, activation="gelu")(x)
    up = L.UpSampling2D(interpolation="bilinear")(deep)
    other = L.Conv2DTranspose(3, 3, strides=2, padding="same")(x)
    joined = L.Concatenate()([up, L.UpSampling2D()(x), L.Activation("softsign")(other)])
    return keras.Model(image, L.Cropping2D(1)(L.Conv2D(2, 3, padding="same")(joined)))


def attention() -> keras.Model:
    tokens = keras.Input((7,), dtype="int32")
    x = Positions()(L.Embedding(11, 8)(tokens))
    x = L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)])
    x = L.LayerNormalization()(x)
    y = L.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d")(x)
    x = L.Average()([x, L.Activation("gelu")(y)])
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def groups() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((9, 9, 4)),
            L.Conv2D(8, 3, groups=2),
            L.GroupNormalization(4),
            L.Activation("mish"),
            L.MaxPooling2D(),
            L.Permute((3, 1, 2)),
            L.Reshape((8, -1)),
            L.Conv1D(5, 3, padding="causal"),
            L.BatchNormalization(),
            L.Activation("selu"),
            L.MaxPooling1D(),
            L.PReLU(),
            L.GlobalMaxPooling1D(),
            L.UnitNormalization(),
            L.Dense(3, kernel_regularizer="l2", activation="celu"),
        ]
    )


def nested() -> keras.Model:
    """A base whose BatchNorm is frozen, as people fine-tune, inside another model."""
    image = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, name="inner_convolution")(image)
    frozen = L.BatchNormalization(name="inner_norm")
    x = L.ReLU(6.0)(frozen(x))
    base = keras.Model(image, x, name="base")
    frozen.trainable = False
    stem = L.Conv2D(3, 3, padding="same", activation="relu")
    stem.trainable = False
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]),
            stem,
            base,
            L.GlobalAveragePooling2D(),
            L.Dense(3),
        ]
    )


def branches() -> keras.Model:
    """Two inputs, two outputs."""
    image, number = keras.Input((6, 6, 2), name="image"), keras.Input((4,), name="row")
    x = L.Flatten()(L.Conv2D(3, 3, activation="relu")(image))
    y = L.Dense(5, activation="softplus")(number)
    both = L.Concatenate()([x, y])
    classes = L.Dense(3, activation="softmax", name="classes")(both)
    value = L.Dense(2, name="value")(L.Maximum()([y, L.Dense(5)(x)]))
    return keras.Model([image, number], [classes, value])


def shared_scale() -> keras.Model:
    """A BatchNorm that two convolutions read."""
    image = keras.Input((7, 7, 3))
    x = L.BatchNormalization(momentum=0.9)(image)
    both = L.Concatenate()([L.Conv2D(4, 3)(x), L.Conv2D(2, 3)(x)])
    return keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(both)))


def recurrent() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            L.Bidirectional(L.LSTM(4, return_sequences=True)),
            L.GRU(4),
            L.Dense(2),
        ]
    )


class Positions(L.Layer):
    """Adds a trained row for each place."""

    def build(self, shape):
        self.table = L.Embedding(*shape[1:], name="table")
        self.table.build(())

    def call(self, x):
        return x + self.table(keras.ops.arange(x.shape[1]))


def mobilenet(side: int = 96, alpha: float = 1.0) -> keras.Model:
    return keras.applications.MobileNetV2(
        (side, side, 3), alpha, weights=None, classes=3, classifier_activation=None
    )


_SQUARES = {
    "loss": "mean_squared_error",
    "keras_loss": keras.losses.MeanSquaredError(),
    "classes": 0,
}
CASES = {
    "overview": Case(overview, classes=10),
    "batch_norm": Case(batch_norm),
    "squeeze_and_excite": Case(squeeze_and_excite),
    "decoder": Case(decoder, **_SQUARES),
    "attention": Case(attention, vocabulary=11),
    "groups": Case(groups),
    "nested": Case(nested),
    "shared_scale": Case(shared_scale),
    "branches": Case(
        branches,
        loss={
            "classes": keras.losses.SparseCategoricalCrossentropy(),
            "value": "mean_absolute_error",
        },
        keras_loss=[
            keras.losses.SparseCategoricalCrossentropy(),
            keras.losses.MeanAbsoluteError(),
        ],
    ),
    "recurrent": Case(recurrent, **_SQUARES),
}


def batch(case: Case, specs: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs and targets of a signature's specs, but for weights and rate."""
    rng = np.random.default_rng(seed)
    found = {}
    for spec in specs:
        if spec.name in ("learning_rate", "sample_weights", "seed"):
            continue
        if spec.dtype == "int32":
            most = case.classes if spec.name.startswith("y") else case.vocabulary
            found[spec.name] = rng.integers(0, most, spec.shape).astype(np.int32)
        else:
            found[spec.name] = rng.normal(size=spec.shape).astype(np.float32)
    return found
