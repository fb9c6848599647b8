"""Tests of `signatures.gradients.apart`: two samples, large images one by one."""

from __future__ import annotations

from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from checkpoints import manifest, tflite_file
from ondevice import fresh
from ondevice.rebuild import specs
from signatures import optimizers
from signatures.gradients import apart, graph, trace
from tests import gradient_checks, tiny_detector
from tests.gradient_checks import noise

# An image of the tests is large from here on, rather than from 100,000 numbers.
LARGE = 150


def network(image, kernel, depthwise, bias, slope, last):
    """Large images [.., 8, 8, 3], then small ones; every kind that is parted."""
    x = tf.nn.conv2d(image, kernel, 1, "SAME")
    x = tf.nn.bias_add(x, bias)
    shortcut = x
    x = tf.nn.depthwise_conv2d(x, depthwise, [1] * 4, "SAME")
    x = tf.maximum(x, 0.0) + slope * tf.minimum(x, 0.0) + shortcut
    x = tf.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]])
    x = tf.nn.relu6(tf.nn.relu(x) - 0.3 * x)
    x = tf.nn.max_pool2d(x, 3, 3, "VALID")
    return tf.nn.conv2d(x, last, 1, "VALID")


def arguments(samples):
    return [
        noise(samples, 8, 8, 3),
        noise(2, 2, 3, 3, seed=1),  # As many rows as samples.
        noise(3, 3, 3, 1, seed=2),
        noise(3, seed=3),
        noise(1, 1, 1, 3, seed=4),
        noise(2, 2, 3, 5, seed=5),
    ]


def parted(function, *inputs) -> list[trace.Node]:
    """The nodes of a function of weights, its samples parted."""
    found = []

    @tf.function(autograph=False)
    def emit(*tensors):
        program = trace.trace(lambda weights: function(*weights), tensors, ())
        with mock.patch.object(apart, "_LARGE", LARGE):
            found.extend(apart.large(program).nodes)
        return tf.zeros([])

    emit(*(tf.constant(x, tf.float32) for x in inputs))
    return found


class NodesTest(parameterized.TestCase):
    def test_all_of_the_first_sample_comes_first_and_the_small_is_together(self):
        nodes = parted(network, *arguments(2))
        places = {}
        for place, node in enumerate(nodes):
            for output in node.outputs:
                places[output] = place
        large = [
            node
            for node in nodes
            if node.type not in apart.RULES
            and node.outputs[0].shape.rank == 4
            and node.outputs[0].shape[0] == 1
        ]
        halves = large[: len(large) // 2], large[len(large) // 2 :]
        self.assertEqual([n.type for n in halves[0]], [n.type for n in halves[1]])
        self.assertGreaterEqual(len(halves[0]), 8)
        self.assertEqual([n.type for n in nodes].count("Apart"), 1)
        (together,) = (node for node in nodes if node.type == "Together")
        self.assertEqual(together.outputs[0].shape, [2, 3, 3, 3])
        last = next(n for n in nodes if n.outputs[0].shape == [2, 2, 2, 5])
        self.assertEqual(last.inputs[0], together.outputs[0])
        for place, node in enumerate(nodes):
            for value in node.inputs:
                self.assertLess(places.get(value, -1), place)

    @parameterized.parameters(1, 3, 4)
    def test_another_number_of_samples_stays_together(self, samples):
        types = {node.type for node in parted(network, *arguments(samples))}
        self.assertFalse(types & set(apart.RULES))

    @parameterized.named_parameters(
        ("small images", lambda x: tf.nn.relu(x[:, :4])),
        ("zeros for a sample", lambda x: tf.pad(x, [[0, 1], [0, 0], [0, 0], [0, 0]])),
        ("sums over the samples", lambda x: tf.reduce_sum(x, 0)),
        ("a factor for each sample", lambda x: x * x[:, :1, :1]),
        ("no image", lambda x: tf.nn.relu(x[..., 0])),
    )
    def test_stays_together(self, function):
        types = {node.type for node in parted(function, noise(2, 8, 8, 3))}
        self.assertFalse(types & set(apart.RULES))

    def test_a_whole_that_something_else_reads_is_joined_once(self):
        def function(x):
            y = tf.nn.relu(x)
            return tf.reduce_sum(y, 0), tf.reduce_max(y, 0), tf.nn.relu6(y)

        types = [node.type for node in parted(function, noise(2, 8, 8, 3))]
        self.assertEqual(types.count("Relu"), 2)
        self.assertEqual(types.count("Relu6"), 2)
        self.assertEqual(types.count("Together"), 2)


class GradientTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(apart, "_LARGE", LARGE))

    @parameterized.parameters(2, 3)
    def test_gradients_are_those_of_the_whole(self, samples):
        gradient_checks.check(network, *arguments(samples))

    def test_where_the_loss_sees_one_sample(self):
        gradient_checks.check(lambda *a: network(*a)[:1], *arguments(2))
        gradient_checks.check(lambda x: tf.nn.relu(x)[1], noise(2, 8, 8, 3))

    def test_forward_alone(self):
        given = [tf.constant(x, tf.float32) for x in arguments(2)]

        @tf.function(autograph=False)
        def run(image, *weights):
            return graph.forward(lambda w, x: network(x, *w), weights, image)

        np.testing.assert_allclose(run(*given), network(*given), rtol=1e-5, atol=1e-5)

    def test_of_the_runtime_whose_operators_take_memory_they_stay_together(self):
        given = [tf.constant(x, tf.float32) for x in arguments(2)]

        def splits(target):
            @tf.function(autograph=False)
            def run(image, *weights):
                function = lambda w, x: network(x, *w)  # noqa: E731
                return graph.forward(function, weights, image, target=target)

            operations = run.get_concrete_function(*given).graph.get_operations()
            return [x.type for x in operations].count("Split")

        self.assertEqual(splits(manifest.ANY), 1)
        self.assertEqual(splits(manifest.TFLITE_RUNTIME), 0)


class RecipeTest(parameterized.TestCase):
    @parameterized.parameters(
        ("palm_full", "all", manifest.ANY, 2),
        ("palm_lite", "bias", manifest.ANY, 2),
        ("palm_full", "all", manifest.TFLITE_RUNTIME, 1),
        ("palm_full", "heads", manifest.ANY, 1),
        ("face_back", "all", manifest.ANY, 1),
    )
    def test_pairs_are_taken_where_that_pays(self, name, trained, target, together):
        recipe = tiny_detector.recipe(
            spec=specs.PRESETS[name], trainable=trained, target=target
        )
        self.assertEqual(recipe.together, together)


class FileTest(parameterized.TestCase):
    @parameterized.parameters("ai_edge_litert", "tflite_runtime", "tensorflow")
    def test_a_file_that_takes_pairs_trains_as_one_that_does_not(self, runtime):
        found, depthwise = [], []
        for together in (1, 2):
            with (
                tiny_detector.known(),
                mock.patch.object(fresh.Recipe, "together", together),
                mock.patch.object(apart, "_LARGE", 600),
            ):
                recipe = tiny_detector.recipe(
                    batch_size=4, settings=optimizers.Settings("sgd")
                )
                model, _ = fresh.make_trainable(recipe, tiny_detector.weights(3), {})
            found.append(tiny_detector.three_steps(model, runtime, 1e-2))
            depthwise.append(tflite_file.parse(model).census()["DEPTHWISE_CONV_2D"])
        self.assertLess(*depthwise)  # Two large images, and each of a pair's filters.
        (single_losses, singles), (pair_losses, pairs) = found
        np.testing.assert_allclose(pair_losses, single_losses, rtol=1e-5)
        before = tiny_detector.weights(3)
        for name, value in before.items():
            change = np.abs(singles[name] - value).max()
            error = np.abs(singles[name] - pairs[name]).max()
            self.assertLess(error, 1e-3 * change, name)


if __name__ == "__main__":
    absltest.main()
