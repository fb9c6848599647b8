"""Gradients over shapes, windows and axes that nobody chose, against TensorFlow's."""

from __future__ import annotations

import hypothesis
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.gradient_checks import SINGLE, check, noise

# Tracing and the tape take 0.1 s a case, and cases are small as they are drawn.
_SMALLER = ("shrink", "explain")
few = hypothesis.settings(
    max_examples=8,
    phases=[phase for phase in hypothesis.Phase if phase.name not in _SMALLER],
)
PADDINGS = st.sampled_from(("SAME", "VALID"))
SIDE = st.integers(1, 6)
CHANNELS = st.integers(1, 3)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int], int, int, str]:
    """[N, H, W, C] of an image, window, stride, dilation, padding; all of it fits."""
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.integers(1, 2))
    stride = draw(st.integers(1, 3)) if dilation == 1 else 1
    padding = draw(PADDINGS)
    least = [
        (side - 1) * dilation + 1 if padding == "VALID" else 1 for side in window
    ]
    height, width = (low + draw(st.integers(0, 4)) for low in least)
    shape = (draw(st.integers(1, 2)), height, width, draw(CHANNELS))
    return shape, window, stride, dilation, padding


@few
@given(windows(), CHANNELS)
def test_convolution(case, outputs):
    shape, window, stride, dilation, padding = case
    check(
        lambda x, k: tf.nn.conv2d(x, k, stride, padding, dilations=dilation),
        noise(*shape),
        noise(*window, shape[3], outputs),
        # TensorFlow has no gradient of a dilated one here.
        tape=dilation == 1,
        differences=dilation > 1,
    )


@few
@given(windows(), st.integers(1, 2))
def test_depthwise_convolution(case, multiplier):
    shape, window, stride, dilation, padding = case
    check(
        lambda x, k: tf.nn.depthwise_conv2d(
            x, k, [1, stride, stride, 1], padding, dilations=[dilation, dilation]
        ),
        noise(*shape),
        noise(*window, shape[3], multiplier),
        differences=False,
    )


@few
@given(windows(), st.sampled_from((tf.nn.max_pool2d, tf.nn.avg_pool2d)))
def test_pooling(case, pool):
    shape, window, stride, _, padding = case
    check(
        lambda x: pool(x, window, stride, padding), noise(*shape), differences=False
    )


@st.composite
def broadcast(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast, each with axes that are one or missing."""
    whole = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    found = []
    for _ in range(2):
        some = [draw(st.sampled_from((size, 1))) for size in whole]
        found.append(tuple(some[draw(st.integers(0, len(some) - 1)) :]))
    return found[0], found[1]


@few
@given(
    broadcast(),
    st.sampled_from((tf.add, tf.subtract, tf.multiply, tf.divide, tf.maximum)),
)
def test_broadcasting(shapes, function):
    one, two = shapes
    check(function, noise(*one), 3 + noise(*two, seed=1), differences=False)


@few
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from((tf.reduce_sum, tf.reduce_mean, tf.reduce_max)),
    st.booleans(),
    st.data(),
)
def test_reductions(shape, function, keep, data):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    check(lambda x: function(x, axes, keep), noise(*shape), differences=False)


@few
@given(
    st.lists(st.integers(1, 3), min_size=0, max_size=2),
    st.tuples(SIDE, SIDE, SIDE),
    st.booleans(),
    st.booleans(),
)
def test_matrix_products(batch, sides, turn_one, turn_two):
    rows, inner, columns = sides
    one = (inner, rows) if turn_one else (rows, inner)
    two = (columns, inner) if turn_two else (inner, columns)
    check(
        lambda a, b: tf.matmul(a, b, transpose_a=turn_one, transpose_b=turn_two),
        noise(*batch, *one),
        noise(*batch, *two),
        differences=False,
    )


@few
@given(SIDE, SIDE, st.integers(1, 3), st.booleans())
def test_resizing(height, width, factor, half_pixels):
    def resize(x):
        return tf.raw_ops.ResizeBilinear(
            images=x,
            size=(factor * height, factor * width),
            half_pixel_centers=half_pixels,
        )

    check(resize, noise(1, height, width, 2), tolerance=SINGLE, differences=False)


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_arrangement(shape, data):
    axes = data.draw(st.permutations(range(len(shape))))
    begin = [data.draw(st.integers(0, size - 1)) for size in shape]
    size = [data.draw(st.integers(1, n - b)) for n, b in zip(shape, begin)]
    pads = [data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in shape]

    def arranged(x):
        x = tf.transpose(tf.pad(tf.slice(x, begin, size), pads), axes)
        return tf.concat([x, 2 * tf.reshape(x, x.shape)], axis)

    axis = data.draw(st.integers(0, len(shape) - 1))
    check(arranged, noise(*shape), differences=False)
