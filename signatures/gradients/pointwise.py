"""Convolutions that read one cell: products that take the image as it lies.

A RESHAPE is a copy wherever a delegate takes it, so nothing here flattens an image that
need not be: [B, H, W, I] times the kernel [1, 1, I, O] is a BATCH_MATMUL of rank 4.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from signatures.gradients import rule, window


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """A convolution whose kernel is [1, 1, I, O] and whose stride is 1.

    Attributes:
      over: The window over the image.
      kernel: [1, 1, I, O].
    """

    over: window.Window
    kernel: tuple[int, ...]

    @staticmethod
    def suits(over: window.Window, kernel: tuple[int, ...]) -> bool:
        """Whether a convolution is one."""
        strides = (over.rows.stride, over.columns.stride)
        return kernel[:2] == strides == (1, 1)

    def lines(self, image: tf.Tensor) -> tf.Tensor:
        """What the kernel reads: the image [B, H, W, I], padded: [B, H', W', I]."""
        return window.pad(image, self.over)

    def convolve(
        self, lines: tf.Tensor, filters: tf.Tensor, bias: tf.Tensor | None = None
    ) -> tf.Tensor:
        """[B, H', W', O] from `lines`, filters [1, 1, I, O] and O biases."""
        if bias is not None:
            ones = tf.ones([*rule.static_shape(lines)[:3], 1], lines.dtype)
            lines = tf.concat([ones, lines], 3)
            first = tf.reshape(bias, [1, 1, 1, self.kernel[3]])
            filters = tf.concat([first, filters], 2)
        return tf.matmul(lines, filters)

    def filter_gradient(self, lines: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """[1, 1, I, O] from `lines` and the gradient [B, H', W', O].

        A product for each row of the image, and their sum, where those products take no
        more room than the images; of flattened images otherwise.
        """
        _, _, inputs, outputs = self.kernel
        width = self.over.columns.out
        if inputs * outputs <= width * (inputs + outputs):
            products = tf.matmul(lines, gradient, transpose_a=True)
            return tf.reduce_sum(products, axis=[0, 1], keepdims=True)
        cells = self.over.batch * self.over.rows.out * width
        flat = tf.reshape(lines, [1, cells, inputs])
        product = tf.matmul(
            flat, tf.reshape(gradient, [1, cells, outputs]), transpose_a=True
        )
        return tf.reshape(product, self.kernel)

    def image_gradient(self, gradient: tf.Tensor, filters: tf.Tensor) -> tf.Tensor:
        """[B, H, W, I] from the gradient [B, H', W', O] and filters [1, 1, I, O]."""
        # With the first two axes exchanged, too: the converter would make a turned
        # operand of what exchanges the last two alone, slow in tflite-runtime 2.14.
        turned = tf.transpose(filters, [1, 0, 3, 2])
        return window.unpad(tf.matmul(gradient, turned), self.over)
