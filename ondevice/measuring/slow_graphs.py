"""Networks as slow routes leave them, to measure what each costs (the build side).

Nothing here is meant to be used: it reproduces how a palm detector with K class heads
may have been made that is slow. Its heads are linear, one convolution of K times the
width on each grid, as somebody makes them who changes the last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from checkpoints import manifest as manifests
from checkpoints import patch
from ondevice import convert, vendor
from ondevice.measuring import slow_ways
from ondevice.rebuild import network, specs, topology
from signatures import stateless

# A class that never fires has this logit everywhere.
_NEVER = -20.0
_NHWC_TO_NCHW, _NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def head_weights(
    ported: Mapping[str, np.ndarray],
    layers: tuple[topology.Layer, ...],
    classes: int,
    trained: bool,
) -> dict[str, np.ndarray]:
    """Every weight of a network with plain heads.

    Args:
      ported: Of the one-class network.
      layers: The network.
      classes: K.
      trained: Class 0 fires where the palm does and no other ever, as trained heads do;
        otherwise they are as Keras starts them (Glorot's kernels, no bias), which is
        what heads are whose weights nobody has transferred.

    Returns:
      `<layer>/<attribute>` -> float32 array.
    """
    random = np.random.default_rng(0)
    found = dict(ported)
    heads = {x.name for x in layers if x.group == topology.SCORE_HEAD}
    for name, shape in topology.variables(layers).items():
        layer, attribute = name.split("/")
        if layer not in heads:
            continue
        if trained:
            fill = _NEVER if attribute == "bias" else 0.0
            values = np.full((*ported[name].shape, classes), fill, np.float32)
            values[..., 0] = ported[name]
            found[name] = values.reshape(shape)
        elif attribute == "kernel":
            limit = (6 / sum(shape[-2:])) ** 0.5
            found[name] = random.uniform(-limit, limit, shape).astype(np.float32)
        else:
            found[name] = np.zeros(shape, np.float32)
    return found


def frozen(ported: vendor.Ported, graph: slow_ways.Graph) -> bytes:
    """A frozen .tflite of the network with linear heads.

    Args:
      ported: The vendor's detector.
      graph: Its form is `STATIC`; `DYNAMIC`, as `from_keras_model` leaves a Keras
        model; or `TRANSPOSED`, as onnx-tf leaves a PyTorch one: tensors lie channels
        first, and each operator that needs them last has a TRANSPOSE on both sides.
    """
    spec = ported.found.spec
    layers = topology.draw(spec, graph.classes, manifests.PLAIN)
    weights = head_weights(ported.weights, layers, graph.classes, graph.trained)
    batch = None if graph.form == slow_ways.DYNAMIC else 1
    shape = (batch, spec.input_size, spec.input_size, 3)
    data, constants = convert.inference(
        _function(layers, spec, graph.form),
        [tf.TensorSpec(shape, name=spec.input_name)],
        weights,
        spec.outputs,
    )
    return patch.patch(
        data,
        {
            c.buffer: weights[c.variable].transpose(c.permutation).reshape(c.shape)
            for c in constants
        },
    )


def _function(
    layers: tuple[topology.Layer, ...], spec: specs.DetectorSpec, form: str
) -> Callable:
    if form == slow_ways.TRANSPOSED:
        return lambda weights, image: _channels_first(layers, weights, image)
    model = stateless.Stateless(network.build(layers, spec.name))

    def call(weights, image):
        outputs = model(weights, image)
        return outputs[topology.REGRESSORS], outputs[topology.SCORES]

    return call


def _channels_first(
    layers: tuple[topology.Layer, ...], weights: Mapping[str, tf.Tensor], image
) -> tuple[tf.Tensor, tf.Tensor]:
    """Runs the network on tensors that lie channels first between its operators."""
    found: dict[str, tf.Tensor] = {}
    for layer in layers:
        read = [found[name] for name in layer.inputs]
        if layer.kind == "input":
            found[layer.name] = tf.transpose(image, _NHWC_TO_NCHW)
        elif layer.kind == "add":
            found[layer.name] = read[0] + read[1]
        elif layer.kind == "prelu":
            alpha = tf.transpose(weights[f"{layer.name}/alpha"], (2, 0, 1))
            negative = tf.minimum(read[0], 0.0)
            found[layer.name] = tf.nn.relu(read[0]) + alpha * negative
        elif layer.kind == "relu":
            found[layer.name] = tf.nn.relu(read[0])
        elif layer.kind == "channel_pad":
            more = layer.shape[2] - read[0].shape[1]
            found[layer.name] = tf.pad(read[0], ((0, 0), (0, more), (0, 0), (0, 0)))
        elif layer.kind == "concat":
            found[layer.name] = tf.concat(read, axis=1)
        else:
            last = _channels_last(layer, weights, tf.transpose(read[0], _NCHW_TO_NHWC))
            if layer.kind != "reshape":
                last = tf.transpose(last, _NHWC_TO_NCHW)
            found[layer.name] = last
    return found[topology.REGRESSORS], found[topology.SCORES]


def _channels_last(layer: topology.Layer, weights: Mapping[str, tf.Tensor], x):
    """An operator that TensorFlow has for channels last alone, on a CPU."""
    if layer.kind == "conv":
        y = tf.nn.conv2d(x, weights[f"{layer.name}/kernel"], layer.stride, "SAME")
        return y + weights[f"{layer.name}/bias"]
    if layer.kind == "depthwise":
        strides = (1, layer.stride, layer.stride, 1)
        kernel = weights[f"{layer.name}/kernel"]
        return tf.nn.depthwise_conv2d(x, kernel, strides, "SAME")
    if layer.kind == "transpose_conv":
        kernel, shape = weights[f"{layer.name}/kernel"], (1, *layer.shape)
        y = tf.nn.conv2d_transpose(x, kernel, shape, layer.stride)
        return y + weights[f"{layer.name}/bias"]
    if layer.kind == "max_pool":
        return tf.nn.max_pool2d(x, layer.kernel, layer.stride, "SAME")
    if layer.kind == "upsample":
        return tf.image.resize(x, layer.shape[:2])
    assert layer.kind == "reshape", layer.kind
    return tf.reshape(x, (1, *layer.shape))
