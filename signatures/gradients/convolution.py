"""Conv2D and its transpose as matrix products.

The columns that a row of the window reads are laid side by side once, and each row of
the kernel is then one product, so that the convolution and both of its gradients are
made of products. Where the stride is above 1, that many columns are folded into the
channels first, which costs no copy.

Weights are reshaped to [1, in, out]: a product of rank 3 stays a BATCH_MATMUL, which
delegates take, where one of rank 2 would become a FULLY_CONNECTED with a dynamic
filter, which they do not. tflite-runtime 2.14 takes three times as long for a
BATCH_MATMUL that transposes the weights: they are transposed by an operator of their
own, but where nothing is left out for its sake, since what that makes is kept from the
forward pass on.

A bias is the first row of the matrix, read by a column of ones, so that the sum starts
from it. XNNPACK starts so where filter and bias are constants, and its rounding is then
ours. Added at the end it is rounded otherwise: in a picture's black frame by the same
error in every cell, which the layers above add up.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from signatures.gradients import rule, window

# Of a matrix that XNNPACK's kernel for AVX-512 works on at a time; others take less.
_COLUMNS = 32


def conv2d(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """Conv2D(image [B,H,W,I], filters [h,w,I,O]) -> [B,H',W',O], any stride, padding.

    BiasedConv2D takes a bias of O elements too.

    Raises:
      GradientError: If the layout is not NHWC.
    """
    image, filters, *bias = operation.inputs
    kernel = rule.static_shape(filters)
    groups = rule.static_shape(image)[3] // kernel[2]
    if groups > 1:
        return _in_groups(operation, groups)
    out = rule.static_shape(operation.emit()[0])
    over = window.window_of(operation, rule.static_shape(image), kernel[:2], out)
    if max(over.columns.stride, over.rows.stride) > 1 and over.columns.dilation > 1:
        raise operation.refuse("strides or dilations, not both", over.columns)
    folded = _Folded(over, kernel, operation.target)
    # A trained bias on constant filters would be added last: the operator takes
    # constant biases only.
    if any(operation.wanted[1:]):
        lines = folded.lines(image)
        result = folded.convolve(lines, filters, *bias)
    else:
        (result,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        to_image = to_filters = None
        if operation.wanted[0]:
            to_image = folded.image_gradient(gradient, filters)
        if operation.wanted[1]:
            to_filters = folded.filter_gradient(lines, gradient)
        to_bias = [rule.sum_to(gradient, rule.static_shape(b)) for b in bias]
        return to_image, to_filters, *to_bias

    return [result], backward


def _in_groups(
    operation: rule.Operation, groups: int
) -> tuple[list[tf.Tensor], rule.Backward]:
    """A convolution for each group of channels."""
    split = [tf.split(tensor, groups, axis=-1) for tensor in operation.inputs]
    results, backwards = [], []
    for inputs in zip(*split):
        part = dataclasses.replace(
            operation,
            inputs=inputs,
            emit=functools.partial(emit_with, operation, inputs),
        )
        (result,), part_backward = conv2d(part)
        results.append(result)
        backwards.append(part_backward)

    def backward(gradients):
        shares = tf.split(gradients[0], groups, axis=-1)
        found = [part([share]) for part, share in zip(backwards, shares)]
        return [
            None if parts[0] is None else tf.concat(parts, axis=-1)
            for parts in zip(*found)
        ]

    return [tf.concat(results, axis=-1)], backward


def emit_with(
    operation: rule.Operation, inputs: tuple[tf.Tensor, ...]
) -> list[tf.Tensor]:
    """A convolution by the operator's window, of other channels."""
    image, filters, *bias = inputs
    names = ("strides", "padding", "explicit_paddings", "dilations", "data_format")
    settings = {n: operation.attributes[n] for n in names if n in operation.attributes}
    result = tf.raw_ops.Conv2D(input=image, filter=filters, **settings)
    return [result + b for b in bias] or [result]


def conv2d_transpose(
    operation: rule.Operation,
) -> tuple[list[tf.Tensor], rule.Backward]:
    """Conv2DBackpropInput(sizes, filters [h,w,O,I], image [B,H,W,I]) -> [B,H',W',O].

    Raises:
      GradientError: If the layout is not NHWC, or the sizes are not constant.
    """
    _, filters, image = operation.inputs
    kernel = rule.static_shape(filters)
    shape = rule.static_shape(image)
    out = tuple(int(size) for size in operation.constant(0))
    if len(out) == 2:  # height and width alone
        out = (shape[0], *out, kernel[2])
    over = window.window_of(operation, out, kernel[:2], shape)
    folded = _Folded(over, kernel, operation.target)
    # A TRANSPOSE_CONV knows no dilation.
    dilated = max(over.rows.dilation, over.columns.dilation) > 1
    if operation.wanted[1] or dilated:
        result = folded.image_gradient(image, filters)
    else:
        (result,) = operation.emit()

    def backward(gradients):
        lines = folded.lines(gradients[0])
        to_image = to_filters = None
        if operation.wanted[2]:
            to_image = folded.convolve(lines, filters)
        if operation.wanted[1]:
            to_filters = folded.filter_gradient(lines, image)
        return None, to_filters, to_image

    return [result], backward


@dataclasses.dataclass(frozen=True)
class _Folded:
    """A convolution whose rows and columns are folded by their strides.

    Attributes:
      over: The window over the image.
      kernel: [h, w, I, O].
      target: The runtimes to be fast in.
    """

    over: window.Window
    kernel: tuple[int, ...]
    target: str

    @property
    def folds(self) -> tuple[int, int]:
        """Rows, columns in one: the strides, unless the kernel reads one of them."""
        down, across = (
            axis.stride if axis.kernel > 1 else 1
            for axis in (self.over.rows, self.over.columns)
        )
        return down, across

    @property
    def depth(self) -> int:
        """Channels of a folded cell."""
        return self.folds[0] * self.folds[1] * self.kernel[2]

    def lines(self, image: tf.Tensor) -> tf.Tensor:
        """Lays columns side by side.

        Args:
          image: [B, H, W, I].

        Returns:
          [B, rows.blocks, W', reads of a row * depth].
        """
        rows, columns = self.over.rows, self.over.columns
        batch, inputs = self.over.batch, self.kernel[2]
        down, across = self.folds
        image = window.pad(image, self.over)
        height, length = rows.blocks * rows.stride, columns.blocks * columns.stride
        if down != rows.stride:
            parts = (batch * rows.blocks, rows.stride, length * inputs)
            image, height = window.unstack(image, *parts, [0])[0], rows.blocks
        if across != columns.stride:
            parts = (batch * height * columns.blocks, columns.stride, inputs)
            image = window.unstack(image, *parts, [0])[0]
        if down > 1:
            shape = [batch * rows.blocks, down, columns.blocks, across * inputs]
            image = tf.transpose(tf.reshape(image, shape), [0, 2, 1, 3])
        whole = [batch, rows.blocks, columns.blocks, self.depth]
        image = tf.reshape(image, whole)
        return window.concat(
            [
                window.cut(image, (0, None), (start, columns.out))
                for start in _reads(columns, across)
            ],
            3,
        )

    def convolve(
        self, lines: tf.Tensor, filters: tf.Tensor, bias: tf.Tensor | None = None
    ) -> tf.Tensor:
        """[B, H', W', O] from `lines`, filters [h, w, I, O] and O biases."""
        total = None
        for line, matrix in zip(self._lines(lines), self._matrices(filters)):
            if total is None and bias is not None:
                ones = tf.ones([*rule.static_shape(line)[:3], 1], line.dtype)
                line = tf.concat([ones, line], 3)
                first = tf.reshape(bias, [1, 1, 1, self.kernel[3]])
                matrix = tf.concat([first, matrix], 2)
            total = rule.plus(total, tf.matmul(line, matrix))
        return total

    def filter_gradient(self, lines: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """[h, w, I, O] from `lines` and the gradient [B, H', W', O]."""
        if len(_reads(self.over.rows, self.folds[0])) > 1:
            # Cut when the gradient is there, not kept beside the lines since they were.
            lines = lines + rule.late_zero(gradient)
        found = window.concat(
            [_columns_product(line, gradient) for line in self._lines(lines)], 1
        )
        height, width, inputs, outputs = self.kernel
        down, across = self.folds
        blocks, depth = rule.static_shape(found)[1:3]
        cells = inputs * outputs
        if down > 1:
            found = tf.reshape(found, [blocks, -1, down, across * cells])
            found = tf.transpose(found, [0, 2, 1, 3])
        whole = [blocks * down, depth // (down * inputs), cells]
        size = [height, width, cells]
        if whole != size:
            found = tf.slice(tf.reshape(found, whole), [0, 0, 0], size)
        return tf.reshape(found, self.kernel)

    def image_gradient(self, gradient: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
        """[B, H, W, I] from the gradient [B, H', W', O] and filters [h, w, I, O]."""
        rows, columns, batch = self.over.rows, self.over.columns, self.over.batch
        inputs, outputs = self.kernel[2:]
        down, across = self.folds
        spread = window.spread(gradient, self.over)
        last = columns.reach - 1
        reads = _reads(columns, across)
        joined = window.concat(
            [
                window.cut(spread, (0, None), (last - start, columns.blocks))
                for start in reads
            ],
            3,
        )
        total = None
        for start, matrix in zip(_reads(rows, down), self._matrices(filters)):
            line = window.cut(joined, (rows.reach - 1 - start, rows.blocks), (0, None))
            if len(reads) == 1:
                # Of what exchanges the last two axes alone the converter makes a turned
                # operand; of what exchanges the first two, too, a TRANSPOSE.
                first = [0, 1] if self.target == rule.AI_EDGE_LITERT else [1, 0]
                turned = tf.transpose(matrix, [*first, 3, 2])
            else:
                shape = [len(reads), self.depth, outputs]
                turned = tf.transpose(tf.reshape(matrix, shape), [0, 2, 1])
                turned = tf.reshape(turned, [1, 1, len(reads) * outputs, self.depth])
            total = rule.plus(total, tf.matmul(line, turned))
        if down > 1:
            shape = [batch * rows.blocks, columns.blocks, down, across * inputs]
            total = tf.transpose(tf.reshape(total, shape), [0, 2, 1, 3])
        length = columns.blocks * columns.stride
        if across != columns.stride:
            cells = batch * rows.blocks * down * columns.blocks
            total = window.stack({0: total}, cells, columns.stride, inputs)
        if down != rows.stride:
            lines = batch * rows.blocks
            total = window.stack({0: total}, lines, rows.stride, length * inputs)
        height = rows.blocks * rows.stride
        image = tf.reshape(total, [batch, height, length, inputs])
        return window.unpad(image, self.over)

    def _lines(self, lines: tf.Tensor) -> list[tf.Tensor]:
        """What each row of the folded kernel reads: [B, H', W', reads * depth]."""
        rows = self.over.rows
        return [
            window.cut(lines, (start, rows.out), (0, None))
            for start in _reads(rows, self.folds[0])
        ]

    def _matrices(self, filters: tf.Tensor) -> list[tf.Tensor]:
        """One [1, 1, reads * depth, O] for each row of the folded kernel."""
        height, width, inputs, outputs = self.kernel
        down, across = self.folds
        blocks = len(_reads(self.over.rows, down))
        read = len(_reads(self.over.columns, across)) * across
        if (blocks * down, read) != (height, width):
            missing = [[0, blocks * down - height], [0, read - width], [0, 0], [0, 0]]
            filters = tf.pad(filters, missing)
        if down > 1:
            shape = [blocks, down, read // across, across * inputs * outputs]
            filters = tf.transpose(tf.reshape(filters, shape), [0, 2, 1, 3])
        depth = read * down * inputs
        if blocks == 1:
            return [tf.reshape(filters, [1, 1, depth, outputs])]
        filters = tf.reshape(filters, [1, blocks, depth, outputs])
        size = [1, 1, depth, outputs]
        return [tf.slice(filters, [0, i, 0, 0], size) for i in range(blocks)]


def _reads(axis: window.Axis, fold: int) -> list[int]:
    """Where along an axis, in blocks, a kernel reads that begins at the first one."""
    if fold > 1 or axis.kernel == 1:
        return list(range(axis.reach))
    return [tap * axis.dilation for tap in range(axis.kernel)]


def _columns_product(line: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """[1, 1, K, O], the products of all cells of [B, H, W, K] and [B, H, W, O].

    A product for each row of the image, and their sum, where those products take no
    more room than the images; of flattened images, which are copies, otherwise. Turned
    where that leaves less of the columns empty that a kernel works on at a time.
    """
    batch, height, width, inputs = rule.static_shape(line)
    outputs = rule.static_shape(gradient)[3]
    if outputs * filled(inputs) < inputs * filled(outputs):
        return tf.transpose(_columns_product(gradient, line), [0, 1, 3, 2])
    if inputs * outputs <= width * (inputs + outputs):
        products = tf.matmul(line, gradient, transpose_a=True)
        return tf.reduce_sum(products, axis=[0, 1], keepdims=True)
    cells = batch * height * width
    return tf.matmul(
        tf.reshape(line, [1, 1, cells, inputs]),
        tf.reshape(gradient, [1, 1, cells, outputs]),
        transpose_a=True,
    )


def filled(columns: int) -> int:
    """How many columns a kernel computes where a matrix has so many."""
    return -(-columns // _COLUMNS) * _COLUMNS


RULES: dict[str, rule.Rule] = {
    "BiasedConv2D": conv2d,
    "Conv2D": conv2d,
    "Conv2DBackpropInput": conv2d_transpose,
}
