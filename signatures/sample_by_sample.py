"""A batch as its samples, one after the other, in one WHILE.

The memory of a step is then that of one sample, whatever the batch, and its tensors are
small enough to stay in the processor's caches. Not for what looks at a whole batch, as
BatchNormalization does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def summed(
    function: Callable[[Any], Sequence[tf.Tensor]],
    batched: Any,
    shapes: Sequence[tf.TensorShape],
) -> list[tf.Tensor]:
    """Sums over the samples of a batch what a function gives of one.

    Args:
      function: From `batched` with a batch of 1 to float32 tensors.
      batched: A structure of tensors [B, ...].
      shapes: Of what the function gives.

    Returns:
      The sums.
    """
    size = tf.nest.flatten(batched)[0].shape[0]
    if size == 1:
        return list(function(batched))

    def add(place, *sums):
        # Not a slice: where it begins is not known, and its shape would not be, either.
        sample = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, tf.reshape(place, [1])), batched
        )
        return place + 1, *(s + g for s, g in zip(sums, function(sample), strict=True))

    start = [tf.zeros(shape) for shape in shapes]
    _, *sums = tf.while_loop(
        lambda place, *_: place < size, add, (tf.constant(0), *start)
    )
    return sums
