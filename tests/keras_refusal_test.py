"""Tests of Keras models that cannot be made trainable, and of how they are told."""

from __future__ import annotations

import pathlib

import keras
from absl.testing import absltest, parameterized

from ondevice import convert
from signatures import trainable

L = keras.layers


def _looped(x):
    return keras.ops.fori_loop(0, 3, lambda i, y: y * 1.1, x)


class RefusalTest(parameterized.TestCase):
    def of(self, *layers, loss="mean_squared_error", shape=(6, 6, 2), **settings):
        model = keras.Sequential([keras.Input(shape), *layers])
        return trainable.of_keras(model, loss, batch_size=2, **settings)

    @parameterized.parameters(
        "sparse_softmax_cross_entropy",
        "softmax_cross_entropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        lambda outputs, y: keras.ops.sum(y * keras.ops.log_softmax(outputs), -1),
    )
    def test_two_softmaxes(self, loss):
        with self.assertRaisesRegex(ValueError, "the model ends in a softmax"):
            self.of(L.Flatten(), L.Dense(3, activation="softmax"), loss=loss)

    @parameterized.parameters(
        "sigmoid_cross_entropy", keras.losses.BinaryCrossentropy(from_logits=True)
    )
    def test_two_sigmoids(self, loss):
        with self.assertRaisesRegex(ValueError, "the model ends in a sigmoid"):
            self.of(L.Flatten(), L.Dense(3), L.Activation("sigmoid"), loss=loss)

    def test_a_softmax_and_a_loss_on_probabilities(self):
        self.of(
            L.Flatten(),
            L.Dense(3, activation="softmax"),
            loss=keras.losses.SparseCategoricalCrossentropy(),
        )

    @parameterized.parameters(
        (lambda: [L.Dense(3, name="before"), L.Lambda(_looped)], (5, 2), "for and if"),
        (lambda: [L.Dense(3), L.Lambda(keras.ops.erfinv)], (5,), "Erfinv.*lambda"),
    )
    def test_a_layer_without_a_gradient_is_named(self, layers, shape, message):
        made = self.of(*layers(), L.Flatten(), L.Dense(1), shape=shape)
        path = pathlib.Path(self.create_tempdir()) / "out"
        with self.assertRaisesRegex(ValueError, message):
            convert.write(made, path)
        self.assertFalse(path.exists())

    def test_an_operator_without_a_builtin_one_is_named(self):
        made = self.of(L.Lambda(keras.ops.arctan, name="angle"), L.Dense(1), shape=(3,))
        path = pathlib.Path(self.create_tempdir()) / "out"
        with self.assertRaisesRegex(ValueError, "builtin one. Rec.*: Atan 'angle.*/At"):
            convert.write(made, path)
        self.assertFalse(path.exists())

    def test_other_operators_than_there_are(self):
        with self.assertRaisesRegex(ValueError, "one of builtin, select. Rec.*'flex'"):
            self.of(L.Dense(2), ops="flex")
        with self.assertRaisesRegex(ValueError, "draw no random numbers"):
            self.of(L.Dropout(0.5), L.Dense(2), ops="select")

    def test_nothing_that_trains(self):
        layer = L.Dense(2)
        layer.trainable = False
        with self.assertRaisesRegex(ValueError, "weights that train"):
            self.of(layer)

    def test_a_constraint(self):
        with self.assertRaisesRegex(ValueError, "dense/kernel' with a constraint"):
            keras.backend.clear_session()
            self.of(L.Dense(2, kernel_constraint="max_norm"))

    def test_weights_of_half_precision(self):
        with self.assertRaisesRegex(ValueError, "dense/kernel' of float16"):
            keras.backend.clear_session()
            self.of(L.Dense(2, dtype="float16"))

    @parameterized.parameters({"batch_size": 0}, {"infer_batch_size": 0})
    def test_empty_batches(self, **sizes):
        model = keras.Sequential([keras.Input((3,)), L.Dense(2)])
        with self.assertRaisesRegex(ValueError, "at least 1 sample. Rec.* 0 to "):
            trainable.of_keras(model, "mean_squared_error", **sizes)

    def test_names_of_outputs(self):
        x = keras.Input((3,))
        one, two = L.Dense(2, name="one"), L.Dense(2, name="two")
        model = keras.Model(x, [one(x), two(x)])
        with self.assertRaisesRegex(ValueError, r"\['one', 'two'\].*\['one'\]"):
            trainable.of_keras(model, {"one": "mean_squared_error"})
        model = keras.Model(x, [one(x), one(L.Dense(3)(x))])
        with self.assertRaisesRegex(ValueError, "a name of its own.*'one' twice"):
            trainable.of_keras(model, "mean_squared_error")

    def test_shapes_that_are_not_known(self):
        with self.assertRaisesRegex(ValueError, "known but for the batch"):
            self.of(L.Conv2D(2, 3), shape=(None, 6, 2))
        with self.assertRaisesRegex(ValueError, "give it a keras.Input"):
            trainable.of_keras(keras.Sequential([L.Dense(2)]), "mean_squared_error")

    @parameterized.parameters("no_such_loss", 3, keras.losses.MeanSquaredError)
    def test_losses_that_are_none(self, loss):
        with self.assertRaisesRegex(ValueError, "A loss must be one of"):
            self.of(L.Dense(2), loss=loss)

    def test_a_loss_of_another_shape(self):
        with self.assertRaisesRegex(ValueError, "one row for each of the 2"):
            self.of(L.Dense(2), loss=lambda outputs, y: outputs[0])

    def test_a_scalar_loss_takes_no_weights_of_samples(self):
        made = self.of(L.Dense(2), loss=lambda outputs, y: keras.ops.mean(outputs - y))
        names = [spec.name for spec in made.signature_specs[-1].inputs]
        self.assertEqual(names, ["x", "y", "learning_rate"])


if __name__ == "__main__":
    absltest.main()
