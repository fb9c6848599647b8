"""MaxPool and AvgPool.

Where cells of a window tie, TensorFlow pays the first one, row-major, and so do we: a
black frame ties everywhere.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from signatures.gradients import activations, rule, window


def max_pool(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """MaxPool(image [B,H,W,C]) -> [B,H',W',C], windows of any size and stride."""
    (image,) = operation.inputs
    (result,) = operation.emit()
    over = _window(operation, image, result)

    def backward(gradients):
        (rest,) = gradients
        phases = window.split(
            window.pad(image, over, value=image.dtype.min), over
        )
        paid: dict = {}
        for tap in over.taps:
            if tap == over.taps[-1]:
                share = rest
            else:
                cell = window.tap_slice(phases, over, tap)
                larger = activations.is_positive(result - cell)
                left = rest * larger
                share, rest = rest - left, left
            paid.setdefault(_phase(over, tap), []).append((tap, share))
        return (_collect(paid, over),)

    return [result], backward


def avg_pool(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """AvgPool(image [B,H,W,C]) -> [B,H',W',C]; padding does not count."""
    (image,) = operation.inputs
    (result,) = operation.emit()
    over = _window(operation, image, result)

    def backward(gradients):
        (gradient,) = gradients
        counts = np.outer(_counts(over.rows), _counts(over.columns))
        share = gradient * tf.constant(1.0 / counts[None, :, :, None], gradient.dtype)
        paid: dict = {}
        for tap in over.taps:
            paid.setdefault(_phase(over, tap), []).append((tap, share))
        return (_collect(paid, over),)

    return [result], backward


def _window(
    operation: rule.Operation, image: tf.Tensor, result: tf.Tensor
) -> window.Window:
    size = operation.attributes["ksize"]
    if size[0] != 1 or size[3] != 1:
        raise operation.refuse("windows over height and width alone", size)
    return window.window_of(
        operation, rule.static_shape(image), size[1:3], rule.static_shape(result)
    )


def _phase(over: window.Window, tap: tuple[int, int]) -> tuple[int, int]:
    return over.rows.place(tap[0])[0], over.columns.place(tap[1])[0]


def _counts(axis: window.Axis) -> np.ndarray:
    """The cells of the image that each window holds."""
    first = np.arange(axis.out) * axis.stride - axis.before
    last = np.minimum(first + axis.kernel, axis.size)
    return last - np.maximum(first, 0)


def _collect(paid: dict, over: window.Window) -> tf.Tensor:
    """Sums what each tap pays to the cells of its phase, and merges the phases."""
    phases = {}
    for phase, shares in paid.items():
        total = None
        for tap, share in shares:
            moved = window.tap_of_gradient(window.spread(share, over), over, tap)
            total = moved if total is None else total + moved
        phases[phase] = total
    return window.merge(phases, over)


RULES: dict[str, rule.Rule] = {"AvgPool": avg_pool, "MaxPool": max_pool}
