"""DepthwiseConv2dNative: both gradients as depthwise convolutions.

The gradient of the image convolves the gradient of the output with the flipped filter,
phase by phase where the window is strided. The gradient of the filter convolves the
image with the gradient of the output as the filter, the batch folded into the channels.
"""

from __future__ import annotations

import tensorflow as tf

from signatures.gradients import rule, window


def depthwise(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """DepthwiseConv2dNative(image [B,H,W,C], filters [h,w,C,M]) -> [B,H',W',C*M].

    Raises:
      GradientError: If the layout is not NHWC, or the window is dilated.
    """
    image, filters = operation.inputs
    height, width, channels, multiplier = rule.static_shape(filters)
    (result,) = operation.emit()
    out = rule.static_shape(result)
    over = window.window_of(operation, rule.static_shape(image), (height, width), out)
    if over.rows.dilation != 1 or over.columns.dilation != 1:
        raise operation.refuse("no dilation", operation.attributes["dilations"])

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        flat = tf.reshape(filters, [height * width, channels * multiplier])
        if operation.wanted[0]:
            repeated = _input_gradient(gradient, flat, over)
            to_image = repeated
            if multiplier > 1:
                split = tf.reshape(repeated, [-1, channels, multiplier])
                to_image = tf.reshape(
                    tf.reduce_sum(split, axis=2), rule.static_shape(image)
                )
        if operation.wanted[1]:
            source = image
            if multiplier > 1:
                split = tf.reshape(image, [-1, channels, 1])
                source = tf.reshape(
                    tf.tile(split, [1, 1, multiplier]),
                    [*rule.static_shape(image)[:3], channels * multiplier],
                )
            to_filters = tf.reshape(
                _filter_gradient(source, gradient, over), rule.static_shape(filters)
            )
        return to_image, to_filters

    return [result], backward


def _input_gradient(
    gradient: tf.Tensor, flat: tf.Tensor, over: window.Window
) -> tf.Tensor:
    """[B, H, W, C] from the gradient [B, H', W', C] and the filter [h * w, C]."""
    rows, columns = over.rows, over.columns
    channels = rule.static_shape(flat)[1]
    phases = {}
    for a in rows.phases:
        for b in columns.phases:
            down, across = rows.taps(a), columns.taps(b)
            # Flipped by a choice of rows: tflite-runtime 2.14 computes a REVERSE_V2
            # over two axes wrongly.
            order = [i * columns.kernel + j for i in down[::-1] for j in across[::-1]]
            chosen = tf.reshape(
                tf.gather(flat, order, axis=0), [len(down), len(across), channels, 1]
            )
            edges = (rows.blocks - rows.out, columns.blocks - columns.out)
            padded = window.resize_edges(
                gradient,
                (len(down) - 1, edges[0]),
                (len(across) - 1, edges[1]),
            )
            phases[a, b] = tf.nn.depthwise_conv2d(padded, chosen, [1] * 4, "VALID")
    return window.merge(phases, over)


def _filter_gradient(
    image: tf.Tensor, gradient: tf.Tensor, over: window.Window
) -> tf.Tensor:
    """[h, w, C] from the image [B, H, W, C] and the gradient [B, H', W', C]."""
    rows, columns = over.rows, over.columns
    channels = rule.static_shape(image)[3]
    kernel = _fold(gradient)
    kernel = tf.reshape(kernel, [*rule.static_shape(kernel)[1:], 1])
    found = {}
    for (a, b), phase in window.split(image, over).items():
        down, across = len(rows.taps(a)), len(columns.taps(b))
        used = window.resize_edges(
            phase,
            (0, rows.out - 1 + down - rows.blocks),
            (0, columns.out - 1 + across - columns.blocks),
        )
        product = tf.nn.depthwise_conv2d(_fold(used), kernel, [1] * 4, "VALID")
        product = tf.reshape(product, [down * across, over.batch, channels])
        if over.batch > 1:
            product = tf.reduce_sum(product, axis=1)
        found[a, b] = tf.reshape(product, [down * across, channels])
    if len(found) == 1:
        (flat,) = found.values()
    else:
        order = [
            (i, j)
            for a, b in found
            for i in rows.taps(a)
            for j in columns.taps(b)
        ]
        back = [order.index(tap) for tap in over.taps]
        flat = tf.gather(window.concat(list(found.values()), 0), back, axis=0)
    return tf.reshape(flat, [rows.kernel, columns.kernel, channels])


def _fold(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [1, H, W, B * C]."""
    batch, height, width, channels = rule.static_shape(image)
    if batch > 1:
        image = tf.transpose(image, [1, 2, 0, 3])
    return tf.reshape(image, [1, height, width, batch * channels])


RULES: dict[str, rule.Rule] = {"DepthwiseConv2dNative": depthwise}
