"""Conv2D and its transpose as matrix products.

A window is unrolled into the columns of a matrix (im2col), so that the convolution and
both of its gradients are one product each. Weights are reshaped to [1, in, out]: a
product of rank 3 stays a BATCH_MATMUL, which delegates take, where one of rank 2 would
become a FULLY_CONNECTED with a dynamic filter, which they do not.
"""

from __future__ import annotations

import tensorflow as tf

from signatures.gradients import rule, window


def conv2d(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Conv2D(image [B,H,W,I], filters [h,w,I,O]) -> [B,H',W',O], any stride, padding.

    Raises:
      GradientError: If the layout is not NHWC, or the convolution is in groups.
    """
    image, filters = operation.inputs
    kernel = rule.static_shape(filters)
    if rule.static_shape(image)[3] != kernel[2]:
        raise operation.refuse("filters over all channels", f"filters {kernel}")
    out = rule.static_shape(operation.emit()[0])
    over = window.window_of(operation, rule.static_shape(image), kernel[:2], out)
    if operation.wanted[1]:
        columns = _columns(image, over)
        result = tf.reshape(_product(columns, _matrix(filters)), out)
    else:
        (result,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        if operation.wanted[0]:
            to_image = input_gradient(gradient, filters, over)
        if operation.wanted[1]:
            to_filters = _filter_gradient(columns, gradient, kernel)
        return to_image, to_filters

    return [result], backward


def conv2d_transpose(
    operation: rule.Operation,
) -> tuple[list[tf.Tensor], rule.Backward]:
    """Conv2DBackpropInput(sizes, filters [h,w,O,I], image [B,H,W,I]) -> [B,H',W',O]."""
    sizes, filters, image = operation.inputs
    kernel = rule.static_shape(filters)
    out = tuple(int(size) for size in operation.constant(0))
    if len(out) == 2:  # height and width alone
        out = (rule.static_shape(image)[0], *out, kernel[2])
    over = window.window_of(operation, out, kernel[:2], rule.static_shape(image))
    if operation.wanted[1]:
        result = input_gradient(image, filters, over)
    else:
        (result,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        columns = _columns(gradient, over)
        if operation.wanted[2]:
            to_image = tf.reshape(
                _product(columns, _matrix(filters)), rule.static_shape(image)
            )
        if operation.wanted[1]:
            to_filters = _filter_gradient(columns, image, kernel)
        return None, to_filters, to_image

    return [result], backward


def input_gradient(
    gradient: tf.Tensor, filters: tf.Tensor, over: window.Window
) -> tf.Tensor:
    """The gradient of a convolution's image, phase by phase one matrix product.

    Args:
      gradient: [B, H', W', O].
      filters: [h, w, I, O].
      over: The window over the image.

    Returns:
      [B, H, W, I].
    """
    height, width, inputs, outputs = rule.static_shape(filters)
    if height == width == 1 and over.rows.stride == over.columns.stride == 1:
        plain = _product(_flat(gradient), _matrix(filters), transposed=True)
        shape = (*rule.static_shape(gradient)[:3], inputs)
        return window.merge({(0, 0): tf.reshape(plain, shape)}, over)
    turned = tf.reshape(
        tf.transpose(tf.reshape(filters, [-1, inputs, outputs]), [0, 2, 1]),
        [height * width, outputs * inputs],
    )
    spreaded = window.spread(gradient, over)
    phases = {}
    for a in over.rows.phases:
        for b in over.columns.phases:
            taps = [(i, j) for i in over.rows.taps(a) for j in over.columns.taps(b)]
            columns = window.concat(
                [window.tap_of_gradient(spreaded, over, tap) for tap in taps], 3
            )
            chosen = tf.reshape(
                _rows(turned, [i * width + j for i, j in taps]),
                [1, len(taps) * outputs, inputs],
            )
            phases[a, b] = tf.reshape(
                _product(_flat(columns), chosen),
                [over.batch, over.rows.blocks, over.columns.blocks, inputs],
            )
    return window.merge(phases, over)


def _columns(image: tf.Tensor, over: window.Window) -> tf.Tensor:
    """Every window as a row: [1, B * H' * W', h * w * I]."""
    phases = window.split(image, over)
    return _flat(
        window.concat([window.tap_slice(phases, over, tap) for tap in over.taps], 3)
    )


def _filter_gradient(
    columns: tf.Tensor, gradient: tf.Tensor, kernel: tuple[int, ...]
) -> tf.Tensor:
    """[h, w, I, O]; whichever operand is smaller is transposed."""
    flat = _flat(gradient)
    if rule.static_shape(columns)[2] <= kernel[3]:
        product = tf.matmul(tf.transpose(columns, [0, 2, 1]), flat)
    else:
        product = tf.matmul(tf.transpose(flat, [0, 2, 1]), columns)
        product = tf.transpose(product, [0, 2, 1])
    return tf.reshape(product, kernel)


def _rows(matrix: tf.Tensor, chosen: list[int]) -> tf.Tensor:
    if chosen == list(range(rule.static_shape(matrix)[0])):
        return matrix
    return tf.gather(matrix, chosen, axis=0)


def _flat(image: tf.Tensor) -> tf.Tensor:
    shape = rule.static_shape(image)
    return tf.reshape(image, [1, shape[0] * shape[1] * shape[2], shape[3]])


def _matrix(filters: tf.Tensor) -> tf.Tensor:
    height, width, inputs, outputs = rule.static_shape(filters)
    return tf.reshape(filters, [1, height * width * inputs, outputs])


def _product(
    left: tf.Tensor, right: tf.Tensor, transposed: bool = False
) -> tf.Tensor:
    return tf.matmul(left, right, transpose_b=transposed)


RULES: dict[str, rule.Rule] = {
    "Conv2D": conv2d,
    "Conv2DBackpropInput": conv2d_transpose,
}
