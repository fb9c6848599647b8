"""Tests of the rules that slide a window: convolutions, pools; and of resizing."""

from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from checkpoints import manifest
from signatures.gradients import depthwise, graph, planes, resize, shifted
from signatures.gradients import siblings, trace, window
from tests import gradient_checks
from tests.gradient_checks import check, noise


def conv(strides, padding, dilations=(1, 1)):
    def apply(image, filters):
        explicit = [] if isinstance(padding, str) else sum(padding, []) + [0, 0]
        return tf.raw_ops.Conv2D(
            input=image,
            filter=filters,
            strides=[1, *strides, 1],
            padding=padding if isinstance(padding, str) else "EXPLICIT",
            explicit_paddings=explicit,
            dilations=[1, *dilations, 1],
        )

    return apply


class ConvolutionTest(parameterized.TestCase):
    # image, filters, strides, padding
    @parameterized.named_parameters(
        ("1x1", (2, 5, 4, 3), (1, 1, 3, 4), (1, 1), "SAME"),
        ("1x1_wide", (1, 4, 4, 5), (1, 1, 5, 2), (1, 1), "VALID"),
        ("1x1_stride_2", (2, 5, 6, 3), (1, 1, 3, 4), (2, 2), "SAME"),
        ("1x1_stride_3_2", (1, 7, 6, 2), (1, 1, 2, 3), (3, 2), "VALID"),
        ("3x3", (2, 5, 6, 2), (3, 3, 2, 3), (1, 1), "SAME"),
        ("3x3_valid", (1, 6, 5, 2), (3, 3, 2, 3), (1, 1), "VALID"),
        ("2x2_even_kernel", (1, 5, 5, 2), (2, 2, 2, 3), (1, 1), "SAME"),
        ("4x4_stride_2", (3, 9, 8, 2), (4, 4, 2, 1), (2, 2), "SAME"),
        ("3x3_stride_2_even", (1, 8, 8, 2), (3, 3, 2, 3), (2, 2), "SAME"),
        ("3x3_stride_2_odd", (2, 7, 9, 2), (3, 3, 2, 3), (2, 2), "SAME"),
        ("3x3_unread_edge", (1, 8, 8, 2), (3, 3, 2, 3), (2, 2), "VALID"),
        ("5x5_stride_2_stem", (1, 12, 12, 3), (5, 5, 3, 4), (2, 2), "SAME"),
        ("unequal_strides", (1, 8, 7, 2), (3, 2, 2, 3), (1, 2), "SAME"),
        ("unequal_strides_and_kernel", (1, 9, 7, 2), (1, 4, 2, 3), (3, 2), "VALID"),
        ("stride_above_kernel", (2, 8, 9, 2), (2, 2, 2, 3), (3, 3), "VALID"),
        ("stride_above_kernel_same", (1, 7, 8, 2), (2, 1, 2, 3), (3, 3), "SAME"),
        ("kernel_above_image", (1, 2, 2, 2), (5, 5, 2, 3), (1, 1), "SAME"),
        ("explicit", (1, 5, 5, 2), (3, 3, 2, 2), (2, 2), [[0, 0], [0, 2], [1, 0]]),
    )
    def test_conv2d(self, image, filters, strides, padding):
        check(conv(strides, padding), noise(*image), noise(*filters))

    # How a bias is added
    @parameterized.named_parameters(
        ("bias_add", tf.nn.bias_add),
        ("vector", tf.add),
        ("vector_first", lambda x, b: b + x),
        ("keras", lambda x, b: x + tf.reshape(b, [1, 1, 1, -1])),
    )
    def test_forward_sums_from_the_bias(self, add):
        # Rounded to float32, 1e8 + 1 is 1e8: the 1 survives only where 1e8 is gone.
        filters = np.array([-1e8, 1]).reshape(1, 1, 2, 1)
        bias = np.array([1e8])
        image = np.ones([1, 3, 3, 2])

        def result(image, filters, bias):
            return add(conv((1, 1), "SAME")(image, filters), bias)

        @tf.function(autograph=False)
        def ours(image, *weights):
            return graph.forward(lambda w, x: result(x, *w), weights, image)

        arguments = [tf.constant(a, tf.float32) for a in (image, filters, bias)]
        np.testing.assert_array_equal(ours(*arguments), np.ones([1, 3, 3, 1]))

    @parameterized.named_parameters(
        ("1x1", (2, 5, 4, 3), (1, 1, 3, 4), (1, 1)),
        ("3x3", (1, 5, 6, 2), (3, 3, 2, 3), (1, 1)),
        ("5x5_stride_2_stem", (1, 12, 12, 3), (5, 5, 3, 4), (2, 2)),
    )
    def test_convolution_with_its_bias(self, image, filters, strides):
        def biased(image, filters, bias):
            return conv(strides, "SAME")(image, filters) + bias

        arguments = [noise(*image), noise(*filters), noise(filters[3])]
        traced = trace.trace

        def fused(*args):
            program = trace.with_biases(traced(*args))
            types = [node.type for node in program.nodes]
            self.assertIn("BiasedConv2D", types)
            self.assertNotIn("Conv2D", types)
            return program

        with mock.patch.object(trace, "trace", fused):
            check(biased, *arguments)
            # A filter that does not train leaves the operator as it is.
            check(lambda b: biased(*arguments[:2], b), arguments[2])

    def test_what_is_no_bias_is_left_apart(self):
        image, filters = noise(1, 4, 4, 2), noise(1, 1, 2, 3)

        def types(combine):
            def result(weights):
                return combine(conv((1, 1), "SAME")(image, weights[0]), weights[1])

            @tf.function(autograph=False)
            def step(*weights):
                program = trace.with_biases(trace.trace(result, weights, ()))
                return [tf.constant(node.type) for node in program.nodes]

            return [x.numpy().decode() for x in step(filters, noise(3))]

        self.assertIn("BiasedConv2D", types(lambda y, b: y + b))
        self.assertNotIn("BiasedConv2D", types(lambda y, b: y * b))
        self.assertNotIn("BiasedConv2D", types(lambda y, b: y + b[0]))
        self.assertNotIn("BiasedConv2D", types(lambda y, b: (y + b) * y))
        self.assertNotIn("BiasedConv2D", types(lambda y, b: (y + b, y)))
        self.assertNotIn("BiasedConv2D", types(lambda y, b: b + y[..., :1] + y))

    def test_dilated_conv2d(self):
        # TensorFlow differentiates it on GPUs only; in the ops of Keras it works.
        check(
            conv((1, 1), "SAME", (2, 3)),
            noise(1, 8, 9, 2),
            noise(3, 3, 2, 2),
            tape=False,
        )
        check(
            lambda x, w: tf.nn.convolution(x, w, dilations=2, padding="SAME"),
            noise(1, 8, 8, 2),
            noise(3, 3, 2, 2),
        )

    @parameterized.parameters((2, "SAME", 4), (1, "VALID", 6))
    def test_conv2d_in_groups(self, stride, padding, outputs):
        # TensorFlow differentiates it on GPUs only; in parts it does everywhere.
        def parts(image, filters):
            pairs = zip(tf.split(image, 2, 3), tf.split(filters, 2, 3))
            apply = conv((stride, stride), padding)
            return tf.concat([apply(x, w) for x, w in pairs], 3)

        image, filters = noise(2, 5, 5, 4), noise(3, 3, 2, outputs)
        check(parts, image, filters)
        whole = conv((stride, stride), padding)

        @tf.function(autograph=False)
        def ours(function, *arguments):
            return graph.value_and_gradients(
                lambda w: tf.reduce_sum(function(*w) ** 2.0), arguments
            )

        arguments = [tf.constant(image), tf.constant(filters)]
        expected = tf.nest.flatten(ours(parts, *arguments))
        for got, want in zip(tf.nest.flatten(ours(whole, *arguments)), expected):
            np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)

    # filters, strides, padding
    @parameterized.named_parameters(
        ("1x1", [(1, 1, 3, 36), (1, 1, 3, 2), (1, 1, 3, 5)], (1, 1), "VALID"),
        ("5x5_stride_2", [(5, 5, 3, 2), (5, 5, 3, 3)], (2, 2), "SAME"),
    )
    def test_convolutions_of_one_image_are_one(self, filters, strides, padding):
        def heads(image, *filters):
            found = [conv(strides, padding)(image, each) for each in filters]
            return tf.concat([y * y for y in found], 3)

        joined = siblings.joined

        def one(program, trained):
            found = joined(program, trained)
            types = [node.type for node in found.nodes]
            self.assertEqual(types.count("SiblingsConv2D"), 1)
            self.assertNotIn("Conv2D", types)
            return found

        arguments = [noise(*shape, seed=i) for i, shape in enumerate(filters)]
        with mock.patch.object(siblings, "joined", one):
            check(heads, noise(2, 6, 5, 3), *arguments)
            # The loss sees the first alone.
            check(lambda *a: heads(*a)[..., :2], noise(2, 6, 5, 3), *arguments)

    def test_convolutions_that_gain_nothing_or_differ_stay_apart(self):
        def types(
            *filters,
            strides=((1, 1), (1, 1)),
            of=lambda image: (image, image),
            trained=2,
        ):
            def results(weights, image):
                parts = zip(of(image), weights, strides, strict=True)
                return [conv(step, "SAME")(x, each) for x, each, step in parts]

            @tf.function(autograph=False)
            def step(image, *weights):
                program = trace.trace(results, weights, (image,))
                program = siblings.joined(program, trained)
                return [tf.constant(node.type) for node in program.nodes]

            given = [noise(*shape) for shape in filters]
            return [x.numpy().decode() for x in step(noise(1, 4, 4, 4), *given)]

        narrow, wide = (1, 1, 4, 2), (1, 1, 4, 32)
        self.assertIn("SiblingsConv2D", types(narrow, narrow))
        self.assertIn("SiblingsConv2D", types(narrow, narrow, trained=0))
        self.assertNotIn("SiblingsConv2D", types(narrow, narrow, trained=1))
        self.assertNotIn("SiblingsConv2D", types(narrow, wide))
        self.assertNotIn("SiblingsConv2D", types(narrow, (3, 3, 4, 2)))
        self.assertNotIn("SiblingsConv2D", types((1, 1, 2, 2), (1, 1, 2, 2)))
        self.assertNotIn(
            "SiblingsConv2D", types(narrow, narrow, strides=((1, 1), (2, 2)))
        )
        self.assertNotIn(
            "SiblingsConv2D", types(narrow, narrow, of=lambda x: (x, 2.0 * x))
        )

    # out, filters, strides, padding
    @parameterized.named_parameters(
        ("2x2_stride_2", (1, 8, 8, 3), (2, 2, 3, 2), (2, 2), "SAME"),
        ("3x3_stride_2_same", (2, 7, 8, 3), (3, 3, 3, 2), (2, 2), "SAME"),
        ("3x3_stride_2_valid", (1, 8, 7, 3), (3, 3, 3, 2), (2, 2), "VALID"),
        ("1x1_stride_2", (1, 5, 6, 3), (1, 1, 3, 2), (2, 2), "SAME"),
        ("4x3_stride_1", (1, 6, 6, 3), (4, 3, 3, 2), (1, 1), "SAME"),
        ("2x5_stride_3_1", (1, 9, 6, 2), (2, 5, 2, 4), (3, 1), "VALID"),
    )
    def test_conv2d_transpose(self, out, filters, strides, padding):
        small = conv(strides, padding)(noise(*out), noise(*filters)).shape

        def apply(image, filters):
            steps = [1, *strides, 1]
            return tf.nn.conv2d_transpose(image, filters, out, steps, padding)

        small = (*small[:3], filters[3])
        check(apply, noise(*small), noise(*filters))

    # image, filters, stride, padding
    @parameterized.product(
        case=(
            ((1, 6, 6, 3), (5, 5, 3, 1), 1, "SAME"),
            ((2, 5, 7, 2), (3, 3, 2, 1), 1, "VALID"),
            ((2, 8, 8, 2), (5, 5, 2, 1), 2, "SAME"),
            ((1, 7, 9, 2), (3, 3, 2, 1), 2, "SAME"),
            ((2, 8, 7, 2), (2, 4, 2, 1), 2, "VALID"),
            ((1, 9, 8, 2), (4, 2, 2, 3), 3, "SAME"),
            ((2, 8, 8, 2), (2, 2, 2, 2), 3, "VALID"),
            ((2, 4, 4, 3), (1, 1, 3, 2), 1, "SAME"),
        ),
        target=manifest.TARGETS,
    )
    def test_depthwise(self, case, target):
        image, filters, stride, padding = case
        check(
            lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding),
            noise(*image),
            noise(*filters),
            target=target,
        )

    def test_explicitly_padded_and_dilated_depthwise(self):
        for target in manifest.TARGETS:
            check(
                lambda x, w: tf.nn.depthwise_conv2d(
                    x, w, [1] * 4, [[0, 0], [2, 0], [1, 3], [0, 0]]
                ),
                noise(1, 5, 5, 2),
                noise(3, 3, 2, 1),
                target=target,
            )
        check(
            lambda x, w: tf.nn.depthwise_conv2d(x, w, [1] * 4, "SAME", None, [2, 2]),
            noise(1, 8, 8, 2),
            noise(3, 3, 2, 1),
        )

    # image, filters, stride; parts of a sample, one or two samples at a time
    BANDS = (
        ((2, 7, 5, 2), (5, 3, 2, 1), 1),
        ((1, 8, 6, 2), (5, 5, 2, 1), 2),
        ((5, 3, 3, 2), (3, 3, 2, 1), 1),
        ((1, 9, 7, 2), (3, 5, 2, 1), 3),
    )

    @parameterized.product(case=BANDS, band=(10, 100))
    def test_depthwise_of_large_images_band_by_band(self, case, band):
        with (
            mock.patch.object(depthwise, "_MANY_CELLS", 0),
            mock.patch.object(shifted, "_BAND", band),
        ):
            self.check_depthwise(*case)

    # Numbers in the planes of a band: a row's are 270 to 700.
    @parameterized.product(case=BANDS, band=(10, 2_000, 10_000))
    def test_depthwise_in_planes_band_by_band(self, case, band):
        with (
            mock.patch.object(planes, "_BAND", band),
            mock.patch.object(planes, "_MOST", 3),
        ):
            self.check_depthwise(*case)

    @parameterized.product(how=(planes, shifted), batch=(1, 2))
    def test_dilated_by_the_operator_itself(self, how, batch):
        axes = window.Axis(9, 3, 1, 2, 2, 9), window.Axis(8, 3, 1, 3, 3, 8)
        over = window.Window(batch, *axes)
        image, flat = tf.constant(noise(batch, 9, 8, 2)), tf.constant(noise(9, 2))
        gradient = tf.constant(noise(batch, 9, 8, 2))
        with tf.GradientTape() as tape:
            tape.watch([image, flat])
            filters = tf.reshape(flat, [3, 3, 2, 1])
            expected = tf.nn.depthwise_conv2d(
                image, filters, [1] * 4, "SAME", dilations=(2, 3)
            )
        theirs = tape.gradient(expected, [image, flat], gradient)
        ours = how.gradients(image, gradient, flat, over, (True, True))
        result = how.convolve(window.pad(image, over), flat, over)
        for one, other in zip((result, *ours), (expected, *theirs), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    @parameterized.parameters(1, 2, 3, 5, 16, 17, 40)
    def test_bands_are_few_and_leave_no_row_out(self, batch):
        for tall, reach, numbers in ((3, 0, 10**7), (20, 4, 10**5), (100, 4, 80_000)):
            bands = list(planes._bands(batch, tall, reach, numbers))
            self.assertLessEqual(len(bands), planes._MOST)
            found = []
            for first, count in bands:
                self.assertTrue(count % tall == 0 or first % tall + count <= tall)
                of_sample = range(first, first + count)
                found += [i for i in of_sample if i % tall < tall - reach]
                if count % tall:  # What it only reads is another one's.
                    found = [i for i in found if i < first + count - reach]
            rows = [i for i in range(batch * tall) if i % tall < tall - reach]
            self.assertEqual(found, rows)

    def check_depthwise(self, image, filters, stride):
        check(
            lambda x, w: tf.nn.depthwise_conv2d(x, w, [1, stride, stride, 1], "SAME"),
            noise(*image),
            noise(*filters),
            target=manifest.TFLITE_RUNTIME,
        )

    def test_unknown_target_is_refused(self):
        with self.assertRaisesRegex(ValueError, "any, tflite_runtime.*Rec.*'fast'"):
            check(lambda x: x, noise(1), target="fast")


class PoolingTest(parameterized.TestCase):
    # image, kernel, strides, padding
    CASES = (
        ((2, 6, 8, 2), (2, 2), (2, 2), "VALID"),
        ((1, 7, 5, 2), (2, 2), (2, 2), "SAME"),
        ((1, 7, 7, 2), (2, 2), (2, 2), "VALID"),
        ((2, 7, 8, 2), (3, 3), (2, 2), "SAME"),
        ((1, 9, 8, 2), (3, 3), (2, 2), "VALID"),
        ((1, 5, 5, 2), (3, 3), (1, 1), "SAME"),
        ((1, 8, 8, 2), (2, 2), (3, 3), "VALID"),
        ((1, 8, 9, 2), (2, 3), (1, 2), "SAME"),
        ((1, 6, 6, 2), (5, 5), (4, 4), "SAME"),
    )

    @parameterized.product(
        case=CASES, pool=(tf.nn.max_pool2d, tf.nn.avg_pool2d)
    )
    def test_pool_of_noise(self, case, pool):
        image, *window = case
        check(lambda x: pool(x, *window), noise(*image))

    @parameterized.product(case=CASES, levels=(1, 2, 3))
    def test_max_pool_pays_the_first_of_tied_cells(self, case, levels):
        image, *window = case
        tied = np.floor(noise(*image) * levels / 2)
        if levels == 1:
            tied = np.full(image, -3.5)
        check(lambda x: tf.nn.max_pool2d(x, *window), tied, differences=False)

    def test_hand_computed_tie(self):
        @tf.function
        def step(x):
            return graph.value_and_gradients(
                lambda w: tf.reduce_sum(tf.nn.max_pool2d(w[0], 2, 2, "VALID")), [x]
            )

        image = tf.constant([[[[1.0], [2.0]], [[2.0], [2.0]]]])
        _, (gradient,) = step(image)
        np.testing.assert_array_equal(tf.squeeze(gradient), [[0, 1], [0, 0]])

    def test_values_of_extreme_size(self):
        image = np.array([1e-30, 2e-30, -1e30, 3e30, 0, -0.0, 1e-37, 1.2e-37])
        check(
            lambda x: tf.nn.max_pool2d(tf.cast(x, tf.float32), 2, 2, "VALID"),
            image.reshape(1, 2, 4, 1),
            differences=False,
        )


class ResizeTest(parameterized.TestCase):
    @parameterized.product(
        op=(tf.raw_ops.ResizeBilinear, tf.raw_ops.ResizeNearestNeighbor),
        flags=((True, False), (False, True), (False, False)),
        size=((8, 10), (4, 5), (9, 3), (1, 7), (2, 13)),
    )
    def test_resize(self, op, flags, size):
        half, align = flags
        check(
            lambda x: op(
                images=tf.cast(x, tf.float32),
                size=size,
                half_pixel_centers=half,
                align_corners=align,
            ),
            noise(2, 4, 5, 3).astype(np.float32),
            tolerance=gradient_checks.SINGLE,
            differences=False,
        )

    def test_bilinear_twofold_is_the_hand_computed_matrix(self):
        expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
        matrix = resize.interpolation(2, 4, True, half_pixel=True, align=False)
        np.testing.assert_array_equal(matrix, expected)


if __name__ == "__main__":
    absltest.main()
