"""Tests of random numbers: uniform, independent, the same bits in every runtime."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from signatures.gradients import graph, randomness
from tests import builtin_files, keras_reference

SHAPE = (64, 9, 50)


def draw(kind: str = randomness.UNIFORM, seed: int = 0, step: int = 0, skip: int = 0):
    """One tensor of `SHAPE`, after `skip` others."""
    generator = randomness.Generator(tf.constant(seed), tf.constant(step))
    for _ in range(skip):
        generator.draw(kind, (2,), tf.float32)
    return generator.draw(kind, SHAPE, tf.float32).numpy()


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


class UniformTest(parameterized.TestCase):
    # 28,800 numbers: correlations of independent ones have a deviation of 0.0059.
    FIVE_SIGMA = 5 / math.sqrt(math.prod(SHAPE))

    @parameterized.parameters(0, 1, 7, -1, 2**31 - 1, -(2**31))
    def test_is_uniform(self, seed):
        drawn = draw(seed=seed)
        self.assertGreaterEqual(drawn.min(), 0)
        self.assertLess(drawn.max(), 1)
        counts = np.histogram(drawn, 64, (0, 1))[0]
        expected = drawn.size / 64
        chi = np.sum((counts - expected) ** 2 / expected)
        # Of 63 degrees of freedom: mean 63, deviation 11.2.
        self.assertBetween(chi, 63 - 5 * 11.2, 63 + 5 * 11.2)
        self.assertGreater(len(np.unique(drawn)), 0.99 * drawn.size)

    def test_neighbours_are_independent(self):
        drawn = draw()
        for axis in range(drawn.ndim):
            for lag in (1, 2, 3):
                moved = np.roll(drawn, lag, axis)
                self.assertLess(abs(correlation(drawn, moved)), self.FIVE_SIGMA)

    def test_seeds_steps_and_draws_are_independent(self):
        drawn = draw()
        for other in (
            draw(seed=1), draw(seed=-1), draw(seed=randomness.PRIMES[0]),
            draw(step=1), draw(step=2), draw(step=46337), draw(skip=1), draw(skip=2),
        ):  # fmt: skip
            self.assertLess(abs(correlation(drawn, other)), self.FIVE_SIGMA)
            self.assertLess(np.mean(drawn == other), 1e-3)

    def test_the_same_seed_and_step_repeat(self):
        self.assertEqual(draw(seed=5, step=3).tobytes(), draw(seed=5, step=3).tobytes())

    def test_is_what_numpy_computes(self):
        drawn = draw(seed=-12345, step=17, skip=2)
        expected = keras_reference.uniform(SHAPE, -12345, 17, 3)
        np.testing.assert_array_equal(drawn, expected)

    @parameterized.parameters((), (1,), (5,), (9000,), (3, 1), (2, 3, 4, 5))
    def test_any_shape(self, *shape):
        generator = randomness.Generator(tf.constant(1), tf.constant(1))
        drawn = generator.draw(randomness.UNIFORM, shape, tf.float32)
        self.assertEqual(tuple(drawn.shape), shape)
        self.assertGreater(len(np.unique(drawn)), 0.99 * drawn.numpy().size)


class NormalTest(absltest.TestCase):
    def test_moments(self):
        drawn = draw(randomness.NORMAL).astype(np.float64)
        deviation = 1 / math.sqrt(drawn.size)
        self.assertLess(abs(drawn.mean()), 5 * deviation)
        self.assertLess(abs(drawn.var() - 1), 5 * math.sqrt(2) * deviation)
        self.assertLess(abs(np.mean(drawn**4) - 3), 5 * math.sqrt(96) * deviation)
        self.assertTrue(np.isfinite(drawn).all())

    def test_the_smallest_uniform_number_is_finite(self):
        generator = randomness.Generator(tf.constant(0), tf.constant(0))
        with mock.patch.object(generator, "_uniform", tf.zeros):
            drawn = generator.draw(randomness.NORMAL, (2,), tf.float32)
        np.testing.assert_array_equal(drawn, [0, 0])


class GraphTest(absltest.TestCase):
    def test_every_runtime_draws_the_same_bits(self):
        @tf.function(
            input_signature=[tf.TensorSpec([], tf.int32, name) for name in "ab"],
            autograph=False,
        )
        def function(a, b):
            generator = randomness.Generator(a, b)
            generator.draw(randomness.UNIFORM, (3,), tf.float32)
            return {"u": generator.draw(randomness.UNIFORM, SHAPE, tf.float32)}

        content = builtin_files.convert({"draw": function})
        operators = builtin_files.census(content)
        self.assertFalse(any(name.startswith("Flex") for name in operators))
        inputs = {"draw": {"a": np.int32(-9), "b": np.int32(4)}}
        expected = keras_reference.uniform(SHAPE, -9, 4, 2)
        for runtime in builtin_files.INTERPRETERS:
            drawn = builtin_files.run(content, runtime, inputs)["draw"]["u"]
            np.testing.assert_array_equal(drawn, expected, runtime)

    def test_the_gradient_is_that_of_the_mask_drawn(self):
        def loss(weights):
            mask = tf.random.stateless_uniform([4, 3], seed=[1, 2]) < 0.5
            return tf.reduce_sum(tf.where(mask, weights[0] * 3.0, 0.0))

        @tf.function(autograph=False)
        def differentiated(x, seed):
            generator = randomness.Generator(seed, tf.constant(0))
            return graph.value_and_gradients(loss, [x], generator=generator)

        value, (gradient,) = differentiated(tf.ones([4, 3]), tf.constant(8))
        kept = keras_reference.uniform((4, 3), 8, 0, 1) < 0.5
        np.testing.assert_array_equal(gradient, 3.0 * kept)
        self.assertEqual(float(value), 3.0 * kept.sum())

    def test_random_numbers_without_a_generator_are_refused(self):
        @tf.function(autograph=False)
        def differentiated(x):
            return graph.value_and_gradients(
                lambda w: tf.reduce_sum(w[0] * tf.random.stateless_normal([2], [1, 2])),
                [x],
            )

        with self.assertRaisesRegex(graph.GradientError, "must be given a generator"):
            differentiated(tf.ones([2]))


if __name__ == "__main__":
    absltest.main()
