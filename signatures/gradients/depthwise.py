"""DepthwiseConv2dNative, both gradients as depthwise convolutions or sums of products.

That of the image convolves the gradient of the output with the flipped filter, phase by
phase where the window is strided; that of the filter convolves each image with the
gradient of its output as the filter, dilated by the stride. The operator is never
delegated, as its filter is not a constant, and in tflite-runtime 2.14 its kernel is
scalar: with that target everything is a sum of products, by `planes`, or by `shifted`
where a step has a large image: XNNPACK keeps an address for each tap of each cell of a
constant filter's convolution, which then takes more memory than the operators that it
saves. So is it where there are more channels than the kernel's buffer holds, since then
it never ends, in any of the runtimes.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from checkpoints import manifest
from signatures.gradients import planes, rule, shifted, window

# kAccBufferMaxSize of tensorflow/lite/kernels/internal/optimized/depthwiseconv_float.h.
_MOST_CHANNELS = 4832
# Cells of a large image: 25 addresses of each take .4 MB, the 50 operators that
# `shifted` has more than `planes` .25 MB in tflite-runtime 2.14.
_MANY_CELLS = 2_000


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
    quick = operation.target != manifest.TFLITE_RUNTIME
    narrow = kernel[2] * kernel[3] <= _MOST_CHANNELS
    sums = not plain or operation.wanted[1] and not (quick and narrow)
    large = operation.differentiated and rows.out * columns.out > _MANY_CELLS
    slow = shifted if large else planes
    flat = tf.reshape(filters, [kernel[0] * kernel[1], kernel[2] * kernel[3]])
    repeated = _repeat(image, kernel[3])
    padded = (window.pad if sums else window.pad_read)(repeated, over)
    if operation.wanted[1]:
        convolve = slow.convolve if sums else _Kernel.convolve
        result = convolve(padded, flat, over)

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        if sums:
            to_image, to_filters = slow.gradients(
                repeated, gradient, flat, over, operation.wanted
            )
        else:
            if operation.wanted[0]:
                to_image = _Kernel.image_gradient(gradient, flat, over)
            if operation.wanted[1]:
                to_filters = _Kernel.filter_gradient(padded, gradient, over)
        if operation.wanted[0]:
            to_image = _unrepeat(to_image, kernel[3])
        if operation.wanted[1]:
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
    ) -> tf.Tensor:
        """[B, H, W, C] from the gradient [B, H', W', C]."""
        phases = {}
        for a in range(over.rows.stride):
            for b in range(over.columns.stride):
                down, across = over.rows.readers(a), over.columns.readers(b)
                if down and across:
                    phases[a, b] = _Kernel._phase(gradient, flat, over, down, across)
        return window.merge(phases, over.grid)

    @staticmethod
    def _phase(
        gradient: tf.Tensor,
        flat: tf.Tensor,
        over: window.Window,
        down: Sequence[tuple[int, int]],
        across: Sequence[tuple[int, int]],
    ) -> tf.Tensor:
        """The cells of an image's gradient that certain (tap, shift) read."""
        filters = _flipped(flat, over, [t for t, _ in down], [t for t, _ in across])
        edges, same = [], True
        for axis, readers in ((over.rows, down), (over.columns, across)):
            shifts = [shift for _, shift in readers]
            before = -min(shifts)
            edges.append((before, max(shifts) + axis.grid.out - axis.out))
            same &= axis.grid.out == axis.out and before == (len(shifts) - 1) // 2
        if same:  # The operator pads so by itself, without a copy.
            return tf.nn.depthwise_conv2d(gradient, filters, [1] * 4, "SAME")
        padded = window.resize_edges(gradient, edges[0], edges[1])
        return tf.nn.depthwise_conv2d(padded, filters, [1] * 4, "VALID")

    @staticmethod
    def filter_gradient(
        padded: tf.Tensor, gradient: tf.Tensor, over: window.Window
    ) -> tf.Tensor:
        """[h * w, C] from the padded image and the gradient [B, H', W', C]."""
        strides = [over.rows.stride, over.columns.stride]
        total = None
        for place in range(over.batch):
            image, kernel = _sample(padded, place), _sample(gradient, place)
            kernel = tf.reshape(kernel, [*rule.static_shape(kernel)[1:], 1])
            product = tf.nn.depthwise_conv2d(
                image, kernel, [1] * 4, "VALID", dilations=strides
            )
            total = rule.plus(total, product)
        assert total is not None
        return tf.reshape(total, [len(over.taps), rule.static_shape(gradient)[3]])


def _flipped(
    flat: tf.Tensor, over: window.Window, down: Sequence[int], across: Sequence[int]
) -> tf.Tensor:
    """Taps of a filter [h * w, C], the last first: [len(down), len(across), C, 1].

    Flipped by a choice of rows: tflite-runtime 2.14 computes a REVERSE_V2 over two axes
    wrongly.
    """
    order = [i * over.columns.kernel + j for i in down[::-1] for j in across[::-1]]
    channels = rule.static_shape(flat)[1]
    chosen = tf.gather(flat, order, axis=0)
    return tf.reshape(chosen, [len(down), len(across), channels, 1])


def _sample(images: tf.Tensor, place: int) -> tf.Tensor:
    """[B, H, W, C] -> [1, H, W, C]; by slices, which are delegated at every size."""
    batch, *shape = rule.static_shape(images)
    if batch == 1:
        return images
    return tf.slice(images, [place, 0, 0, 0], [1, *shape])


RULES: dict[str, rule.Rule] = {"DepthwiseConv2dNative": depthwise}
