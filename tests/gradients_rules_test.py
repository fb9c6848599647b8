"""Tests of the rules that do not slide a window."""

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from signatures.gradients import graph, rule, rules
from tests.gradient_checks import SINGLE, check, noise


def positive(*shape):
    return np.abs(noise(*shape)) + 0.1


def corners(dtype):
    """Where activations bend, their neighbours, and numbers of extreme size."""
    return np.array(
        [0, -0.0, 6, np.nextafter(dtype(6), dtype(0)), 7, 1e30, -1e30]
        + [np.finfo(dtype).tiny, -np.finfo(dtype).tiny, 1e-20, -1e-20, 0.5, -0.5, -3],
        dtype,
    )


class ActivationTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("relu", tf.nn.relu),
        ("relu6", lambda x: tf.nn.relu6(4 * x)),
        ("leaky_relu", lambda x: tf.nn.leaky_relu(x, 0.3)),
        ("leaky_relu_negative", lambda x: tf.nn.leaky_relu(x, -2.0)),
        ("elu", tf.nn.elu),
        ("selu", tf.nn.selu),
        ("sigmoid", tf.nn.sigmoid),
        ("tanh", tf.nn.tanh),
        ("softplus", tf.nn.softplus),
        ("log_sigmoid", tf.math.log_sigmoid),
        ("silu", tf.nn.silu),
        ("hard_swish", lambda x: x * tf.nn.relu6(x + 3) / 6),
        ("gelu", lambda x: tf.nn.gelu(x, approximate=True)),
        ("mish", lambda x: x * tf.tanh(tf.nn.softplus(x))),
        ("softsign", tf.nn.softsign),
        ("expm1", tf.math.expm1),
        ("erf", tf.math.erf),
        ("erfc", tf.math.erfc),
    )
    def test_activation(self, function):
        check(function, noise(3, 5))

    def test_gelu(self):
        # Its gradient has the value of erf in it, which is float32's.
        check(lambda x: tf.nn.gelu(3 * x), noise(3, 5), tolerance=SINGLE)

    def test_erf_is_that_of_float32(self):
        x = np.concatenate([np.linspace(-6, 6, 4001), [0, 1e-30, -1e30, 1e30]])

        @tf.function(autograph=False)
        def ours(x):
            return graph.forward(lambda w: tf.math.erf(w[0]), [x])

        got = ours(tf.constant(x, tf.float32))
        np.testing.assert_allclose(got, tf.math.erf(x), rtol=0, atol=4e-7)

    @parameterized.named_parameters(
        ("relu", tf.nn.relu),
        ("relu6", tf.nn.relu6),
        ("leaky_relu", lambda x: tf.nn.leaky_relu(x, 0.3)),
        ("leaky_relu_negative", lambda x: tf.nn.leaky_relu(x, -2.0)),
        ("abs", tf.abs),
    )
    def test_corners_in_both_precisions(self, function):
        check(function, corners(np.float64), differences=False)
        check(
            lambda x: function(tf.cast(x, tf.float32)),
            corners(np.float32).astype(np.float64),
            differences=False,
            # The loss squares nothing: what is left is float32's own rounding.
            tolerance=1e-6,
        )

    @parameterized.parameters(-9.1, -1.0, 0.0, 0.25, 1.0, 16.5)
    def test_prelu_of_keras(self, alpha):
        def prelu(x, alpha):
            return tf.nn.relu(x) + -alpha * tf.nn.relu(-x)

        check(prelu, noise(2, 3, 3, 4), np.full([1, 1, 4], alpha))
        signs = np.array([1e-300, -1e-300, 0.0, -0.0, 1e-20, -1e-20, 2.0, -2.0])
        check(
            prelu, signs.reshape(1, 2, 1, 4), np.full([4], alpha), differences=False
        )

    def test_prelu_is_recognised(self):
        def types(function):
            def step(*weights):
                return graph.forward(function, weights)

            traced = tf.function(step, autograph=False).get_concrete_function(
                tf.TensorSpec([4]), tf.TensorSpec([4])
            )
            return [op.type for op in traced.graph.get_operations()]

        relu = tf.nn.relu
        self.assertNotIn("Neg", types(lambda w: relu(w[0]) + -w[1] * relu(-w[0])))
        self.assertIn("Neg", types(lambda w: relu(w[0]) + w[1] * relu(-w[0])))
        self.assertIn("Neg", types(lambda w: relu(w[0]) + -w[1] * relu(-w[1])))


class ElementwiseTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("add", tf.add),
        ("sub", tf.subtract),
        ("mul", tf.multiply),
        ("div", tf.divide),
        ("squared_difference", tf.math.squared_difference),
        ("maximum", tf.maximum),
        ("minimum", tf.minimum),
    )
    def test_binary_broadcast(self, function):
        check(function, noise(2, 3, 4), positive(2, 3, 4))
        check(function, noise(2, 3, 4), positive(4))
        check(function, noise(3, 1), positive(2, 1, 4))
        check(function, noise(1), positive(2, 2))

    def test_maximum_of_equals_pays_the_first(self):
        for function in (tf.maximum, tf.minimum):
            check(function, np.ones(3), np.array([1, 2, 0.5]), differences=False)

    @parameterized.named_parameters(
        ("abs", tf.abs),
        ("cos", tf.cos),
        ("exp", tf.exp),
        ("log", tf.math.log),
        ("log1p", tf.math.log1p),
        ("neg", tf.negative),
        ("divide_no_nan", lambda x: tf.math.divide_no_nan(x, x * x + 1)),
        ("pow", lambda x: x**3 + tf.pow(x, 1.7)),
        ("focal_pow", lambda x: (1 - tf.sigmoid(x)) ** 2.0),
        ("reciprocal", tf.math.reciprocal),
        ("rsqrt", tf.math.rsqrt),
        ("sin", tf.sin),
        ("sqrt", tf.sqrt),
        ("square", tf.square),
        ("add_n", lambda x: tf.add_n([x, x, 2 * x])),
        ("used_twice", lambda x: x * x + x),
        ("bias_add", lambda x: tf.nn.bias_add(x, x[0])),
        ("where", lambda x: tf.where(x > 0.7, x * x, 3.0 * x)),
        ("where_broadcast", lambda x: tf.where(x[:1] > 0.7, x * x, 3.0 * x[:, :1])),
        ("clip", lambda x: tf.clip_by_value(x, 0.4, 0.9)),
        ("stop_gradient", lambda x: x * tf.stop_gradient(tf.floor(x * 3)) + x),
        ("sign_and_rounding", lambda x: x * tf.sign(x - 0.5) * tf.round(3 * x)),
    )
    def test_unary(self, function):
        check(function, positive(3, 4))

    def test_pow_with_a_trained_exponent_is_refused(self):
        with self.assertRaisesRegex(graph.GradientError, "does not depend on a weight"):
            check(tf.pow, positive(3), positive(3))

    def test_sigmoid_cross_entropy(self):
        labels = (noise(3, 4) > 0).astype(np.float64)
        check(
            lambda x: tf.nn.sigmoid_cross_entropy_with_logits(labels, x), noise(3, 4)
        )


class ReductionTest(parameterized.TestCase):
    @parameterized.product(
        function=(tf.reduce_sum, tf.reduce_mean, tf.reduce_max, tf.reduce_min),
        axes=(None, 0, -1, (1, 2), (0, 2), (0, 1, 2), (0, 3), (1, 3), ()),
        keepdims=(True, False),
    )
    def test_reduction(self, function, axes, keepdims):
        check(
            lambda x: function(x, axes, keepdims),
            noise(2, 3, 1, 4),
            differences=axes == (1, 2),
        )

    @parameterized.parameters((1, (1, 2)), (1, (0, 1, 2)), (3, (1, 2)), (3, (0, 1, 2)))
    def test_an_image_is_summed_as_it_lies(self, batch, axes):
        """Merging its axes would copy it."""
        summed = tf.function(lambda x: rule.sum_over(x, axes), autograph=False)
        images = tf.constant(noise(batch, 5, 6, 4))
        made = summed.get_concrete_function(images).graph
        (image,) = made.inputs
        readers = {reader.type for reader in image.consumers()}
        self.assertEqual(readers, {"Sum"})
        np.testing.assert_allclose(
            summed(images), np.sum(images, axes), rtol=0, atol=1e-12
        )

    @parameterized.product(
        axis=(0, -1), exclusive=(True, False), reverse=(True, False)
    )
    def test_cumsum(self, **settings):
        check(lambda x: tf.cumsum(x, **settings), noise(3, 4))

    def test_the_largest(self):
        check(lambda x: tf.math.top_k(x, 2)[0], noise(2, 3, 5))

    def test_ties_of_a_maximum_share(self):
        check(
            lambda x: tf.reduce_max(x, 1),
            np.array([[1.0, 2, 2], [0, 0, 0]]),
            differences=False,
        )

    @parameterized.named_parameters(
        ("softmax", tf.nn.softmax),
        ("log_softmax", tf.nn.log_softmax),
        ("softmax_of_rank_3", lambda x: tf.nn.softmax(x[None] * 20)),
        ("moments", lambda x: tf.add_n([m for m in tf.nn.moments(x, [1])])),
        ("logsumexp", lambda x: tf.reduce_logsumexp(x, -1)),
        ("l2", lambda x: tf.nn.l2_normalize(x, 1)),
    )
    def test_over_the_last_axis(self, function):
        check(function, noise(3, 5))

    def test_cross_entropies(self):
        labels = positive(3, 5)
        check(
            lambda x, y: tf.nn.softmax_cross_entropy_with_logits(y, 10 * x),
            noise(3, 5),
            labels / labels.sum(1, keepdims=True),
        )
        check(
            lambda x: tf.nn.sparse_softmax_cross_entropy_with_logits([4, 0, 2], x),
            noise(3, 5),
        )


class ArrangementTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("reshape", lambda x: tf.reshape(x, [4, -1])),
        ("squeeze", lambda x: tf.squeeze(x[:1], 0)),
        ("expand_dims", lambda x: tf.expand_dims(x, 1)),
        ("transpose", lambda x: tf.transpose(x, [2, 3, 0, 1])),
        ("pad", lambda x: tf.pad(x, [[0, 1], [2, 0], [0, 0], [1, 3]])),
        ("pad_with_a_value", lambda x: tf.pad(x, [[1, 1]] * 4, constant_values=3)),
        ("reflect", lambda x: tf.pad(x, [[0, 0], [2, 1], [1, 3], [0, 0]], "REFLECT")),
        ("mirror", lambda x: tf.pad(x, [[0, 0], [2, 1], [0, 4], [1, 1]], "SYMMETRIC")),
        ("concat", lambda x: tf.concat([x, 2 * x, tf.ones_like(x)], 3)),
        ("concat_negative_axis", lambda x: tf.concat([x[:, :1], x], -3)),
        ("split", lambda x: tf.concat(tf.split(x, 2, 3)[::-1], 1)),
        ("split_v", lambda x: tf.split(x, [1, 3], -1)[1]),
        ("stack", lambda x: tf.stack([x, x * x], 2)),
        ("unstack", lambda x: tf.unstack(x, axis=1)[2]),
        ("slice", lambda x: tf.slice(x, [0, 1, 0, 2], [-1, 2, 3, 1])),
        ("strided_slice", lambda x: x[:, 1::2, ..., ::3]),
        ("strided_slice_one_index", lambda x: x[1, -1, :-2, None, 1:3]),
        ("strided_slice_ellipsis", lambda x: x[..., 2]),
        ("strided_slice_last_of_stride", lambda x: x[:, 2::4]),
        ("tile", lambda x: tf.tile(x, [2, 1, 3, 2])),
        ("broadcast_to", lambda x: tf.broadcast_to(x[:, :1], [2, 2, 6, 4, 4])),
        ("repeat_of_keras", lambda x: tf.repeat(x, 2, axis=1)),
        ("reverse", lambda x: tf.reverse(x, [0, -1])),
        ("gather", lambda x: tf.gather(x, [[2, 0], [2, 2]], axis=1)),
        ("cast", lambda x: tf.cast(tf.cast(x, tf.float64), tf.float64) * x),
        ("space_to_depth", lambda x: tf.nn.space_to_depth(x, 2)),
        ("depth_to_space", lambda x: tf.nn.depth_to_space(x, 2)),
        ("space_to_batch", lambda x: tf.space_to_batch(x, [2, 2], [[0, 0], [1, 1]])),
        ("batch_to_space", lambda x: tf.batch_to_space(x, [1, 2], [[0, 0], [1, 0]])),
        ("identity_n", lambda x: tf.raw_ops.IdentityN(input=[x, x * x])[1]),
    )
    def test_arrangement(self, function):
        check(lambda x: function(x) * 1.5, noise(2, 6, 4, 4))

    def test_value_of_a_pad(self):
        check(
            lambda x, value: tf.raw_ops.PadV2(
                input=x, paddings=[[1, 0], [2, 1]], constant_values=value
            ),
            noise(2, 3),
            noise(),
            tape=False,  # TensorFlow takes the value for a constant
        )

    def test_strides_below_0_are_refused(self):
        with self.assertRaisesRegex(graph.GradientError, "strides above 0"):
            check(lambda x: x[::-1], noise(4))

    def test_another_custom_gradient_is_refused(self):
        @tf.custom_gradient
        def doubled(x):
            return x * tf.sigmoid(x + 1), lambda g: 2 * g

        with self.assertRaisesRegex(graph.GradientError, "no tf.custom_gradient"):
            check(doubled, noise(4))


class ProductTest(parameterized.TestCase):
    @parameterized.product(turn_a=(False, True), turn_b=(False, True))
    def test_products(self, turn_a, turn_b):
        def apply(a, b):
            return tf.matmul(a, b, transpose_a=turn_a, transpose_b=turn_b)

        a, b = ((4, 3), (3, 4))[turn_a], ((3, 5), (5, 3))[turn_b]
        for left, right in (((), ()), ((2,), (2,)), ((2,), (1,)), ((3, 1), (2,))):
            check(apply, noise(*left, *a), noise(*right, *b))


class EinsumTest(parameterized.TestCase):
    @parameterized.parameters(
        ("ab,bc->ac", (3, 4), (4, 2)),
        ("abc,cd->abd", (2, 3, 4), (4, 5)),
        ("abc,cde->abde", (2, 3, 4), (4, 2, 5)),
        ("aecd,abcd->acbe", (2, 3, 4, 5), (2, 6, 4, 5)),
        ("acbe,aecd->abcd", (2, 4, 6, 3), (2, 3, 4, 5)),
        ("ab,cd->bdac", (2, 3), (4, 5)),
        ("abc,bd->ad", (2, 3, 4), (3, 5)),
        ("ab,ab->", (2, 3), (2, 3)),
    )
    def test_two_operands(self, equation, one, two):
        def apply(a, b):
            return tf.einsum(equation, a, b)

        check(apply, noise(*one), noise(*two, seed=1))

    @parameterized.parameters("abc->cab", "abc->b", "abc->")
    def test_one_operand(self, equation):
        check(lambda a: tf.einsum(equation, a), noise(2, 3, 4))

    @parameterized.parameters(
        ("aab,bc->ac", (3, 3, 4), (4, 2)), ("...a,ab->...b", (2, 3), (3, 4))
    )
    def test_others_are_refused(self, equation, *shapes):
        def apply(*tensors):
            return tf.raw_ops.Einsum(inputs=tensors, equation=equation)

        with self.assertRaisesRegex(graph.GradientError, "each label once a tensor"):
            check(apply, *(noise(*shape) for shape in shapes))


class TableTest(absltest.TestCase):
    def test_no_operator_is_in_both_tables(self):
        self.assertEmpty(rules.CONSTANT.intersection(rules.RULES))


if __name__ == "__main__":
    absltest.main()
