"""MatMul, BatchMatMulV2 and Einsum, kept at rank 3 (see `convolution`)."""

from __future__ import annotations

import math

import tensorflow as tf

from signatures.gradients import rule


def _matmul(operation: rule.Operation):
    """MatMul or BatchMatMul(a, b), either transposed, batches broadcast."""
    a, b = operation.inputs
    flags = operation.attributes
    turn_a = flags.get("transpose_a", flags.get("adj_x", False))
    turn_b = flags.get("transpose_b", flags.get("adj_y", False))
    shape = rule.static_shape(operation.emit()[0])
    left, right = _deep(a), _deep(b)
    result = tf.reshape(_product(left, right, turn_a, turn_b), shape)

    def backward(gradients):
        gradient = _deep(gradients[0])
        to_a = to_b = None
        if operation.wanted[0]:
            if turn_a:
                to_a = _product(right, gradient, turn_b, True)
            else:
                to_a = _product(gradient, right, False, not turn_b)
            to_a = rule.sum_to(to_a, rule.static_shape(left))
            to_a = tf.reshape(to_a, rule.static_shape(a))
        if operation.wanted[1]:
            if turn_b:
                to_b = _product(gradient, left, True, turn_a)
            else:
                to_b = _product(left, gradient, not turn_a, False)
            to_b = rule.sum_to(to_b, rule.static_shape(right))
            to_b = tf.reshape(to_b, rule.static_shape(b))
        return to_a, to_b

    return [result], backward


def _deep(matrix: tf.Tensor) -> tf.Tensor:
    if matrix.shape.rank > 2:
        return matrix
    return tf.reshape(matrix, [1, *rule.static_shape(matrix)])


def _product(a: tf.Tensor, b: tf.Tensor, turn_a: bool, turn_b: bool) -> tf.Tensor:
    """A product of matrices, batches broadcast.

    With the left operand turned and a larger batch than the right one's, BATCH_MATMUL
    reads past the right one in tflite-runtime 2.14: it is given equal batches.
    """
    if turn_a:
        batches = [rule.static_shape(x)[:-2] for x in (a, b)]
        if batches[0] != batches[1]:
            batch = tf.broadcast_static_shape(*map(tf.TensorShape, batches))
            have = [1] * (len(batch) - len(batches[1])) + [*batches[1]]
            b = tf.reshape(b, [*have, *rule.static_shape(b)[-2:]])
            # Not a BROADCAST_TO, which the converter would fold into the product.
            b = tf.tile(b, [w // h for w, h in zip(batch, have)] + [1, 1])
        order = [*range(a.shape.rank - 2), a.shape.rank - 1, a.shape.rank - 2]
        a = tf.transpose(a, order)
    return tf.matmul(a, b, transpose_b=turn_b)


def _einsum(operation: rule.Operation):
    """Einsum(operands..., equation) of one or two operands.

    Raises:
      GradientError: If the equation has an ellipsis, or a label twice in one operand.
    """
    equation = operation.attributes["equation"].decode().replace(" ", "")
    source, _, out = equation.partition("->")
    labels = source.split(",")
    if "." in equation or any(len(set(part)) != len(part) for part in (*labels, out)):
        raise operation.refuse("no ellipsis, and each label once a tensor", equation)
    inputs = operation.inputs
    parts = list(zip(labels, inputs))

    def backward(gradients):
        found: list[tf.Tensor | None] = []
        for i, (own, tensor) in enumerate(parts):
            others = [part for j, part in enumerate(parts) if j != i]
            wanted = operation.wanted[i]
            found.append(
                _summed([(out, gradients[0]), *others], own, tensor) if wanted else None
            )
        return found

    shape = rule.static_shape(operation.emit()[0])
    return [tf.reshape(_contract(parts, out), shape)], backward


def _summed(
    parts: list[tuple[str, tf.Tensor]], want: str, like: tf.Tensor
) -> tf.Tensor:
    """The einsum of the parts; a label of `want` that none has is repeated."""
    known = "".join(a for a in want if any(a in labels for labels, _ in parts))
    result = _contract(parts, known)
    if known == want:
        return result
    shape = rule.static_shape(like)
    kept = [size if a in known else 1 for a, size in zip(want, shape)]
    return tf.broadcast_to(tf.reshape(result, kept), shape)


def _contract(parts: list[tuple[str, tf.Tensor]], out: str) -> tf.Tensor:
    """The einsum of one or two tensors as a product of matrices."""
    summed = []
    for i, (labels, tensor) in enumerate(parts):
        others = out + "".join(own for j, (own, _) in enumerate(parts) if j != i)
        axes = [k for k, a in enumerate(labels) if a not in others]
        if axes:
            tensor = rule.sum_over(tensor, axes)
            labels = "".join(a for a in labels if a in others)
        summed.append((labels, tensor))
    if len(summed) == 1:
        return _turned(*summed[0], out)
    (one, a), (two, b) = summed
    size = dict(zip(one + two, rule.static_shape(a) + rule.static_shape(b)))
    batch = "".join(c for c in out if c in one and c in two)
    inner = "".join(c for c in one if c in two and c not in out)
    left = "".join(c for c in out if c in one and c not in two)
    right = "".join(c for c in out if c in two and c not in one)

    def matrix(labels, tensor, rows, columns):
        turned = _turned(labels, tensor, batch + rows + columns)
        sides = [math.prod(size[c] for c in part) for part in (batch, rows, columns)]
        return tf.reshape(turned, sides)

    product = tf.matmul(matrix(one, a, left, inner), matrix(two, b, inner, right))
    whole = batch + left + right
    return _turned(whole, tf.reshape(product, [size[c] for c in whole]), out)


def _turned(labels: str, tensor: tf.Tensor, order: str) -> tf.Tensor:
    if labels == order:
        return tensor
    return tf.transpose(tensor, [labels.index(label) for label in order])


RULES: dict[str, rule.Rule] = {
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "Einsum": _einsum,
    "MatMul": _matmul,
}
