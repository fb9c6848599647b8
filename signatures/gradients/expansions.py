"""Operators that are replaced by others, which have rules, while a function is traced.

So they need neither a rule nor a builtin operator, and their gradient is that of what
they are made of: three dimensions are two, resizing by any kernel is two products with
constant matrices, and a condition is a choice between what both branches give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from signatures.gradients import projection, rule, spellings

Expansion = Callable[..., tf.Tensor | list[tf.Tensor]]


def of(operation: tf.Operation) -> Expansion | None:
    """What replaces an operator, if something does."""
    if operation.type in EXPANSIONS:
        return EXPANSIONS[operation.type]
    floats = bool(operation.outputs) and operation.outputs[0].dtype.is_floating
    return spellings.OF_FLOATS.get(operation.type) if floats else None


def body(operation: tf.Operation, expansion: Expansion) -> tf.Graph:
    """What an operator is made of, a graph that takes its inputs and gives its output.

    Raises:
      GradientError: If a shape is not known, or it is a variant that is not covered.
    """
    for tensor in (*operation.inputs, *operation.outputs):
        rule.static_shape(tensor)
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in operation.inputs]
    function = tf.function(lambda *inputs: expansion(operation, *inputs),
                           autograph=False)  # fmt: skip
    return function.get_concrete_function(*specs).graph


def _conv3d(operation: tf.Operation, image: tf.Tensor, filters: tf.Tensor):
    """Conv3D(image [B,D,H,W,I], filters [d,h,w,I,O]): d frames side by side, a Conv2D.

    Source: what a tap reads is that of tensorflow/core/kernels/conv_ops_3d.cc.
    """
    kernel, out = rule.static_shape(filters), rule.static_shape(operation.outputs[0])
    batch, _, height, width, inputs = rule.static_shape(image)
    if inputs != kernel[3]:
        raise _refused(operation, "one group of channels", inputs // kernel[3])
    depth, strides = _depth(operation, kernel[0], image.shape[1], out[1])
    frames = tf.concat(
        [tf.strided_slice(
            _padded(image, depth),
            [0, i, 0, 0, 0],
            [batch, i + depth.span, height, width, inputs],
            [1, depth.stride, 1, 1, 1],
        ) for i in range(kernel[0])],
        axis=4,
    )  # fmt: skip
    flat = tf.nn.conv2d(
        tf.reshape(frames, [batch * out[1], height, width, kernel[0] * inputs]),
        _flat_filters(filters),
        strides,
        operation.get_attr("padding").decode(),
    )
    return tf.reshape(flat, out)


def _conv3d_transpose(operation, sizes, filters: tf.Tensor, image: tf.Tensor):
    """Conv3DBackpropInputV2(sizes, filters [d,h,w,O,I], image [B,D',H',W',I])."""
    kernel, out = rule.static_shape(filters), rule.static_shape(operation.outputs[0])
    batch, frames, height, width, inputs = rule.static_shape(image)
    depth, strides = _depth(operation, kernel[0], out[1], frames)
    flat = tf.nn.conv2d_transpose(
        tf.reshape(image, [batch * frames, height, width, inputs]),
        _flat_filters(filters),
        [batch * frames, *out[2:4], kernel[0] * out[4]],
        strides,
        operation.get_attr("padding").decode(),
    )
    parts = tf.split(flat, kernel[0], axis=3)
    row = out[2] * out[3] * out[4]
    total = None
    whole = max(depth.before + out[1], kernel[0] - 1 + frames * depth.stride)
    for i, part in enumerate(parts):
        wide = tf.reshape(part, [batch * frames, 1, row])
        wide = tf.pad(wide, [[0, 0], [0, depth.stride - 1], [0, 0]])
        wide = tf.reshape(wide, [batch, frames * depth.stride, row])
        after = whole - i - frames * depth.stride
        wide = tf.pad(wide, [[0, 0], [i, after], [0, 0]])
        total = wide if total is None else total + wide
    cut = tf.slice(total, [0, depth.before, 0], [batch, out[1], row])
    return tf.reshape(cut, out)


def _pool3d(operation: tf.Operation, image: tf.Tensor):
    """MaxPool3D or AvgPool3D(image [B,D,H,W,C]): over the rows and columns, then D."""
    batch, frames, height, width, channels = rule.static_shape(image)
    out = rule.static_shape(operation.outputs[0])
    size, strides = operation.get_attr("ksize"), operation.get_attr("strides")
    _require_layout(operation)
    if size[0] != 1 or size[4] != 1:
        raise _refused(operation, "windows over depth, height and width alone", size)
    pool = tf.nn.max_pool2d if operation.type == "MaxPool3D" else tf.nn.avg_pool2d
    padding = operation.get_attr("padding").decode()
    flat = tf.reshape(image, [batch * frames, height, width, channels])
    flat = pool(flat, size[2:4], strides[2:4], padding)
    lines = tf.reshape(flat, [batch, frames, out[2] * out[3], channels])
    lines = pool(lines, [size[1], 1], [strides[1], 1], padding)
    return tf.reshape(lines, out)


@dataclasses.dataclass(frozen=True)
class _Depth:
    """The window along the depth, of a convolution.

    Attributes:
      stride: Between windows.
      span: From the first frame that a tap reads to the last, both counted.
      before: Padding.
      after: Padding.
    """

    stride: int
    span: int
    before: int
    after: int


def _depth(operation: tf.Operation, kernel: int, size: int, out: int):
    """The window along the depth, `size` frames to `out`; strides of the other axes."""
    _require_layout(operation)
    strides = operation.get_attr("strides")
    if set(operation.get_attr("dilations")) != {1}:
        # TensorFlow computes none on a CPU, and infers wrong shapes.
        raise _refused(operation, "no dilation", operation.get_attr("dilations"))
    span = (out - 1) * strides[1] + 1
    missing = max(span - 1 + kernel - size, 0)
    same = operation.get_attr("padding") == b"SAME"
    before = missing // 2 if same else 0
    return _Depth(strides[1], span, before, missing - before), strides[2:4]


def _padded(image: tf.Tensor, depth: _Depth) -> tf.Tensor:
    if depth.before or depth.after:
        edges = [[0, 0], [depth.before, depth.after], [0, 0], [0, 0], [0, 0]]
        image = tf.pad(image, edges)
    return image


def _flat_filters(filters: tf.Tensor) -> tf.Tensor:
    """[d, h, w, A, B] -> [h, w, d * A, B]."""
    depth, height, width, inner, outer = rule.static_shape(filters)
    turned = tf.transpose(filters, [1, 2, 0, 3, 4])
    return tf.reshape(turned, [height, width, depth * inner, outer])


def _resize(operation: tf.Operation, image: tf.Tensor, *others: tf.Tensor):
    """ResizeBicubic, ScaleAndTranslate(image [B,H,W,C], ...): two constant matrices."""
    batch, height, width, channels = rule.static_shape(image)
    _, rows, columns, _ = rule.static_shape(operation.outputs[0])
    given = [rule.known(operation, i) for i in range(1, len(operation.inputs))]
    image = tf.cast(image, tf.float32)  # whatever it was, as the operator does
    lines = tf.reshape(image, [batch, height, width * channels])
    lines = _product(_matrix(operation, given, 0, height, rows), lines)
    cells = tf.reshape(lines, [batch * rows, width, channels])
    cells = _product(_matrix(operation, given, 1, width, columns), cells)
    return tf.reshape(cells, [batch, rows, columns, channels])


def _matrix(
    operation: tf.Operation, given: Sequence[np.ndarray], axis: int, size: int, out: int
) -> tf.Tensor:
    """What the operator makes of each cell of one axis, [1, out, size]."""
    image = np.eye(size, dtype=np.float32).reshape(1, size, 1, size)
    with tf.init_scope():  # computed now, not emitted
        if operation.type == "ResizeBicubic":
            found = tf.raw_ops.ResizeBicubic(
                images=image,
                size=[out, 1],
                align_corners=operation.get_attr("align_corners"),
                half_pixel_centers=operation.get_attr("half_pixel_centers"),
            )
        else:
            _, scale, translation = given
            found = tf.raw_ops.ScaleAndTranslate(
                images=image,
                size=[out, 1],
                scale=np.array([scale[axis], 1], np.float32),
                translation=np.array([translation[axis], 0], np.float32),
                kernel_type=operation.get_attr("kernel_type"),
                antialias=operation.get_attr("antialias"),
            )
        matrix = found.numpy()
    return tf.constant(matrix.reshape(1, out, size))


def _product(matrix: tf.Tensor, lines: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.tile(matrix, [lines.shape[0], 1, 1]), lines)


def _condition(operation: tf.Operation, predicate: tf.Tensor, *inputs: tf.Tensor):
    """If(predicate, inputs...): both branches, and a choice where it is not known.

    A branch that is not taken must still be finite, and so must its slopes.
    """
    # Private, but the only way from a function's name to the function.
    branches = [
        operation.graph._get_function(operation.get_attr(name).name)
        for name in ("then_branch", "else_branch")
    ]
    known = tf.get_static_value(operation.inputs[0])
    if known is not None:
        return branches[0 if known else 1].call_flat(*inputs)
    pairs = zip(*(branch.call_flat(*inputs) for branch in branches))
    return [tf.where(predicate, one, other) for one, other in pairs]


def _require_layout(operation: tf.Operation) -> None:
    layout = operation.get_attr("data_format")
    if layout != b"NDHWC":
        raise _refused(operation, "the layout NDHWC", layout)


def _refused(operation: tf.Operation, need: str, received: object):
    return rule.GradientError(
        f"{operation.type} '{operation.name}' needs {need}. Received: {received}."
    )


EXPANSIONS: dict[str, Expansion] = {
    **projection.EXPANSIONS,
    **spellings.EXPANSIONS,
    "AvgPool3D": _pool3d,
    "Conv3D": _conv3d,
    "Conv3DBackpropInputV2": _conv3d_transpose,
    "If": _condition,
    "MaxPool3D": _pool3d,
    "ResizeBicubic": _resize,
    "ScaleAndTranslate": _resize,
    "StatelessIf": _condition,
}
