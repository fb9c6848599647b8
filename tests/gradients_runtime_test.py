"""Gradients converted with builtin operators only, and run in every runtime."""

import functools

import keras
import numpy as np
import tensorflow as tf
from absl.testing import absltest, parameterized

from checkpoints import manifest
from signatures.gradients import graph
from tests import builtin_files
from tests.gradient_checks import noise

# Float32 sums of some hundred terms in another order, relative to the largest element.
TOLERANCE = 1e-5

nn = tf.nn


def conv(stride, padding):
    return lambda x, w: nn.conv2d(x, w, stride, padding)


def deconv(out, stride, padding):
    return lambda x, w: nn.conv2d_transpose(x, w, out, stride, padding)


def depthwise(stride, padding):
    return lambda x, w: nn.depthwise_conv2d(x, w, [1, stride, stride, 1], padding)


def resize(op, half, align, size):
    return lambda x: op(
        images=x, size=size, half_pixel_centers=half, align_corners=align
    )


def activations(x):
    x = tf.concat([x, tf.zeros([1, 8])], 0)
    parts = (
        nn.relu(x), nn.relu6(5 * x), nn.leaky_relu(x, 0.3), nn.elu(x), nn.selu(x),
        nn.sigmoid(x), nn.tanh(x), nn.softplus(200 * x) / 200, nn.silu(x),
        nn.relu6(x + 3) * x, nn.gelu(2 * x), nn.softsign(x), tf.math.expm1(x),
        tf.math.erf(x), tf.math.erfc(x),
        nn.gelu(x, approximate=True), nn.relu(x) + -x[0] * nn.relu(-x),
    )  # fmt: skip
    return tf.stack(parts)


def elementwise(x, y):
    p = tf.abs(x) + 0.5
    parts = (
        x + y, x - y, x * y, x / (2 + y * y), tf.math.squared_difference(x, y),
        tf.maximum(x, y), tf.minimum(x, y), tf.exp(x), tf.math.log(p), tf.sqrt(p),
        tf.math.rsqrt(p), p**1.7, (1 - nn.sigmoid(x)) ** 2.0, tf.abs(x), tf.sin(x),
        tf.cos(x), tf.math.log1p(p), tf.where(x > 0.0, x * x, 3.0 * x), -x,
        tf.clip_by_value(x, -0.5, 0.5), tf.add_n([x, x, 2.0 * x]), tf.square(x),
        nn.sigmoid_cross_entropy_with_logits(tf.ones_like(x), x),
        x * tf.stop_gradient(x) + tf.floor(x),
    )  # fmt: skip
    return tf.stack(parts)


def reductions(x):
    parts = [
        function(x, axis, keepdims=keep)
        for function in (tf.reduce_sum, tf.reduce_mean, tf.reduce_max, tf.reduce_min)
        for axis in ((0,), (1, 2), (0, 3), (1, 3), (3,), None)
        for keep in (False, True)
    ]
    parts += [nn.softmax(x), nn.log_softmax(x), tf.reduce_logsumexp(x, -1)]
    parts += nn.moments(x, [1, 2])
    flat = tf.reshape(x, [-1, 4])
    labels = np.eye(4, dtype=np.float32)[np.arange(24) % 4]
    parts.append(nn.softmax_cross_entropy_with_logits(labels, flat))
    sparse = np.arange(24, dtype=np.int32) % 3
    parts.append(nn.sparse_softmax_cross_entropy_with_logits(sparse, flat))
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def arrangement(x):
    parts = (
        tf.transpose(x, [2, 3, 0, 1]), tf.pad(x, [[0, 1], [2, 0], [0, 0], [1, 3]]),
        tf.pad(x, [[0, 0], [2, 1], [1, 3], [0, 0]], "REFLECT"),
        tf.pad(x, [[0, 0], [2, 1], [0, 4], [0, 0]], "SYMMETRIC"),
        tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=2.0),
        tf.concat([x, 2 * x], 3), tf.split(x, 2, 3)[1], tf.stack([x, x * x], 2),
        tf.split(x, [1, 3], -1)[1], tf.unstack(x, axis=1)[2], x[:, 1::2, ..., ::3],
        x[1, -1, :-2, None, 1:3], tf.tile(x, [2, 1, 3, 2]), tf.repeat(x, 2, axis=1),
        tf.gather(x, [[2, 0], [2, 2]], axis=1), nn.space_to_depth(x, 2),
        nn.depth_to_space(x, 2), tf.broadcast_to(x[:, :1], [2, 6, 4, 4]),
        tf.space_to_batch(x, [2, 2], [[0, 0], [1, 1]]), tf.squeeze(x[:1], 0),
        tf.batch_to_space(x, [1, 2], [[0, 0], [1, 0]]), tf.expand_dims(x, 1),
        tf.slice(x, [0, 1, 0, 2], [-1, 2, 3, 1]), tf.reverse(x, [0, 2]),
    )  # fmt: skip
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def products(a, b, c):
    return tf.concat(
        [
            tf.reshape(product, [-1])
            for product in (
                tf.matmul(a, b),
                tf.matmul(a, a, transpose_a=True),
                tf.matmul(b, b, transpose_b=True),
                tf.matmul(c, a),
                tf.matmul(a, c, transpose_a=True, transpose_b=True),
            )
        ],
        0,
    )


def spellings(x):
    parts = (
        tf.roll(x, [2, -1], [1, 2]), tf.reduce_prod(x, [0, 3], keepdims=True) * x,
        tf.linalg.band_part(x, 1, 0), tf.math.floormod(x, 0.7), tf.tan(0.3 * x),
        tf.sinh(x), tf.cosh(x), x * tf.math.floordiv(x, 0.7), tf.cumsum(x, 1),
        tf.cumsum(x, -1, exclusive=True, reverse=True),
        tf.cond(tf.reduce_sum(x) > 0, lambda: x * x, lambda: tf.exp(x)),
        tf.cond(tf.reduce_sum(x) < 0, lambda: x * x, lambda: tf.exp(x)),
        tf.math.top_k(x, 2)[0],
    )  # fmt: skip
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def volumes(x, w):
    strides = [1, 2, 1, 2, 1]
    parts = (
        nn.conv3d(x, w, strides, "SAME"), nn.conv3d(x, w, [1] * 5, "VALID"),
        nn.conv3d_transpose(x[..., :2], w, [2, 8, 5, 12, 3], strides, "SAME"),
        nn.max_pool3d(x, 3, 2, "SAME"), nn.avg_pool3d(x, [2, 3, 2], 1, "SAME"),
    )  # fmt: skip
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def pictures(x):
    transforms = [[0.8, 0.3, -2.1, -0.4, 1.1, 1.3, 0, 0]] * 2
    parts = [
        tf.image.resize(x, (9, 4), "bicubic"), tf.image.resize(x, (4, 5), "lanczos3"),
        tf.image.resize(x, (3, 4), antialias=True),
    ]  # fmt: skip
    for mode in ("CONSTANT", "NEAREST", "REFLECT", "WRAP"):
        # TensorFlow's gradient of it is another one than of what it computes.
        moved = tf.stop_gradient(
            tf.raw_ops.ImageProjectiveTransformV3(
                images=x, transforms=transforms, output_shape=[6, 7], fill_value=0.5,
                interpolation="BILINEAR", fill_mode=mode,
            )
        )  # fmt: skip
        parts.append(moved * x)
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


bilinear, nearest = tf.raw_ops.ResizeBilinear, tf.raw_ops.ResizeNearestNeighbor
# Function, shapes of its inputs.
CASES: dict = {
    "conv_1x1": (conv(1, "SAME"), (2, 5, 4, 3), (1, 1, 3, 6)),
    "conv_1x1_stride": (conv(2, "SAME"), (2, 5, 4, 3), (1, 1, 3, 4)),
    "conv_3x3": (conv(1, "SAME"), (2, 5, 6, 2), (3, 3, 2, 3)),
    "conv_3x3_stride": (conv(2, "VALID"), (1, 8, 8, 2), (3, 3, 2, 3)),
    "conv_5x5_stem": (conv(2, "SAME"), (1, 16, 16, 3), (5, 5, 3, 8)),
    "conv_unequal": (conv([1, 3], "SAME"), (1, 6, 8, 2), (2, 4, 2, 3)),
    "deconv_2x2": (deconv((1, 8, 8, 3), 2, "SAME"), (1, 4, 4, 2), (2, 2, 3, 2)),
    "deconv_3x3": (deconv((2, 7, 8, 3), 2, "SAME"), (2, 4, 4, 2), (3, 3, 3, 2)),
    "deconv_dilated": (
        lambda x, w: nn.conv2d_transpose(x, w, (1, 8, 9, 3), 1, "VALID", dilations=2),
        (1, 4, 5, 2),
        (3, 3, 3, 2),
    ),
    "depthwise_5x5": (depthwise(1, "SAME"), (2, 6, 6, 3), (5, 5, 3, 1)),
    "depthwise_stride": (depthwise(2, "SAME"), (2, 8, 6, 3), (5, 5, 3, 1)),
    "depthwise_odd": (depthwise(2, "VALID"), (1, 9, 7, 2), (3, 4, 2, 1)),
    "depthwise_times_2": (depthwise(1, "SAME"), (1, 5, 5, 2), (3, 3, 2, 2)),
    # The batch folded into the channels would be more than the kernel's buffer holds.
    "depthwise_wide": (depthwise(1, "SAME"), (7, 3, 3, 1300), (2, 2, 1300, 1)),
    "max_2x2": (lambda x: nn.max_pool2d(x, 2, 2, "SAME"), (2, 6, 7, 3)),
    "max_3x3": (lambda x: nn.max_pool2d(x, 3, 2, "SAME"), (2, 7, 8, 3)),
    "max_of_ties": (
        lambda x: nn.max_pool2d(tf.floor(x) + x - x, 3, 2, "SAME"),
        (2, 8, 8, 3),
    ),
    "max_of_a_constant": (
        lambda x: nn.max_pool2d(tf.minimum(x, -100.0), 2, 2, "VALID"),
        (1, 6, 6, 2),
    ),
    "avg_3x3": (lambda x: nn.avg_pool2d(x, 3, 2, "SAME"), (2, 7, 8, 3)),
    "bilinear": (resize(bilinear, True, False, (8, 8)), (2, 4, 4, 3)),
    "bilinear_down": (resize(bilinear, False, False, (3, 5)), (1, 7, 8, 3)),
    "bilinear_aligned": (resize(bilinear, False, True, (9, 7)), (1, 4, 5, 3)),
    "nearest": (resize(nearest, True, False, (8, 7)), (2, 4, 4, 3)),
    "pictures": (pictures, (2, 6, 7, 3)),
    "volumes": (volumes, (2, 4, 5, 6, 3), (3, 2, 2, 3, 2)),
    "activations": (activations, (5, 8)),
    "elementwise": (elementwise, (3, 4), (3, 4)),
    "broadcast": (elementwise, (2, 3, 4), (3, 4)),
    "reductions": (reductions, (2, 3, 4, 4)),
    "arrangement": (arrangement, (2, 6, 4, 4)),
    "spellings": (spellings, (2, 3, 4, 4)),
    "einsum": (
        lambda a, b: tf.einsum("aecd,abcd->acbe", a, b),
        (2, 3, 4, 5),
        (2, 6, 4, 5),
    ),
    "products": (products, (4, 3), (3, 5), (6, 5, 4)),
    "products_of_batches": (products, (2, 4, 3), (2, 3, 5), (3, 1, 5, 4)),
}
# What has other operators with --target=tflite_runtime.
TARGETED = tuple(key for key in CASES if key.startswith("depthwise"))
PREFIX = "targeted_"


def gradients(function, target, *inputs):
    loss, found = graph.value_and_gradients(
        lambda w: tf.reduce_sum(tf.square(function(*w) + 0.5)), inputs, target=target
    )
    return {"loss": loss, **{f"gradient_{i}": g for i, g in enumerate(found)}}


def signature(function, target, shapes):
    specs = [tf.TensorSpec(shape, name=f"x{i}") for i, shape in enumerate(shapes)]
    return tf.function(
        functools.partial(gradients, function, target),
        input_signature=specs,
        autograph=False,
    )


def inputs_of(shapes):
    return {f"x{i}": noise(*s).astype(np.float32) for i, s in enumerate(shapes)}


def assert_close(got, want, name):
    want = np.asarray(want)
    np.testing.assert_allclose(
        got, want, rtol=0, atol=TOLERANCE * max(np.abs(want).max(), 1), err_msg=name
    )


class RuntimeTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        functions = {
            key: signature(function, manifest.ANY, shapes)
            for key, (function, *shapes) in CASES.items()
        }
        for key in TARGETED:
            function, *shapes = CASES[key]
            targeted = signature(function, manifest.TFLITE_RUNTIME, shapes)
            functions[PREFIX + key] = targeted
        cls.content = builtin_files.convert(functions)

    def test_operators_are_builtin_and_shapes_static(self):
        found = builtin_files.census(self.content)
        self.assertEmpty([name for name in found if not name.isupper()])
        self.assertNotIn("REVERSE_V2", found)

    @parameterized.parameters(*builtin_files.INTERPRETERS)
    def test_gradients_are_those_of_tensorflow(self, runtime):
        keys = [*CASES, *(PREFIX + key for key in TARGETED)]
        inputs = {key: inputs_of(CASES[key.removeprefix(PREFIX)][1:]) for key in keys}
        results = builtin_files.run(self.content, runtime, inputs)
        for key in keys:
            function = CASES[key.removeprefix(PREFIX)][0]
            tensors = [tf.constant(x) for x in inputs[key].values()]
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                loss = tf.reduce_sum(tf.square(function(*tensors) + 0.5))
            self.assertLen(results[key], 1 + len(tensors))
            np.testing.assert_allclose(results[key]["loss"], loss, rtol=1e-5)
            for i, want in enumerate(tape.gradient(loss, tensors)):
                assert_close(results[key][f"gradient_{i}"], want, f"{key}, input {i}")


class KerasTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        layers = keras.layers
        keras.utils.set_random_seed(3)
        slopes = keras.initializers.RandomUniform(-9, 16)
        image = keras.Input((20, 18, 3), batch_size=2)
        x = layers.Conv2D(6, 5, strides=2, padding="same")(image)
        x = layers.PReLU(shared_axes=[1, 2], alpha_initializer=slopes)(x)
        y = layers.DepthwiseConv2D(5, strides=2, padding="same", use_bias=False)(x)
        y = layers.Conv2D(8, 1)(y)
        z = layers.MaxPool2D(padding="same")(x)
        z = layers.ZeroPadding2D(((0, 0), (0, 0)))(z)
        z = layers.Concatenate()([z, z[..., :2] * 0.0])
        x = layers.ReLU()(layers.Add()([y, z]))
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = layers.ZeroPadding2D(1)(x)
        x = layers.BatchNormalization()(x)
        x = layers.SeparableConv2D(4, 3, activation="leaky_relu")(x)
        x = layers.Conv2DTranspose(3, 2, strides=2, activation="relu6")(x)
        x = layers.Conv2D(4, 3, dilation_rate=2, activation="silu")(x)
        x = layers.UpSampling2D(2)(x)
        x = layers.AveragePooling2D(3)(x)
        x = layers.LayerNormalization()(x)
        x = layers.GlobalAveragePooling2D()(x)
        cls.model = keras.Model(image, layers.Dense(5)(x))
        rng = np.random.default_rng(0)
        cls.image = rng.random((2, 20, 18, 3), dtype=np.float32)
        cls.image[0, :8] = 0  # a black frame ties cells
        cls.weights = [v.numpy() for v in cls.model.trainable_variables]
        cls.names = [f"w{i:02}" for i in range(len(cls.weights))]
        frozen = [tf.constant(v) for v in cls.model.non_trainable_variables]

        def loss(weights, image):
            logits, _ = cls.model.stateless_call(weights, frozen, image)
            labels = tf.constant([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0]], tf.float32)
            return tf.reduce_mean(
                tf.nn.softmax_cross_entropy_with_logits(labels, logits)
            )

        def step(image, *weights):
            value, found = graph.value_and_gradients(loss, weights, image)
            return {"loss": value, **dict(zip(cls.names, found))}

        specs = [tf.TensorSpec(cls.image.shape, name="image")]
        for name, weight in zip(cls.names, cls.weights):
            specs.append(tf.TensorSpec(weight.shape, name=name))
        cls.content = builtin_files.convert(
            {"step": tf.function(step, input_signature=specs, autograph=False)}
        )
        tensors = [tf.constant(w) for w in cls.weights]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            cls.loss = loss(tensors, tf.constant(cls.image))
        cls.expected = tape.gradient(cls.loss, tensors)

    @parameterized.parameters(*builtin_files.INTERPRETERS)
    def test_every_weight(self, runtime):
        inputs = {"image": self.image, **dict(zip(self.names, self.weights))}
        found = builtin_files.run(self.content, runtime, {"step": inputs})["step"]
        np.testing.assert_allclose(found["loss"], self.loss, rtol=1e-5)
        largest = max(np.abs(g).max() for g in self.expected)
        for name, want in zip(self.names, self.expected):
            self.assertGreater(np.abs(want).max(), 1e-6 * largest)
            # Sums of thousands of terms of either sign, whose errors add up.
            np.testing.assert_allclose(
                found[name], want, rtol=0, atol=1e-4 * np.abs(want).max()
            )


if __name__ == "__main__":
    absltest.main()
