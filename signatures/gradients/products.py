"""MatMul and BatchMatMulV2, kept at rank 3 (see `convolution`)."""

from __future__ import annotations

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


RULES: dict[str, rule.Rule] = {
    "BatchMatMul": _matmul,
    "BatchMatMulV2": _matmul,
    "MatMul": _matmul,
}
