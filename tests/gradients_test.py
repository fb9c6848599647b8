"""Tests of `signatures.gradients.graph`: what is differentiated, and what is not."""

import collections

import keras
import numpy as np
import tensorflow as tf
from absl.testing import absltest

from checkpoints import manifest
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


def run(function, weights, *args):
    """Runs `value_and_gradients` in a tf.function."""
    step = tf.function(lambda w, *a: graph.value_and_gradients(function, w, *a))
    return step([tf.constant(w) for w in weights], *args)


IMAGE = tf.TensorSpec([1, 8, 8, 3])
FILTER = tf.TensorSpec([3, 3, 3, 3])


def behind(function, *specs) -> dict[str, list[set[str]]]:
    """Of each type of operator: for each of them, the types that its inputs come of."""
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    found = collections.defaultdict(list)
    known = {}
    for operation in concrete.graph.get_operations():
        known[operation] = {operation.type}.union(
            *(known[t.op] for t in operation.inputs)
        )
        before = [known[t.op] for t in operation.inputs]
        found[operation.type].append(set().union(*before))
    return found


class ValueTest(absltest.TestCase):
    def test_hand_computed_square(self):
        loss, gradients = run(lambda w: w[0] * w[0] + w[1] * w[0], [3.0, 5.0])
        self.assertEqual(float(loss), 24.0)
        self.assertEqual([float(g) for g in gradients], [11.0, 3.0])

    def test_structure_is_kept_and_its_first_element_is_the_loss(self):
        def function(w, x):
            return {"a_loss": w[0] * x["scale"], "parts": (w[0], x["scale"] + 1)}

        outputs, (gradient,) = run(function, [2.0], {"scale": tf.constant(7.0)})
        self.assertEqual(float(outputs["a_loss"]), 14.0)
        self.assertEqual([float(t) for t in outputs["parts"]], [2.0, 8.0])
        self.assertEqual(float(gradient), 7.0)

    def test_unused_weight_has_a_gradient_of_zeros(self):
        _, gradients = run(lambda w: tf.reduce_sum(w[0]), [[1.0], [[2.0, 3.0]]])
        np.testing.assert_array_equal(gradients[1], [[0, 0]])

    def test_a_weight_that_is_returned_as_it_is(self):
        loss, (gradient,) = run(lambda w: w[0], [4.0])
        self.assertEqual((float(loss), float(gradient)), (4.0, 1.0))

    def test_calls_are_inlined_and_captured_tensors_found(self):
        variable = tf.Variable(3.0)
        constant = tf.constant(np.arange(500.0), tf.float32)

        @tf.function
        def inner(x):
            return x * variable, tf.reduce_sum(constant) * x

        def function(w, x):
            first, second = tf.function(lambda t: inner(t * x))(w[0])
            return first * w[0] + second

        _, (gradient,) = run(function, [2.0], tf.constant(5.0))
        self.assertEqual(float(gradient), 2 * 3 * 5 * 2.0 + 5 * 499 * 500 / 2)

    def test_side_effects_happen_once(self):
        counter = tf.Variable(0)

        def function(w):
            counter.assign_add(1)
            return w[0] * tf.cast(counter, tf.float32)

        _, (gradient,) = run(function, [1.0])
        self.assertEqual((int(counter), float(gradient)), (1, 1.0))

    def test_forward_gives_any_structure(self):
        def function(w, x):
            return [tf.nn.conv2d(x, w[0], 1, "SAME"), tf.math.erf(w[1])]

        rng = np.random.default_rng(0)
        shapes = (FILTER.shape, [3])
        weights = [tf.constant(rng.normal(size=s), tf.float32) for s in shapes]
        image = tf.constant(rng.normal(size=IMAGE.shape), tf.float32)
        got = tf.function(lambda w, x: graph.forward(function, w, x))(weights, image)
        for a, b in zip(got, function(weights, image)):
            np.testing.assert_allclose(a, b, atol=1e-5)


class LateTest(absltest.TestCase):
    """What the backward pass makes of the forward one waits for the gradient.

    Runtimes would run it at once and keep it. Here the gradient comes from behind EXP.
    """

    def test_the_slopes_of_a_prelu(self):
        def loss(weights):
            x, alpha = weights
            y = tf.nn.relu(x) + -alpha * tf.nn.relu(-x)
            return tf.reduce_sum(tf.exp(y))

        specs = (tf.TensorSpec([1, 4, 4, 3]), tf.TensorSpec([1, 1, 3]))
        found = behind(lambda *w: graph.value_and_gradients(loss, w), *specs)
        (slope,) = found["Maximum"]
        self.assertIn("Exp", slope)

    def test_the_lines_of_a_convolution(self):
        def loss(weights, x):
            return tf.reduce_sum(tf.exp(tf.nn.conv2d(x, weights[0], 1, "VALID")))

        def step(w, x):
            return graph.value_and_gradients(loss, [w], x)

        slices = behind(step, FILTER, IMAGE)["Slice"]
        # Of the gradient, for the zero, and of the lines for each row of the filter.
        self.assertEqual(sum("Exp" in cut for cut in slices), 1 + 3)


class PruningTest(absltest.TestCase):
    """Backward ends where training ends, and what is frozen is copied as it is."""

    def test_training_the_last_of_three_convolutions_leaves_the_others_alone(self):
        def loss(weights, first, second, x):
            x = tf.nn.relu(tf.nn.conv2d(x, first, 1, "SAME"))
            x = tf.nn.relu(tf.nn.conv2d(x, second, 1, "SAME"))
            return tf.reduce_sum(tf.nn.conv2d(x, weights[0], 1, "SAME"))

        def step(w, first, second, x):
            return graph.value_and_gradients(loss, [w], first, second, x)

        found = count(step, FILTER, FILTER, FILTER, IMAGE)
        self.assertEqual(found["Conv2D"], 2)  # both frozen ones, as they are
        self.assertEqual(found["BatchMatMulV2"], 3 + 3)  # by rows: itself, filter
        self.assertEqual(found["Minimum"], 1)  # the late zero, the mask of no relu

    def test_training_a_bias_below_frozen_filters_keeps_them(self):
        def loss(weights, first, second, x):
            x = tf.nn.relu(tf.nn.conv2d(x, first, 1, "SAME") + weights[0])
            return tf.reduce_sum(tf.nn.conv2d(x, second, 1, "SAME") ** 2)

        def step(w, first, second, x):
            return graph.value_and_gradients(loss, [w], first, second, x)

        found = count(step, tf.TensorSpec([3]), FILTER, FILTER, IMAGE)
        self.assertEqual(found["Conv2D"], 2)
        self.assertEqual(found["BatchMatMulV2"], 3)  # the gradient of one image

    def test_a_frozen_depthwise_filter_keeps_its_operator_in_either_form(self):
        def loss(weights, filters, x):
            strides = [1, 1, 1, 1]
            y = tf.nn.depthwise_conv2d(x + weights[0], filters, strides, "SAME")
            return tf.reduce_sum(y**2)

        for target in manifest.TARGETS:
            found = count(
                lambda w, f, x: graph.value_and_gradients(
                    loss, [w], f, x, target=target
                ),
                tf.TensorSpec([3]),
                tf.TensorSpec([3, 3, 3, 1]),
                IMAGE,
            )
            self.assertEqual(found["DepthwiseConv2dNative"], 2)

    def test_a_depthwise_image_gradient_that_keeps_the_size_is_one_operator(self):
        def loss(weights, filters):
            y = tf.nn.depthwise_conv2d(weights[0], filters, [1] * 4, "SAME")
            return tf.reduce_sum(y**2)

        found = count(
            lambda x, f: graph.value_and_gradients(loss, [x], f),
            tf.TensorSpec([2, 6, 6, 3]),
            tf.TensorSpec([5, 5, 3, 1]),
        )
        self.assertEqual(found["DepthwiseConv2dNative"], 2)
        self.assertEqual(found["Pad"] + found["PadV2"] + found["Slice"], 0)

    def test_others_take_the_form_of_weights_and_have_no_gradient(self):
        def loss(weights, image):
            y = tf.nn.conv2d(image, weights[0], 1, "SAME")
            return tf.reduce_sum(tf.nn.conv2d(image, weights[1], 1, "SAME") * y)

        found = count(
            lambda w, o, x: graph.value_and_gradients(loss, [w], x, others=[o]),
            FILTER,
            FILTER,
            IMAGE,
        )
        self.assertEqual(found["Conv2D"], 0)
        # A product for each row of the filters, three times.
        self.assertEqual(found["BatchMatMulV2"], 9)

    def test_a_loss_that_no_weight_changes_may_be_anything(self):
        _, (gradient,) = run(lambda w, x: tf.math.erf(x), [2.0], tf.constant(0.5))
        self.assertEqual(float(gradient), 0.0)

    def test_any_operator_may_be_frozen_or_beside_the_loss(self):
        def function(w, x):
            frozen = tf.math.erf(tf.math.lgamma(x))
            return w[0] * frozen, tf.math.erf(w[0]), tf.argsort(w[0][None])

        outputs, (gradient,) = run(function, [2.0], tf.constant(0.5))
        self.assertEqual(float(outputs[0]), 2 * float(gradient))

    def test_gradient_ends_at_integers_and_stop_gradient(self):
        def function(w):
            index = tf.argmax(w[0])
            return tf.gather(w[0], index) + tf.stop_gradient(tf.reduce_sum(w[0] ** 2))

        _, (gradient,) = run(function, [[1.0, 5.0, 2.0]])
        np.testing.assert_array_equal(gradient, [0, 1, 0])


class RefusalTest(absltest.TestCase):
    def test_operator_without_a_rule_is_named(self):
        with self.assertRaisesRegex(
            graph.GradientError, "Received: Digamma 'layer/D'.*Available: Abs.*Conv2D"
        ):
            run(lambda w: tf.math.digamma(w[0], name="layer/D"), [1.0])

    def test_operator_of_a_keras_layer_is_named_by_the_layer(self):
        image = keras.Input([2], batch_size=1)
        layers = [keras.layers.Dense(2), keras.layers.Lambda(tf.atan, name="angle")]
        model = keras.Sequential([image, *layers])

        def function(w, x):
            return tf.reduce_sum(model.stateless_call(w, [], x)[0])

        weights = [v.numpy() for v in model.trainable_variables]
        with self.assertRaisesRegex(ValueError, "Atan 'angle.*/Atan'"):
            run(function, weights, tf.ones([1, 2]))

    def test_operator_of_a_call_is_named_by_the_call(self):
        @tf.function
        def inner(x):
            return tf.math.digamma(x, name="inner_most")

        def function(w):
            with tf.name_scope("block"):
                return inner(w[0])

        with self.assertRaisesRegex(ValueError, "Digamma 'block/.*Call/inner_most'"):
            run(function, [1.0])

    def test_weights_must_be_floats(self):
        with self.assertRaisesRegex(graph.GradientError, "int32 for weight 1"):
            run(lambda w: w[0], [1.0, 2])

    def test_a_call_outside_of_a_function_is_refused(self):
        with self.assertRaisesRegex(RuntimeError, "while a tf.function is traced"):
            graph.value_and_gradients(lambda w: w[0], [tf.constant(1.0)])

    def test_loop_is_refused(self):
        def function(w):
            return tf.while_loop(lambda x: x < 9.0, lambda x: [x * 2.0], [w[0]])[0]

        with self.assertRaisesRegex(graph.GradientError, "While"):
            run(function, [1.0])

    def test_loss_must_be_a_scalar(self):
        with self.assertRaisesRegex(graph.GradientError, r"a scalar.*shape \(2,\)"):
            run(lambda w: w[0], [[1.0, 2.0]])
        with self.assertRaisesRegex(graph.GradientError, "a scalar.*int32"):
            run(lambda w: tf.constant(1), [[1.0, 2.0]])

    def test_shapes_must_be_known(self):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def step(x):
            return graph.value_and_gradients(lambda w: tf.reduce_sum(w[0]), [x])

        with self.assertRaisesRegex(graph.GradientError, r"shape \(None, 3\)"):
            step(tf.ones([2, 3]))

    def test_axes_must_be_constants(self):
        def function(w, axis):
            return tf.reshape(tf.reduce_sum(w[0], axis), [])

        with self.assertRaisesRegex(graph.GradientError, "Sum .* must be a constant"):
            run(function, [[1.0, 2.0]], tf.constant(0))


if __name__ == "__main__":
    absltest.main()
