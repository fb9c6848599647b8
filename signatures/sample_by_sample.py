"""A batch as its samples, one or a few after the other, in one WHILE.

The memory of a step is then that of these samples, whatever the batch, and its tensors
are small enough to stay in the processor's caches. Not for what looks at a whole batch,
as BatchNormalization does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def summed(
    function: Callable[[Any], Sequence[tf.Tensor]],
    batched: Any,
    shapes: Sequence[tf.TensorShape],
    together: int = 1,
) -> list[tf.Tensor]:
    """Sums over the samples of a batch what a function gives of one, or of some.

    Args:
      function: From `batched` with a batch of `together` to float32 tensors.
      batched: A structure of tensors [B, ...].
      shapes: Of what the function gives.
      together: How many samples it is given at a time; divides B.

    Returns:
      The sums.
    """
    size = tf.nest.flatten(batched)[0].shape[0]
    if size == together:
        return list(function(batched))

    def add(first, *sums):
        # Not a slice: where it begins is not known, and its shape would not be, either.
        places = tf.reshape(first, [1])
        if together > 1:  # An addition of 0 took .4 MB a sample on a frozen trunk.
            places += tf.range(together)
        samples = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, places), batched
        )
        found = function(samples)
        return first + together, *(s + f for s, f in zip(sums, found, strict=True))

    start = [tf.zeros(shape) for shape in shapes]
    _, *sums = tf.while_loop(
        lambda first, *_: first < size, add, (tf.constant(0), *start)
    )
    return sums
