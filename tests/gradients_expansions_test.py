"""Tests of the operators that are replaced by others."""

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from signatures.gradients import expansions, graph
from tests.gradient_checks import SINGLE, check, noise


class DepthTest(parameterized.TestCase):
    @parameterized.product(
        padding=("SAME", "VALID"), stride=((1, 1, 1), (2, 1, 3)), kernel=((2, 3, 1),)
    )
    def test_conv3d(self, padding, stride, kernel):
        check(
            lambda x, w: tf.nn.conv3d(x, w, [1, *stride, 1], padding),
            noise(2, 5, 6, 7, 2),
            noise(*kernel, 2, 3),
        )

    @parameterized.product(
        padding=("SAME", "VALID"),
        stride=((1, 1, 1), (2, 1, 2), (3, 2, 1)),
        kernel=((2, 3, 2), (3, 1, 2), (1, 1, 1)),
    )
    def test_conv3d_transpose(self, padding, stride, kernel):
        sizes = [
            n * s if padding == "SAME" else (n - 1) * s + max(k, s)
            for n, s, k in zip((3, 4, 2), stride, kernel)
        ]
        check(
            lambda w, x: tf.nn.conv3d_transpose(
                x, w, [2, *sizes, 3], [1, *stride, 1], padding
            ),
            noise(*kernel, 3, 2),
            noise(2, 3, 4, 2, 2),
            # TensorFlow's own, on a CPU, errs where strides are above the kernel.
            tape=all(k >= s for k, s in zip(kernel, stride)),
        )

    @parameterized.product(
        pool=(tf.nn.max_pool3d, tf.nn.avg_pool3d),
        padding=("SAME", "VALID"),
        stride=((1, 1, 1), (2, 3, 1)),
    )
    def test_pool3d(self, pool, padding, stride):
        check(
            lambda x: pool(
                tf.cast(x, tf.float32), [1, 2, 3, 2, 1], [1, *stride, 1], padding
            ),
            noise(2, 5, 6, 4, 2),
            tolerance=SINGLE,  # TensorFlow has them in float32 alone.
            differences=False,
        )

    @parameterized.parameters(
        (2, [1, 1, 1, 1, 1], "one group of channels"),
        (4, [1, 2, 1, 1, 1], "no dilation"),
    )
    def test_what_is_refused(self, inputs, dilations, message):
        @tf.function(autograph=False)
        def ours(x, w):
            return graph.forward(
                lambda v: tf.nn.conv3d(*v, [1] * 5, "VALID", dilations=dilations),
                [x, w],
            )

        with self.assertRaisesRegex(graph.GradientError, message):
            ours(tf.ones([1, 4, 2, 2, 4]), tf.ones([2, 1, 1, inputs, 4]))


class ResizeTest(parameterized.TestCase):
    @parameterized.product(
        size=((9, 4), (3, 11), (5, 7)),
        settings=(
            {"method": "bicubic"},
            {"method": "bicubic", "antialias": True},
            {"method": "bilinear", "antialias": True},
            {"method": "lanczos3"},
            {"method": "mitchellcubic"},
        ),
    )
    def test_resize(self, size, settings):
        check(
            lambda x: tf.image.resize(tf.cast(x, tf.float32), size, **settings),
            noise(2, 5, 7, 3),
            tolerance=SINGLE,
            differences=False,
        )

    def test_the_size_must_be_known(self):
        @tf.function(autograph=False)
        def ours(x, size):
            return graph.forward(
                lambda x, s: tf.ensure_shape(
                    tf.raw_ops.ResizeBicubic(images=x[0], size=s), [1, 4, 4, 1]
                ),
                [x],
                size,
            )

        with self.assertRaisesRegex(graph.GradientError, "known|constant"):
            ours(tf.ones([1, 2, 2, 1]), tf.constant([4, 4]))


class ProjectionTest(parameterized.TestCase):
    @parameterized.product(
        mode=("CONSTANT", "NEAREST", "REFLECT", "WRAP"),
        interpolation=("BILINEAR", "NEAREST"),
        size=((5, 7), (4, 3)),
    )
    def test_pictures_are_those_of_the_operator(self, mode, interpolation, size):
        images = noise(3, 5, 7, 2).astype(np.float32)
        # Far out on either side, turned, slanted, and in perspective. No place lies on
        # an edge, where rounding says which side of the picture WRAP shows.
        transforms = np.array(
            [[0.8, 0.3, -9.137, -0.4, 1.1, 2.291, 0, 0],
             [-1.7, 0.2, 21.437, 0.1, 2.3, -3.713, 0, 0],
             [1.1, 0, -0.3, 0, 0.9, 0.43, 0.11, -0.05]],
            np.float32,
        )  # fmt: skip

        def function(images, transforms):
            return tf.raw_ops.ImageProjectiveTransformV3(
                images=images,
                transforms=transforms,
                output_shape=size,
                fill_value=0.25,
                interpolation=interpolation,
                fill_mode=mode,
            )

        for given in (transforms, transforms[:1]):
            got = tf.function(
                lambda *both: graph.forward(lambda _, *t: function(*t), [], *both),
                autograph=False,
            )(tf.constant(images), tf.constant(given))
            expected = function(images, given)
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)

    @parameterized.parameters("CONSTANT", "NEAREST", "REFLECT", "WRAP")
    def test_a_picture_that_is_not_moved_is_itself(self, mode):
        images = tf.constant(noise(1, 5, 7, 2).astype(np.float32))
        identity = tf.constant([[1.0, 0, 0, 0, 1, 0, 0, 0]])
        got = tf.function(
            lambda *both: graph.forward(
                lambda _, images, transforms: tf.raw_ops.ImageProjectiveTransformV3(
                    images=images,
                    transforms=transforms,
                    output_shape=[5, 7],
                    fill_value=0.25,
                    interpolation="BILINEAR",
                    fill_mode=mode,
                ),
                [],
                *both,
            ),
            autograph=False,
        )(images, identity)
        np.testing.assert_allclose(got, images, rtol=0, atol=1e-6)

    def test_a_place_without_an_image(self):
        transforms = tf.constant([[1.0, 0, 0, 0, 1, 0, -1, 0]])
        got = tf.function(
            lambda t: graph.forward(
                lambda _, t: tf.raw_ops.ImageProjectiveTransformV3(
                    images=tf.ones([1, 1, 3, 1]),
                    transforms=t,
                    output_shape=[1, 3],
                    fill_value=7.0,
                    interpolation="NEAREST",
                    fill_mode="NEAREST",
                ),
                [],
                t,
            ),
            autograph=False,
        )(transforms)
        np.testing.assert_array_equal(got[0, 0, :, 0], [1, 7, 1])


class SpellingTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("band", lambda x: tf.linalg.band_part(x, 1, -1)),
        ("band_below", lambda x: tf.linalg.band_part(x, -1, 0)),
        ("cosh", tf.cosh),
        ("mod", lambda x: tf.math.floormod(x, 0.7)),
        ("prod", lambda x: tf.reduce_prod(x, axis=1)),
        ("prod_all", lambda x: tf.reduce_prod(x)),
        ("prod_kept", lambda x: tf.reduce_prod(x, axis=[0, -1], keepdims=True)),
        ("roll", lambda x: tf.roll(x, [2, -1], [1, 2])),
        ("roll_around", lambda x: tf.roll(x, -9, 0)),
        ("sinh", tf.sinh),
        ("tan", tf.tan),
    )
    def test_spelling(self, function):
        check(function, noise(2, 3, 4))

    def test_a_product_with_a_zero(self):
        check(lambda x: tf.reduce_prod(x, axis=0), np.array([[2.0, 0], [0, 0], [3, 4]]))

    def test_floor_of_a_quotient(self):
        check(lambda x: x * tf.math.floordiv(x, 0.7), noise(2, 3))

    def test_integers_keep_their_operator(self):
        @tf.function(autograph=False)
        def ours(x, i):
            return graph.forward(
                lambda v, i: v[0] * tf.cast(tf.math.floormod(i, 3), tf.float32), [x], i
            )

        np.testing.assert_array_equal(ours(tf.ones([2]), tf.constant([5, -1])), [2, 2])


class ConditionTest(parameterized.TestCase):
    @parameterized.parameters(1.0, -1.0)
    def test_either_branch(self, sign):
        check(
            lambda x: tf.cond(
                tf.reduce_sum(x) > 0, lambda: x * x, lambda: tf.exp(x)
            ),
            sign * np.abs(noise(3, 4)),
        )

    def test_a_branch_that_is_known_is_alone(self):
        @tf.function(autograph=False)
        def ours(x):
            return graph.forward(
                lambda v: tf.cond(
                    tf.constant(True), lambda: tf.sin(v[0]), lambda: tf.cos(v[0])
                ),
                [x],
            )

        traced = ours.get_concrete_function(tf.TensorSpec([2])).graph
        kinds = {operation.type for operation in traced.get_operations()}
        self.assertIn("Sin", kinds)
        self.assertNotIn("Cos", kinds)


class TableTest(absltest.TestCase):
    def test_none_is_left(self):
        @tf.function(autograph=False)
        def ours(x):
            return graph.forward(lambda v: tf.nn.avg_pool3d(v[0], 2, 2, "VALID"), [x])

        traced = ours.get_concrete_function(tf.TensorSpec([1, 4, 4, 4, 1])).graph
        kinds = {operation.type for operation in traced.get_operations()}
        self.assertFalse(kinds & set(expansions.EXPANSIONS))
        self.assertIn("AvgPool", kinds)


if __name__ == "__main__":
    absltest.main()
