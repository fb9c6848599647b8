"""Tests of `signatures.gradients.graph`: what is differentiated, and what is not."""

import collections

import keras
import numpy as np
import tensorflow as tf
from absl.testing import absltest

from signatures.gradients import graph


def count(function, *specs) -> collections.Counter:
    """Counts the operators that a function leaves after TensorFlow's pruning."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    wanted, stack = set(), [t.op for t in concrete.graph.outputs]
    while stack:
        operation = stack.pop()
        if operation not in wanted:
            wanted.add(operation)
            stack.extend(t.op for t in operation.inputs)
    return collections.Counter(operation.type for operation in wanted)


class ValueAndGradientsTest(absltest.TestCase):
    def test_gradients_of_a_hand_computed_square(self):
        @tf.function
        def step(x):
            return graph.value_and_gradients(lambda w: w[0] * w[0] + w[1], [x, x])

        loss, gradients = step(tf.constant(3.0))
        self.assertEqual(float(loss), 12.0)
        self.assertEqual([float(g) for g in gradients], [6.0, 1.0])

    def test_an_operator_without_a_rule_is_named(self):
        def step(x):
            return graph.value_and_gradients(
                lambda w: tf.reduce_sum(tf.math.erf(w[0], name="layer/Erf")), [x]
            )

        with self.assertRaisesRegex(ValueError, "Erf 'layer/Erf'.*Available.*Conv2D"):
            tf.function(step)(tf.constant([1.0]))

    def test_keras_model(self):
        layers = keras.layers
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.Input((13, 12, 3), batch_size=2),
                layers.Conv2D(4, 5, strides=2, padding="same"),
                layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal"),
                layers.DepthwiseConv2D(3, padding="same"),
                layers.UpSampling2D(interpolation="bilinear"),
                layers.ZeroPadding2D(),
                layers.DepthwiseConv2D(5, strides=2, padding="same"),
                layers.MaxPool2D(),
                layers.Conv2DTranspose(5, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(5),
            ]
        )
        rng = np.random.default_rng(0)
        image = tf.constant(rng.normal(size=(2, 13, 12, 3)), tf.float32)
        weights = [tf.constant(v.numpy()) for v in model.trainable_variables]

        def loss(weights, image):
            logits, _ = model.stateless_call(weights, [], image)
            labels = tf.constant([1, 4])
            return tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )

        step = tf.function(lambda w, x: graph.value_and_gradients(loss, w, x))
        value, gradients = step(weights, image)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            expected = loss(weights, image)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        for got, want in zip(gradients, tape.gradient(expected, weights)):
            # Sums of some hundred float32 products in another order.
            np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max() * 10)

    def test_training_the_last_of_three_convolutions_leaves_the_others_alone(self):
        spec = tf.TensorSpec([1, 1, 3, 3])
        image = tf.TensorSpec([1, 8, 8, 3])

        def loss(weights, first, second, x):
            x = tf.nn.conv2d(x, first, 1, "SAME")
            x = tf.nn.conv2d(x, second, 1, "SAME")
            return tf.reduce_sum(tf.nn.conv2d(x, weights[0], 1, "SAME") ** 2)

        def step(w, first, second, x):
            return graph.value_and_gradients(loss, [w], first, second, x)

        found = count(step, spec, spec, spec, image)
        self.assertEqual(found["Conv2D"], 2)  # both frozen ones, as they are
        self.assertEqual(found["BatchMatMulV2"], 2)  # the product and its filter's


if __name__ == "__main__":
    absltest.main()
