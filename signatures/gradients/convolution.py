"""Conv2D and its transpose as matrix products.

The columns that a row of the window reads are laid side by side once, and each row of
the kernel is then one product, so that the convolution and both of its gradients are
made of products. Where the stride is above 1, that many columns are folded into the
channels first, which costs no copy.

Weights are reshaped to [1, in, out]: a product of rank 3 stays a BATCH_MATMUL, which
delegates take, where one of rank 2 would become a FULLY_CONNECTED with a dynamic
filter, which they do not. Operands are transposed by an operator of their own:
tflite-runtime 2.14 takes three times as long for a BATCH_MATMUL that transposes.

A bias is the first row of the matrix, read by a column of ones, so that the sum starts
from it. XNNPACK starts so where filter and bias are constants, and its rounding is then
ours. Added at the end it is rounded otherwise: in a picture's black frame by the same
error in every cell, which the layers above add up.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from signatures.gradients import pointwise, rule, window


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
    folded = _form(over, kernel)
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
            emit=functools.partial(_convolution, operation, inputs),
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


def _convolution(
    operation: rule.Operation, inputs: tuple[tf.Tensor, ...]
) -> list[tf.Tensor]:
    """The operator on some of its channels."""
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
    folded = _form(over, kernel)
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


def _form(
    over: window.Window, kernel: tuple[int, ...]
) -> pointwise.Pointwise | _Folded:
    """The convolution as products."""
    suits = pointwise.Pointwise.suits(over, kernel)
    return pointwise.Pointwise(over, kernel) if suits else _Folded(over, kernel)


@dataclasses.dataclass(frozen=True)
class _Folded:
    """A convolution whose columns are folded by their stride.

    Attributes:
      over: The window over the image.
      kernel: [h, w, I, O].
    """

    over: window.Window
    kernel: tuple[int, ...]

    @property
    def fold(self) -> int:
        """Columns in one: the stride, unless the kernel reads but one of them."""
        return self.over.columns.stride if self.kernel[1] > 1 else 1

    @property
    def reads(self) -> list[int]:
        """The folded columns that a row of the kernel reads, from its first one."""
        columns = self.over.columns
        if self.fold > 1 or self.kernel[1] == 1:
            return list(range(columns.reach))
        return [j * columns.dilation for j in range(self.kernel[1])]

    def lines(self, image: tf.Tensor) -> dict[int, tf.Tensor]:
        """Lays columns side by side.

        Args:
          image: [B, H, W, I].

        Returns:
          For each phase of the rows [B, rows.blocks, W', reads * fold * I].
        """
        rows, columns = self.over.rows, self.over.columns
        batch, inputs = self.over.batch, self.kernel[2]
        image = window.pad(image, self.over)
        height = rows.blocks * rows.stride
        if self.fold != columns.stride:
            cells = batch * height * columns.blocks
            image = window.unstack(image, cells, columns.stride, inputs, [0])[0]
        wide = [batch, height, columns.blocks, self.fold * inputs]
        image = tf.reshape(image, wide)
        joined = window.concat(
            [
                window.cut(image, (0, height), (start, columns.out))
                for start in self.reads
            ],
            3,
        )
        depth = rule.static_shape(joined)[3]
        parts = window.unstack(
            joined, batch * rows.blocks, rows.stride, columns.out * depth, rows.phases
        )
        shape = [batch, rows.blocks, columns.out, depth]
        return {a: tf.reshape(part, shape) for a, part in parts.items()}

    def convolve(
        self,
        lines: dict[int, tf.Tensor],
        filters: tf.Tensor,
        bias: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """[B, H', W', O] from `lines`, filters [h, w, I, O] and O biases."""
        total = None
        for i, matrix in enumerate(self._matrices(filters)):
            line = self._line(lines, i)
            if i == 0 and bias is not None:
                ones = tf.ones([1, rule.static_shape(line)[1], 1], line.dtype)
                line = tf.concat([ones, line], 2)
                first = tf.reshape(bias, [1, 1, self.kernel[3]])
                matrix = tf.concat([first, matrix], 1)
            total = _plus(total, tf.matmul(line, matrix))
        over = self.over
        return tf.reshape(
            total, [over.batch, over.rows.out, over.columns.out, self.kernel[3]]
        )

    def filter_gradient(
        self, lines: dict[int, tf.Tensor], gradient: tf.Tensor
    ) -> tf.Tensor:
        """[h, w, I, O] from `lines` and the gradient [B, H', W', O]."""
        height, width, inputs, outputs = self.kernel
        flat = _flat(gradient)
        depth = len(self.reads) * self.fold * inputs
        if height == 1 and depth < outputs:
            product = tf.matmul(_turn(self._line(lines, 0)), flat)
        else:
            flat = _turn(flat)
            product = window.concat(
                [tf.matmul(flat, self._line(lines, i)) for i in range(height)], 0
            )
            product = tf.transpose(product, [0, 2, 1])
        width_read = depth // inputs
        if width_read != width:
            product = tf.reshape(product, [height, width_read, inputs * outputs])
            product = tf.slice(
                product, [0, 0, 0], [height, width, inputs * outputs]
            )
        return tf.reshape(product, self.kernel)

    def image_gradient(self, gradient: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
        """[B, H, W, I] from the gradient [B, H', W', O] and filters [h, w, I, O]."""
        rows, columns, batch = self.over.rows, self.over.columns, self.over.batch
        _, _, inputs, outputs = self.kernel
        spread = window.spread(gradient, self.over)
        last = columns.blocks - columns.out
        joined = window.concat(
            [
                window.cut(spread, (0, None), (last - start, columns.blocks))
                for start in self.reads
            ],
            3,
        )
        matrices = []
        for matrix in self._matrices(filters):
            # [1, reads * fold * I, O] -> [1, reads * O, fold * I]
            shape = [len(self.reads), self.fold * inputs, outputs]
            turned = tf.transpose(tf.reshape(matrix, shape), [0, 2, 1])
            shape = [1, len(self.reads) * outputs, self.fold * inputs]
            matrices.append(tf.reshape(turned, shape))
        parts = {}
        for a in rows.phases:
            total = None
            for i in rows.taps(a):
                first = rows.reach - 1 - rows.place(i)[1]
                line = window.cut(joined, (first, rows.blocks), (0, None))
                total = _plus(total, tf.matmul(_flat(line), matrices[i]))
            parts[a] = total
        if self.fold != columns.stride:
            cells = batch * rows.blocks * columns.blocks
            parts = {
                a: window.stack({0: part}, cells, columns.stride, inputs)
                for a, part in parts.items()
            }
        length = columns.blocks * columns.stride
        image = tf.reshape(
            window.stack(parts, batch * rows.blocks, rows.stride, length * inputs),
            [batch, rows.blocks * rows.stride, length, inputs],
        )
        return window.unpad(image, self.over)

    def _line(self, lines: dict[int, tf.Tensor], tap: int) -> tf.Tensor:
        """What a row of the kernel reads: [1, B * H' * W', reads * fold * I]."""
        phase, block = self.over.rows.place(tap)
        return _flat(
            window.cut(lines[phase], (block, self.over.rows.out), (0, None))
        )

    def _matrices(self, filters: tf.Tensor) -> list[tf.Tensor]:
        """One [1, reads * fold * I, O] for each row of the kernel."""
        height, width, inputs, outputs = self.kernel
        read = len(self.reads) * self.fold
        if read != width:
            filters = tf.pad(filters, [[0, 0], [0, read - width], [0, 0], [0, 0]])
        filters = tf.reshape(filters, [height, read * inputs, outputs])
        if height == 1:
            return [filters]
        size = [1, read * inputs, outputs]
        return [tf.slice(filters, [i, 0, 0], size) for i in range(height)]


def _flat(image: tf.Tensor) -> tf.Tensor:
    shape = rule.static_shape(image)
    return tf.reshape(image, [1, shape[0] * shape[1] * shape[2], shape[3]])


def _turn(matrix: tf.Tensor) -> tf.Tensor:
    """[1, a, b] -> [1, b, a]; at rank 2, where the converter lets it stand."""
    _, rows, columns = rule.static_shape(matrix)
    turned = tf.transpose(tf.reshape(matrix, [rows, columns]), [1, 0])
    return tf.reshape(turned, [1, columns, rows])


def _plus(total: tf.Tensor | None, term: tf.Tensor) -> tf.Tensor:
    return term if total is None else total + term


RULES: dict[str, rule.Rule] = {
    "BiasedConv2D": conv2d,
    "Conv2D": conv2d,
    "Conv2DBackpropInput": conv2d_transpose,
}
