"""DepthwiseConv2dNative in two forms, of which each suits some runtimes.

"kernel" makes both gradients depthwise convolutions. That of the image convolves the
gradient of the output with the flipped filter, phase by phase where the window is
strided; that of the filter convolves the image with the gradient of the output as the
filter, dilated by the stride, the batch folded into the channels. The operator is never
delegated, as its filter is not a constant; still a step of a network like palm lite
takes 57 ms so and 90 ms by sums on ai-edge-litert 2.3, but 320 and 100 ms on
tflite-runtime 2.14, where its kernel is scalar (192x192, batch 1, one thread of an
AVX-512 machine).

"sum" makes everything a sum of shifted products.

TFLite's kernel never ends where there are more channels than its buffer holds, in any
of the runtimes: no more of the batch is folded into them than fits.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from signatures.gradients import rule, window

# kAccBufferMaxSize of tensorflow/lite/kernels/internal/optimized/depthwiseconv_float.h.
_MOST_CHANNELS = 4832


def depthwise(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """DepthwiseConv2dNative(image [B,H,W,C], filters [h,w,C,M]) -> [B,H',W',C*M].

    Raises:
      GradientError: If the layout is not NHWC.
    """
    image, filters = operation.inputs
    kernel = rule.static_shape(filters)
    (result,) = operation.emit()
    shape = rule.static_shape(image)
    over = window.window_of(operation, shape, kernel[:2], rule.static_shape(result))
    rows, columns = over.rows, over.columns
    plain = rows.dilation == columns.dilation == 1
    # Every runtime delegates a depthwise convolution whose filter is a constant.
    kernel_form = operation.depthwise == "kernel" or not operation.wanted[1]
    narrow = kernel[2] * kernel[3] <= _MOST_CHANNELS or not operation.wanted[1]
    form = _Kernel if plain and kernel_form and narrow else _Sum
    flat = tf.reshape(filters, [kernel[0] * kernel[1], kernel[2] * kernel[3]])
    padded = window.pad(_repeat(image, kernel[3]), over)
    if operation.wanted[1]:
        result = form.convolve(padded, flat, over)

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        if operation.wanted[0]:
            phases = form.image_gradient(gradient, flat, over)
            to_image = _unrepeat(window.merge(phases, over), kernel[3])
        if operation.wanted[1]:
            to_filters = form.filter_gradient(padded, gradient, over)
            to_filters = tf.reshape(to_filters, kernel)
        return to_image, to_filters

    return [result], backward


def _repeat(image: tf.Tensor, multiplier: int) -> tf.Tensor:
    """Repeats each channel: [B, H, W, C] -> [B, H, W, C * multiplier]."""
    if multiplier == 1:
        return image
    *outer, channels = rule.static_shape(image)
    split = tf.reshape(image, [-1, channels, 1])
    repeated = tf.tile(split, [1, 1, multiplier])
    return tf.reshape(repeated, [*outer, channels * multiplier])


def _unrepeat(image: tf.Tensor, multiplier: int) -> tf.Tensor:
    """The transpose of `_repeat`."""
    if multiplier == 1:
        return image
    *outer, channels = rule.static_shape(image)
    channels //= multiplier
    split = tf.reshape(image, [-1, channels, multiplier])
    return tf.reshape(tf.reduce_sum(split, axis=2), [*outer, channels])


class _Kernel:
    """Depthwise convolutions whose filters change from call to call."""

    @staticmethod
    def convolve(padded: tf.Tensor, flat: tf.Tensor, over: window.Window) -> tf.Tensor:
        """[B, H', W', C] from the padded image and the filter [h * w, C]."""
        rows, columns = over.rows, over.columns
        channels = rule.static_shape(flat)[1]
        filters = tf.reshape(flat, [rows.kernel, columns.kernel, channels, 1])
        strides = [1, rows.stride, columns.stride, 1]
        return tf.nn.depthwise_conv2d(padded, filters, strides, "VALID")

    @staticmethod
    def image_gradient(
        gradient: tf.Tensor, flat: tf.Tensor, over: window.Window
    ) -> dict:
        """The phases of the image from the gradient [B, H', W', C]."""
        rows, columns = over.rows, over.columns
        channels = rule.static_shape(flat)[1]
        phases = {}
        for a in rows.phases:
            for b in columns.phases:
                down, across = rows.taps(a), columns.taps(b)
                # Flipped by a choice of rows: tflite-runtime 2.14 computes a REVERSE_V2
                # over two axes wrongly.
                order = [
                    i * columns.kernel + j for i in down[::-1] for j in across[::-1]
                ]
                chosen = tf.reshape(
                    tf.gather(flat, order, axis=0),
                    [len(down), len(across), channels, 1],
                )
                edges = (rows.blocks - rows.out, columns.blocks - columns.out)
                padded = window.resize_edges(
                    gradient,
                    (len(down) - 1, edges[0]),
                    (len(across) - 1, edges[1]),
                )
                phases[a, b] = tf.nn.depthwise_conv2d(padded, chosen, [1] * 4, "VALID")
        return phases

    @staticmethod
    def filter_gradient(
        padded: tf.Tensor, gradient: tf.Tensor, over: window.Window
    ) -> tf.Tensor:
        """[h * w, C] from the padded image and the gradient [B, H', W', C]."""
        rows, columns = over.rows, over.columns
        channels = rule.static_shape(gradient)[3]
        most = max(1, _MOST_CHANNELS // channels)
        if over.batch > most:
            parts = [min(most, over.batch - i) for i in range(0, over.batch, most)]
            return _sum(
                _Kernel.filter_gradient(x, g, dataclasses.replace(over, batch=size))
                for x, g, size in zip(
                    tf.split(padded, parts), tf.split(gradient, parts), parts
                )
            )
        kernel = _fold(gradient)
        kernel = tf.reshape(kernel, [*rule.static_shape(kernel)[1:], 1])
        read = [(axis.out - 1) * axis.stride + axis.kernel for axis in (rows, columns)]
        image = _fold(window.cut(padded, (0, read[0]), (0, read[1])))
        strides = [rows.stride, columns.stride]
        product = tf.nn.depthwise_conv2d(
            image, kernel, [1] * 4, "VALID", dilations=strides
        )
        if over.batch > 1:
            product = tf.reshape(product, [len(over.taps), over.batch, channels])
            product = tf.reduce_sum(product, axis=1)
        return tf.reshape(product, [len(over.taps), channels])


def _fold(image: tf.Tensor) -> tf.Tensor:
    """[B, H, W, C] -> [1, H, W, B * C]."""
    batch, height, width, channels = rule.static_shape(image)
    if batch > 1:
        image = tf.transpose(image, [1, 2, 0, 3])
    return tf.reshape(image, [1, height, width, batch * channels])


class _Sum:
    """Sums of shifted products: what all taps of a column share is cut out once."""

    @staticmethod
    def convolve(padded: tf.Tensor, flat: tf.Tensor, over: window.Window) -> tf.Tensor:
        """[B, H', W', C] from the padded image and the filter [h * w, C]."""
        rows, columns = over.rows, over.columns
        shifted = _shifted(padded, over)
        lines = []
        for i in range(rows.kernel):
            a, block = rows.place(i)
            line = _sum(
                shifted[a, j] * _tap(flat, over, i, j) for j in range(columns.kernel)
            )
            lines.append(window.cut(line, (block, rows.out), (0, None)))
        return _sum(lines)

    @staticmethod
    def image_gradient(
        gradient: tf.Tensor, flat: tf.Tensor, over: window.Window
    ) -> dict:
        """The phases of the image from the gradient [B, H', W', C]."""
        rows, columns = over.rows, over.columns
        spread = window.spread(gradient, over)
        last = columns.reach - 1
        shifted = {
            block: window.cut(spread, (0, None), (last - block, columns.blocks))
            for block in {columns.place(j)[1] for j in range(columns.kernel)}
        }
        phases = {}
        for a in rows.phases:
            for b in columns.phases:
                lines = []
                for i in rows.taps(a):
                    line = _sum(
                        shifted[columns.place(j)[1]] * _tap(flat, over, i, j)
                        for j in columns.taps(b)
                    )
                    first = rows.reach - 1 - rows.place(i)[1]
                    lines.append(window.cut(line, (first, rows.blocks), (0, None)))
                phases[a, b] = _sum(lines)
        return phases

    @staticmethod
    def filter_gradient(
        padded: tf.Tensor, gradient: tf.Tensor, over: window.Window
    ) -> tf.Tensor:
        """[h * w, C] from the padded image and the gradient [B, H', W', C]."""
        rows = over.rows
        shifted = _shifted(padded, over)
        moved = {
            block: window.resize_edges(
                gradient, (block, rows.reach - 1 - block), (0, 0)
            )
            for block in {rows.place(i)[1] for i in range(rows.kernel)}
        }
        products = []
        for i, j in over.taps:
            a, block = rows.place(i)
            products.append(rule.sum_over(shifted[a, j] * moved[block], (0, 1, 2)))
        return tf.stack(products)


def _shifted(padded: tf.Tensor, over: window.Window) -> dict:
    """For each phase a of the rows and tap j of the columns what the taps read."""
    rows, columns = over.rows, over.columns
    phases = window.split(padded, over)
    found = {}
    for j in range(columns.kernel):
        b, block = columns.place(j)
        for a in rows.phases:
            found[a, j] = window.cut(phases[a, b], (0, None), (block, columns.out))
    return found


def _tap(flat: tf.Tensor, over: window.Window, i: int, j: int) -> tf.Tensor:
    channels = rule.static_shape(flat)[1]
    return tf.slice(flat, [i * over.columns.kernel + j, 0], [1, channels])


def _sum(terms) -> tf.Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


RULES: dict[str, rule.Rule] = {"DepthwiseConv2dNative": depthwise}
