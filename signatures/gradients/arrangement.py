"""Operators that move elements: reshape, transpose, pad, slice, join, repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from signatures.gradients import rule

# Operators whose gradient in TensorFlow is made of builtin operators already.
PLAIN = (
    "BatchToSpaceND",
    "DepthToSpace",
    "SpaceToBatchND",
    "SpaceToDepth",
)


def _plain(operation: rule.Operation):
    """An operator as it is, with TensorFlow's own gradient."""
    outputs = operation.emit()

    def backward(gradients):
        known = [(y, g) for y, g in zip(outputs, gradients) if g is not None]
        trained = [x for x, wanted in zip(operation.inputs, operation.wanted) if wanted]
        found = tf.gradients(
            [y for y, _ in known],
            trained,
            [g for _, g in known],
            stop_gradients=trained,
        )
        found = iter(found)
        return [next(found) if wanted else None for wanted in operation.wanted]

    return outputs, backward


def _reshape(operation: rule.Operation):
    """Reshape, Squeeze, ExpandDims: elements stay in order."""
    x = operation.inputs[0]
    y = operation.emit()[0]
    y = tf.reshape(x, rule.static_shape(y))
    rest = [None] * (len(operation.inputs) - 1)
    return [y], lambda gradients: (
        tf.reshape(gradients[0], rule.static_shape(x)),
        *rest,
    )


def _identity(operation: rule.Operation):
    """Identity, and the others that give back their inputs."""
    return list(operation.inputs), lambda gradients: gradients


def _identity_n(operation: rule.Operation):
    """IdentityN.

    Raises:
      GradientError: If it carries a tf.custom_gradient other than that of `tf.nn.silu`,
        which is the true one: nothing tells what another one does.
    """
    if rule.CUSTOM in operation.attributes and not _is_silu(operation):
        raise operation.refuse(
            "no tf.custom_gradient but that of tf.nn.silu",
            operation.attributes[rule.CUSTOM],
        )
    return list(operation.inputs), lambda gradients: gradients


def _is_silu(operation: rule.Operation) -> bool:
    """Whether it holds (x * sigmoid(beta * x), x, ...)."""
    product = operation.inputs[0].op
    if product.type != "Mul" or len(operation.inputs) < 2:
        return False
    x, gate = product.inputs
    if x is not operation.inputs[1] or gate.op.type != "Sigmoid":
        return False
    scaled = gate.op.inputs[0]
    return scaled.op.type == "Mul" and any(x is factor for factor in scaled.op.inputs)


def _transpose(operation: rule.Operation):
    """Transpose(x, permutation)."""
    order = [int(i) for i in operation.constant(1)]
    y = tf.transpose(operation.inputs[0], order)
    back = [int(i) for i in np.argsort(order)]
    return [y], lambda gradients: (tf.transpose(gradients[0], back), None)


def _reverse(operation: rule.Operation):
    """ReverseV2(x, axes) by a choice of slices.

    tflite-runtime 2.14 computes one over two axes wrongly.
    """

    def turned(tensor):
        for axis in operation.constant(1).reshape(-1):
            order = list(range(rule.static_shape(tensor)[axis]))[::-1]
            tensor = tf.gather(tensor, order, axis=int(axis))
        return tensor

    return [turned(operation.inputs[0])], lambda gradients: (turned(gradients[0]), None)


def _pad(operation: rule.Operation):
    """Pad or PadV2(x, paddings [rank, 2], value)."""
    x = operation.inputs[0]
    begin = [int(before) for before, _ in operation.constant(1)]
    (y,) = operation.emit()

    def backward(gradients):
        to_x = tf.slice(gradients[0], begin, rule.static_shape(x))
        to_value = None
        if len(operation.inputs) == 3 and operation.wanted[2]:
            everywhere = tuple(range(x.shape.rank))
            to_value = rule.sum_over(gradients[0], everywhere) - rule.sum_over(
                to_x, everywhere
            )
        return (to_x, None, to_value)[: len(operation.inputs)]

    return [y], backward


def _mirror_pad(operation: rule.Operation):
    """MirrorPad(x, paddings): one axis after the other by a constant matrix."""
    x = operation.inputs[0]
    shape = rule.static_shape(x)
    paddings = operation.constant(1)
    mode = operation.attributes["mode"].decode().lower()
    (y,) = operation.emit()

    def backward(gradients):
        (gradient,) = gradients
        for axis, size in enumerate(shape):
            if not paddings[axis].any():
                continue
            source = np.pad(np.arange(size), tuple(paddings[axis]), mode=mode)
            matrix = (np.arange(size)[:, None] == source[None]).astype(np.float32)
            gradient = along(gradient, matrix, axis)
        return gradient, None

    return [y], backward


def along(x: tf.Tensor, matrix: np.ndarray, axis: int) -> tf.Tensor:
    """Multiplies one axis of a tensor by a constant matrix [new, old]."""
    shape = rule.static_shape(x)
    before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    lines = tf.reshape(x, [before, shape[axis], after])
    repeated = np.repeat(matrix[None], before, axis=0)
    lines = tf.matmul(tf.constant(repeated, x.dtype), lines)
    return tf.reshape(lines, [*shape[:axis], len(matrix), *shape[axis + 1 :]])


def _concat(operation: rule.Operation):
    """ConcatV2(parts..., axis)."""
    parts = operation.inputs[:-1]
    axis = int(operation.constant(len(parts))) % parts[0].shape.rank
    (y,) = operation.emit()

    def backward(gradients):
        found: list[tf.Tensor | None] = []
        start = 0
        for part, wanted in zip(parts, operation.wanted):
            begin = [0] * part.shape.rank
            begin[axis] = start
            size = rule.static_shape(part)
            found.append(tf.slice(gradients[0], begin, size) if wanted else None)
            start += size[axis]
        return *found, None

    return [y], backward


def _split(operation: rule.Operation):
    """Split(axis, x), SplitV(x, sizes, axis), Unpack(x): the gradients joined."""
    position = 1 if operation.type == "Split" else 0
    x = operation.inputs[position]
    outputs = operation.emit()
    if operation.type == "Unpack":
        axis = operation.attributes["axis"]
    else:
        axis = int(operation.constant(0 if position else 2))
    axis %= x.shape.rank

    def backward(gradients):
        known = [
            tf.zeros_like(y) if g is None else g for y, g in zip(outputs, gradients)
        ]
        if operation.type == "Unpack":
            joined = tf.stack(known, axis=axis)
        else:
            joined = tf.concat(known, axis=axis)
        found: list[tf.Tensor | None] = [None] * len(operation.inputs)
        found[position] = joined
        return found

    return outputs, backward


def _pack(operation: rule.Operation):
    """Pack(parts...), one axis more."""
    (y,) = operation.emit()
    axis = operation.attributes["axis"]
    return [y], lambda gradients: tf.unstack(gradients[0], axis=axis)


def _slice(operation: rule.Operation):
    """Slice(x, begin, size)."""
    x = operation.inputs[0]
    (y,) = operation.emit()

    def backward(gradients):
        begin = [int(b) for b in operation.constant(1)]
        sizes = zip(begin, rule.static_shape(y), rule.static_shape(x))
        pads = [[b, whole - b - part] for b, part, whole in sizes]
        return tf.pad(gradients[0], pads), None, None

    return [y], backward


def _strided_slice(operation: rule.Operation):
    """StridedSlice(x, begin, end, strides), strides above 0."""
    x = operation.inputs[0]
    shape = rule.static_shape(x)
    (y,) = operation.emit()

    def backward(gradients):
        gradient = gradients[0]
        picked = _picked(operation, shape)
        gradient = tf.reshape(gradient, [len(p) for p in picked])
        pads = []
        for axis, chosen in enumerate(picked):
            step = int(chosen[1] - chosen[0]) if len(chosen) > 1 else 1
            if step < 0:
                raise operation.refuse("strides above 0", step)
            if step > 1:
                gradient = _stuff(gradient, axis, step)
            length = rule.static_shape(gradient)[axis]
            pads.append([int(chosen[0]), shape[axis] - int(chosen[0]) - length])
        return tf.pad(gradient, pads), None, None, None

    return [y], backward


def _picked(operation: rule.Operation, shape: Sequence[int]) -> list[np.ndarray]:
    """The indices that a strided slice reads along each axis."""
    masks = {
        name: operation.attributes[f"{name}_mask"]
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    begin, end, strides = (operation.constant(i) for i in (1, 2, 3))
    index: list = []
    for i, (first, last, step) in enumerate(zip(begin, end, strides)):
        bit = 1 << i
        if masks["ellipsis"] & bit:
            new = sum(bool(masks["new_axis"] >> j & 1) for j in range(len(begin)))
            missing = len(shape) - (len(begin) - new - 1)
            index.extend([slice(None)] * missing)
        elif masks["new_axis"] & bit:
            continue
        elif masks["shrink_axis"] & bit:
            at = int(first) % shape[len(index)]
            index.append(slice(at, at + 1))
        else:
            start = None if masks["begin"] & bit else int(first)
            stop = None if masks["end"] & bit else int(last)
            index.append(slice(start, stop, int(step)))
    index.extend([slice(None)] * (len(shape) - len(index)))
    return [np.arange(size)[chosen] for size, chosen in zip(shape, index)]


def _stuff(x: tf.Tensor, axis: int, step: int) -> tf.Tensor:
    """Puts step - 1 zeros between the elements along an axis."""
    shape = rule.static_shape(x)
    before, size = int(np.prod(shape[:axis])), shape[axis]
    after = int(np.prod(shape[axis + 1 :]))
    wide = tf.pad(
        tf.reshape(x, [before * size, 1, after]), [[0, 0], [0, step - 1], [0, 0]]
    )
    wide = tf.reshape(wide, [before, size * step, after])
    wide = tf.slice(wide, [0, 0, 0], [before, (size - 1) * step + 1, after])
    return tf.reshape(wide, [*shape[:axis], (size - 1) * step + 1, *shape[axis + 1 :]])


def _tile(operation: rule.Operation):
    """Tile(x, multiples)."""
    x = operation.inputs[0]
    (y,) = operation.emit()

    def backward(gradients):
        gradient = gradients[0]
        for axis, times in enumerate(operation.constant(1)):
            if times > 1:
                now = rule.static_shape(gradient)
                size = rule.static_shape(x)[axis]
                before, after = int(np.prod(now[:axis])), int(np.prod(now[axis + 1 :]))
                rows = tf.reshape(gradient, [before, int(times), size * after])
                gradient = tf.reshape(
                    tf.reduce_sum(rows, axis=1), [*now[:axis], size, *now[axis + 1 :]]
                )
        return gradient, None

    return [y], backward


def _broadcast_to(operation: rule.Operation):
    """BroadcastTo(x, shape)."""
    x = operation.inputs[0]
    (y,) = operation.emit()
    return [y], lambda gradients: (
        rule.sum_to(gradients[0], rule.static_shape(x)),
        None,
    )


def _cast(operation: rule.Operation):
    """Cast between floats."""
    (x,) = operation.inputs
    (y,) = operation.emit()
    return [y], lambda gradients: (tf.cast(gradients[0], x.dtype),)


def _gather(operation: rule.Operation):
    """GatherV2(x, indices, axis): a product with a matrix of 0 and 1."""
    x, indices = operation.inputs[:2]
    axis = int(operation.constant(2)) % x.shape.rank
    if operation.attributes["batch_dims"]:
        raise operation.refuse("no batch_dims", operation.attributes["batch_dims"])
    (y,) = operation.emit()
    shape = rule.static_shape(x)

    def backward(gradients):
        count = int(np.prod(rule.static_shape(indices)))
        before, after = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
        hot = tf.one_hot(
            tf.reshape(indices, [count]), shape[axis], dtype=x.dtype, axis=0
        )
        lines = tf.reshape(gradients[0], [before, count, after])
        hot = tf.tile(tf.reshape(hot, [1, shape[axis], count]), [before, 1, 1])
        return tf.reshape(tf.matmul(hot, lines), shape), None, None

    return [y], backward


RULES: dict[str, rule.Rule] = {
    **{kind: _plain for kind in PLAIN},
    "BroadcastTo": _broadcast_to,
    "Cast": _cast,
    "ConcatV2": _concat,
    "EnsureShape": _identity,
    "ExpandDims": _reshape,
    "GatherV2": _gather,
    "Identity": _identity,
    "IdentityN": _identity_n,
    "MirrorPad": _mirror_pad,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Reshape": _reshape,
    "ReverseV2": _reverse,
    "Slice": _slice,
    "Split": _split,
    "SplitV": _split,
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _split,
}
