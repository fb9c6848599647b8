"""Layers -> Keras model: the network with variables that can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ondevice.rebuild import topology
from signatures import stateless


@keras.saving.register_keras_serializable("ondevice")
class ChannelPadding(keras.layers.Layer):
    """Appends zero channels after those there are, up to `channels` in all."""

    def __init__(self, channels: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def call(self, inputs):
        missing = self.channels - inputs.shape[-1]
        return keras.ops.pad(inputs, ((0, 0), (0, 0), (0, 0), (0, missing)))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable("ondevice")
class DepthToSpace(keras.layers.Layer):
    """Lays channels out as squares of cells: [B, H, W, s s C] -> [B, s H, s W, C]."""

    def __init__(self, side: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, inputs):
        return tf.nn.depth_to_space(inputs, self.side)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        s = self.side
        return (batch, height * s, width * s, channels // s**2)

    def get_config(self):
        return {**super().get_config(), "side": self.side}


def _keras_layer(layer: topology.Layer) -> keras.layers.Layer:
    """The Keras layer that a node stands for."""
    window = {
        "kernel_size": layer.kernel,
        "strides": layer.stride,
        "padding": layer.padding,
    }
    if layer.kind == "conv":
        return keras.layers.Conv2D(layer.shape[2], name=layer.name, **window)
    if layer.kind == "depthwise":
        # Where there is none the vendor's is zero; porting checks it.
        return keras.layers.DepthwiseConv2D(
            use_bias=layer.bias, name=layer.name, **window
        )
    if layer.kind == "transpose_conv":
        return keras.layers.Conv2DTranspose(layer.shape[2], name=layer.name, **window)
    if layer.kind == "prelu":
        return keras.layers.PReLU(shared_axes=[1, 2], name=layer.name)
    if layer.kind == "relu":
        return keras.layers.ReLU(name=layer.name)
    if layer.kind == "add":
        return keras.layers.Add(name=layer.name)
    if layer.kind == "max_pool":
        return keras.layers.MaxPooling2D(
            layer.kernel, layer.stride, padding="same", name=layer.name
        )
    if layer.kind == "channel_pad":
        return ChannelPadding(layer.shape[2], name=layer.name)
    if layer.kind == "spatial_pad":
        return keras.layers.ZeroPadding2D(layer.kernel, name=layer.name)
    if layer.kind == "depth_to_space":
        return DepthToSpace(layer.kernel, name=layer.name)
    if layer.kind == "upsample":
        # Half-pixel centres, as RESIZE_BILINEAR in the vendor's files.
        return keras.layers.UpSampling2D(2, interpolation="bilinear", name=layer.name)
    if layer.kind == "reshape":
        return keras.layers.Reshape(layer.shape, name=layer.name)
    if layer.kind == "concat":
        return keras.layers.Concatenate(axis=1, name=layer.name)
    raise ValueError(f"No Keras layer is known for the kind {layer.kind!r}.")


def build(
    layers: tuple[topology.Layer, ...], name: str, features: Sequence[str] = ()
) -> keras.Model:
    """Draws the Keras model.

    Args:
      layers: A network, or a part of one that begins with its inputs.
      name: Of the model.
      features: Layers to give out, as a list; none stands for the outputs.

    Returns:
      A model from the inputs (`image` [batch, S, S, 3] float32) to the features, or to
      a dict of outputs: `regressors` [batch, N, C], `scores` [batch, N, 1] and, with
      more than one class, `class_logits` [batch, N, K].
    """
    tensors, inputs = {}, []
    for layer in layers:
        if layer.kind == "input":
            tensors[layer.name] = keras.Input(layer.shape, name=layer.name)
            inputs.append(tensors[layer.name])
            continue
        read = [tensors[i] for i in layer.inputs]
        tensors[layer.name] = _keras_layer(layer)(read if len(read) > 1 else read[0])
    outputs: Any = [tensors[feature] for feature in features]
    if not features:
        used = {i for layer in layers for i in layer.inputs}
        outputs = {x.name: tensors[x.name] for x in layers if x.name not in used}
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name=name)


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Sets every variable of the model, each once.

    Args:
      model: The model to change.
      weights: `<layer>/<attribute>` -> float32 array in Keras' layout.

    Raises:
      ValueError: If a name is missing, surplus or misshapen; nothing is set then.
    """
    named = stateless.named_variables(model)
    faults = [f"no weight for {name}" for name in sorted(named.keys() - weights.keys())]
    faults += [f"no variable {name}" for name in sorted(weights.keys() - named.keys())]
    faults += [
        f"{name} must have shape {tuple(named[name].shape)}, not {weights[name].shape}"
        for name in sorted(named.keys() & weights.keys())
        if tuple(named[name].shape) != weights[name].shape
    ]
    if faults:
        raise ValueError(
            "The weights must set every variable of the model once. "
            f"Received: {'; '.join(faults)}."
        )
    for name, variable in named.items():
        variable.assign(weights[name])
