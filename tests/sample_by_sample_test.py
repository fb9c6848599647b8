"""Tests of batches as their samples."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from signatures import contract, losses, optimizers, sample_by_sample, stateless
from signatures import trainable


class SummedTest(parameterized.TestCase):
    @parameterized.parameters((1, 1), (3, 1), (2, 2), (6, 2), (6, 3))
    def test_sums_what_a_function_gives_of_some_samples(self, size, together):
        x = np.arange(2 * size, dtype=np.float32).reshape(size, 2)
        seen = []

        def function(sample):
            seen.append([tensor.shape[0] for tensor in tf.nest.flatten(sample)])
            one, other = sample["x"], sample["y"]
            return tf.reduce_sum(one * one), tf.reduce_sum(one * other[:, None], 0)

        @tf.function(autograph=False)
        def whole(x, y):
            given = {"x": x, "y": y}
            return sample_by_sample.summed(function, given, [(), (2,)], together)

        y = np.array([2.0, 0.0, -1.0, 4.0, 0.5, 8.0], np.float32)[:size]
        square, product = whole(x, y)
        self.assertEqual(float(square), np.sum(x * x))
        np.testing.assert_array_equal(product, np.sum(x * y[:, None], 0))
        self.assertEqual(seen, [[together] * 2])  # Traced once, however many there are.


class SharesTest(absltest.TestCase):
    def test_sum_to_one_but_for_padding_alone(self):
        np.testing.assert_allclose(
            losses.shares(tf.constant([1.0, 0.0, 3.0])), [0.25, 0, 0.75]
        )
        np.testing.assert_array_equal(losses.shares(tf.zeros([2])), [0, 0])


def _network() -> keras.Model:
    """Four cells of the image, an anchor in each: a box and a score."""
    image = keras.Input((4, 4, 3), name="image")
    cells = keras.layers.Conv2D(7, 2, strides=2, name="head")(image)
    flat = keras.layers.Reshape((4, 7), name="flat")(cells)
    return keras.Model(image, {"regressors": flat[..., :6], "scores": flat[..., 6:]})


def _step(arrays, together=1):
    """Takes a step of plain descent in TensorFlow.

    Args:
      arrays: The batch.
      together: How many images are taken at a time.

    Returns:
      How many loops the two functions hold, the losses by `evaluate` and by `train`,
      and the weights after the step.
    """
    random = np.random.default_rng(0)
    weights = {
        "head/kernel": random.standard_normal((2, 2, 3, 7)).astype(np.float32),
        "head/bias": np.zeros(7, np.float32),
    }
    module = trainable.Trainable(
        stateless.Stateless(_network()),
        weights,
        tuple(weights),
        functools.partial(losses.detection, input_size=4),
        lambda outputs: (outputs["regressors"], outputs["scores"]),
        optimizers.Settings("sgd", 0.0),
        together=together,
    )
    sizes = contract.Dimensions(len(arrays["sample_weights"]), 4, 4, 6, 1)
    signatures = {
        s.key: s for s in contract.signatures(sizes, module.specs, "builtin")
    }
    loops, found = 0, []
    for key in (contract.EVALUATE, contract.TRAIN):
        given = {**arrays, "learning_rate": np.float32(1)}
        (function,) = module.functions([signatures[key]]).values()
        types = [operation.type for operation in function.graph.get_operations()]
        loops += types.count("While") + types.count("StatelessWhile")
        outputs = function(
            **{
                f"in_{i}": tf.constant(given[spec.name])
                for i, spec in enumerate(signatures[key].inputs)
            }
        )
        found.append([float(outputs[f"out_{i}"]) for i in range(3)])
    moved = {v.name.partition(":")[0]: v.numpy() for v in module.variables}
    return loops, *found, {name: moved[name] - weights[name] for name in weights}


class StepTest(parameterized.TestCase):
    # samples' weights, images together, loops
    @parameterized.named_parameters(
        ("one_by_one", [3, 0, 1], 1, 2),
        ("a_pair_with_padding_and_one_of_it", [3, 1, 0, 2, 0, 0], 2, 2),
        ("a_pair_alone", [3, 1], 2, 0),
        ("no_pairs", [3, 0, 1], 2, 2),
    )
    def test_a_batch_is_the_mean_of_its_samples_by_weight(
        self, weights, together, loops
    ):
        random = np.random.default_rng(1)
        size = len(weights)
        anchors = random.integers(0, 4, size)
        arrays = {
            "image": random.random((size, 4, 4, 3), np.float32),
            "class_targets": np.eye(4, dtype=np.float32)[anchors, :, None],
            "box_targets": random.random((size, 4, 6), np.float32),
            "anchor_weights": np.ones((size, 4), np.float32),
            "sample_weights": np.array(weights, np.float32),
        }
        found, evaluated, trained, moved = _step(arrays, together)
        self.assertEqual(found, loops)
        np.testing.assert_allclose(evaluated, trained, rtol=1e-6)
        expected, changes = 0.0, dict.fromkeys(moved, 0.0)
        for i in range(size):
            alone = {name: array[i : i + 1] for name, array in arrays.items()}
            alone["sample_weights"] = np.ones(1, np.float32)
            found, _, losses_of_one, change = _step(alone)
            self.assertEqual(found, 0)
            share = weights[i] / sum(weights)
            expected += share * np.array(losses_of_one)
            changes = {n: c + share * change[n] for n, c in changes.items()}
        # Sums of float32 in another order.
        np.testing.assert_allclose(trained, expected, rtol=1e-5)
        for name, change in changes.items():
            self.assertGreater(np.abs(change).max(), 1e-3)
            np.testing.assert_allclose(moved[name], change, rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    absltest.main()
