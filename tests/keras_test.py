"""Tests of trainable files of Keras models, against Keras' own training."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile

import keras
import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import patch, store, tflite_file
from ondevice import convert, exporting, keras_files
from ondevice.device import exports, runtimes, session
from signatures import keras_model, optimizers, trainable
from tests import keras_models, keras_reference

BATCH, RATE, STEPS = 6, 0.05, 3
L = keras.layers
DROPOUT = keras_models.Case(keras_models.dropout)
_directory = tempfile.TemporaryDirectory()


def module(
    case: keras_models.Case, optimizer: str = "momentum"
) -> keras_model.KerasTrainable:
    settings = optimizers.Settings(optimizer, clip_norm=0.0)
    return trainable.of_keras(
        keras_reference.build(case), case.loss, settings, BATCH
    )


@functools.cache
def written(name: str, optimizer: str = "momentum"):
    """The module of a case and the folder of its files, made once."""
    case = DROPOUT if name == "dropout" else keras_models.CASES[name]
    made = module(case, optimizer)
    folder = pathlib.Path(_directory.name) / f"{name}_{optimizer}"
    convert.write(made, folder)
    return made, folder


def arrays(made: keras_model.KerasTrainable, case: keras_models.Case):
    """Inputs and targets by name."""
    return keras_models.batch(case, made.signature_specs[-1].inputs)


def split(made: keras_model.KerasTrainable, batch):
    """Inputs and targets as lists."""
    plan = made.plan
    return [batch[s.name] for s in plan.inputs], [batch[s.name] for s in plan.targets]


def outputs(opened: session.Session, inputs):
    found = opened.infer(*(x[:1] for x in inputs))
    return found if isinstance(found, tuple) else (found,)


def relative(one, other) -> float:
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(one, other))


def assert_state(state, before, expected, specs) -> None:
    """Every weight and statistic within 1e-4 of its change, and two roundings."""
    names = [s.name for s in specs if s.role in manifests.PARAMETERS]
    change = {n: np.abs(expected[n] - before[n]).max() for n in names}
    most = max(change.values())
    for name in names:
        # A bias before BatchNorm, or of keys, has the gradient 0: noise is left.
        noise = 1e-5 * most if change[name] < 1e-6 * most else 0.0
        rounding = 2 * np.spacing(np.abs(expected[name]).max().astype(np.float32))
        bound = max(1e-4 * change[name], noise) + rounding
        np.testing.assert_allclose(
            state[name], expected[name], rtol=0, atol=bound, err_msg=name
        )


class TrainingTest(parameterized.TestCase):
    @parameterized.product(name=tuple(keras_models.CASES), runtime=runtimes.NAMES)
    def test_steps_are_those_of_keras(self, name, runtime):
        case = keras_models.CASES[name]
        made, folder = written(name)
        batch = arrays(made, case)
        inputs, targets = split(made, batch)
        optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
        truth = keras_reference.Reference(case, made.parameters(), optimizer)
        ones = np.ones(BATCH, np.float32)
        with session.Session(folder / "model.tflite", runtime, 1) as opened:
            before = opened.state()
            for _ in range(STEPS):
                evaluated = opened.evaluate(**batch, sample_weights=ones).loss
                found = opened.train(
                    **batch, sample_weights=ones, learning_rate=RATE
                ).loss
                expected = truth.step(inputs, targets)
                self.assertAlmostEqual(found / expected, 1, delta=2e-6)
                if not truth.has_statistics:  # which evaluation uses, training not
                    self.assertAlmostEqual(evaluated / expected, 1, delta=2e-6)
            assert_state(opened.state(), before, truth.state(), made.specs)
            want = truth.infer([x[:1] for x in inputs])
            self.assertLess(relative(outputs(opened, inputs), want), 5e-6)

    @parameterized.parameters(*keras_models.CASES)
    def test_operators_are_builtin(self, name):
        _, folder = written(name)
        for file in ("model.tflite", "inference.tflite"):
            found = tflite_file.read(folder / file)
            self.assertEqual((found.flex(), found.custom()), ((), ()))
            for graph in found.subgraphs:
                for tensor in graph.tensors:
                    self.assertNotIn(-1, tensor.shape_signature, tensor.name)

    def test_a_batch_that_is_filled_up_is_the_smaller_one(self):
        case = keras_models.CASES["overview"]
        made, folder = written("overview")
        batch = arrays(made, case)
        weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
        batch["x"][4:] = 1e3
        truth = keras_reference.Reference(
            case, made.parameters(), keras.optimizers.SGD(RATE, momentum=0.9)
        )
        with session.Session(folder / "model.tflite") as opened:
            before = opened.state()
            found = opened.train(**batch, sample_weights=weights, learning_rate=RATE)
            expected = truth.step([batch["x"][:4]], [batch["y"][:4]])
            self.assertAlmostEqual(found.loss / expected, 1, delta=2e-6)
            assert_state(opened.state(), before, truth.state(), made.specs)

    def test_frozen_layers_are_constants(self):
        made, _ = written("nested")
        self.assertEqual(
            {s.name for s in made.specs if s.role == manifests.WEIGHT},
            {"inner_convolution/kernel", "inner_convolution/bias"}
            | {"dense/kernel", "dense/bias"},
        )
        self.assertContainsSubset({"conv2d/kernel", "inner_norm/gamma"}, made.frozen)

    @parameterized.parameters(*runtimes.NAMES)
    def test_dropout_takes_the_gradient_of_its_mask(self, runtime):
        made, folder = written("dropout")
        batch = arrays(made, DROPOUT)
        inputs, targets = split(made, batch)
        truth = keras_reference.Reference(
            DROPOUT, made.parameters(), keras.optimizers.SGD(RATE, momentum=0.9)
        )
        with session.Session(folder / "model.tflite", runtime, 1) as opened:
            before = opened.state()
            for step in range(STEPS):
                with keras_reference.drawn(seed=11, step=step):
                    expected = truth.step(inputs, targets)
                found = opened.train(
                    **batch,
                    sample_weights=np.ones(BATCH, np.float32),
                    learning_rate=RATE,
                    seed=11,
                ).loss
                self.assertAlmostEqual(found / expected, 1, delta=2e-6)
            assert_state(opened.state(), before, truth.state(), made.specs)

    def test_keras_optimizers_and_bounds_of_adam(self):
        case = keras_models.CASES["overview"]
        made, folder = written("overview", "adam")
        batch = arrays(made, case)
        truth = keras_reference.Reference(
            case, made.parameters(), keras.optimizers.Adam(1e-3)
        )
        with session.Session(folder / "model.tflite") as opened:
            for _ in range(STEPS):
                truth.step([batch["x"]], [batch["y"]])
                opened.train(
                    **batch,
                    sample_weights=np.ones(BATCH, np.float32),
                    learning_rate=1e-3,
                )
            state, expected = opened.state(), truth.state()
        for name in made.parameters():
            # Adam makes a whole step of a gradient that is rounding alone; few are.
            error = np.abs(state[name] - expected[name])
            self.assertLess(np.quantile(error, 0.99), 1e-6, name)


class StateTest(parameterized.TestCase):
    @parameterized.parameters(*runtimes.NAMES)
    def test_a_resumed_run_is_the_uninterrupted_one(self, runtime):
        made, folder = written("dropout", "adam")
        given = {
            **arrays(made, DROPOUT),
            "sample_weights": np.ones(BATCH, np.float32),
            "learning_rate": 1e-2,
            "seed": 3,
        }
        path = pathlib.Path(self.create_tempdir()) / "checkpoint"
        with session.Session(folder / "model.tflite", runtime, 1) as opened:
            opened.train(**given)
            opened.train(**given)
            opened.save(path)
            for _ in range(2):
                opened.train(**given)
            expected = opened.state()
        with session.Session(folder / "model.tflite", runtime, 1) as opened:
            self.assertEqual(opened.restore(path).step, 2)
            for _ in range(2):
                opened.train(**given)
            for name, value in opened.state().items():
                self.assertEqual(value.tobytes(), expected[name].tobytes(), name)

    def test_other_seeds_and_steps_draw_other_masks(self):
        made, folder = written("dropout", "adam")
        given = {
            **arrays(made, DROPOUT),
            "sample_weights": np.ones(BATCH, np.float32),
            "learning_rate": 0.0,
        }
        with session.Session(folder / "model.tflite") as opened:
            first = opened.state()
            losses = [opened.train(**given, seed=s).loss for s in (1, 1, 2, -5)]
            self.assertLen(set(losses), 4)
            opened.load_state(first)
            self.assertEqual(opened.train(**given, seed=1).loss, losses[0])

    def test_forgetting_steps_keeps_the_statistics(self):
        made, folder = written("batch_norm")
        given = {**arrays(made, keras_models.CASES["batch_norm"]),
                 "sample_weights": np.ones(BATCH, np.float32)}  # fmt: skip
        with session.Session(folder / "model.tflite") as opened:
            opened.train(**given, learning_rate=RATE)
            before = opened.state()
            opened.forget_steps()
            after = opened.state()
        for spec in made.specs:
            if spec.role in manifests.PARAMETERS:
                np.testing.assert_array_equal(after[spec.name], before[spec.name])
            else:
                self.assertFalse(after[spec.name].any(), spec.name)


class ExportTest(parameterized.TestCase):
    def trained(self, name: str):
        """Source, state and a checkpoint after some steps."""
        case = DROPOUT if name == "dropout" else keras_models.CASES[name]
        made, folder = written(name)
        given = arrays(made, case)
        if name == "dropout":
            given["seed"] = 1
        path = pathlib.Path(self.create_tempdir()) / "checkpoint"
        with session.Session(folder / "model.tflite") as opened:
            for _ in range(STEPS):
                opened.train(
                    **given,
                    sample_weights=np.ones(BATCH, np.float32),
                    learning_rate=RATE,
                )
            opened.save(path)
        return made, folder, path

    @parameterized.parameters(
        *(n for n in keras_models.CASES if n != "recurrent"), "dropout"
    )
    def test_a_patched_file_is_the_trained_model(self, name):
        made, folder, checkpoint = self.trained(name)
        output = pathlib.Path(self.create_tempdir())
        for kind, bound in (("inference", 5e-6), ("trainable", 0)):
            config = exporting.ExportConfig(
                model=str(folder / "model.tflite"),
                output=str(output / kind),
                checkpoint=str(checkpoint),
                kind=kind,
            )
            self.assertLessEqual(exporting.export(config)["max_difference"], bound)
        anew = output / "anew"
        convert.write_inference(made, anew, checkpoint)
        case = DROPOUT if name == "dropout" else keras_models.CASES[name]
        inputs, _ = split(made, arrays(made, case))
        with session.Session(output / "inference") as one:
            with session.Session(anew) as other:
                found = outputs(one, inputs), outputs(other, inputs)
        self.assertLess(relative(*found), 1e-6)

    def test_what_cannot_be_told_apart_is_made_anew(self):
        made, folder, checkpoint = self.trained("recurrent")
        source = exports.Source.read(folder / "model.tflite", None)
        with self.assertRaisesRegex(exports.ExportError, "convert.write_inference"):
            source.patched(source.checkpoint(checkpoint), "inference")
        path = pathlib.Path(self.create_tempdir()) / "anew"
        convert.write_inference(made, path, checkpoint)
        inputs, _ = split(made, arrays(made, keras_models.CASES["recurrent"]))
        with session.Session(folder / "model.tflite") as trained:
            trained.restore(checkpoint)
            expected = outputs(trained, inputs)
        with session.Session(path) as anew:
            self.assertLess(relative(outputs(anew, inputs), expected), 5e-6)

    @parameterized.parameters("batch_norm", "nested", "shared_scale")
    def test_batch_norm_is_folded(self, name):
        _, folder = written(name)
        census = tflite_file.read(folder / "inference.tflite").census()
        kinds = set(census) - {"RESHAPE", "MEAN", "CONCATENATION"}
        # The Normalization of the image is no BatchNorm, and pads with zeros after it.
        kinds -= {"MUL", "SUB"} if name == "nested" else set()
        self.assertLessEqual(
            kinds, {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
        )

    def test_reconverting_a_file_alone_is_refused(self):
        _, folder = written("overview")
        config = exporting.ExportConfig(
            model=str(folder / "model.tflite"),
            output=str(pathlib.Path(self.create_tempdir()) / "x"),
            kind="inference",
            method="reconvert",
        )
        with self.assertRaisesRegex(exports.ExportError, "convert.write_inference"):
            exporting.export(config)

    def test_a_checkpoint_of_another_model_is_refused(self):
        made, _ = written("overview")
        _, _, checkpoint = self.trained("nested")
        path = pathlib.Path(self.create_tempdir()) / "x"
        with self.assertRaises(store.CheckpointError):
            convert.write_inference(made, path, checkpoint)
        self.assertFalse(path.exists())

    def test_a_model_is_another_where_a_frozen_weight_is(self):
        def fingerprint(changed: str) -> str:
            made = module(keras_models.CASES["nested"])
            values = made.frozen | made.parameters()
            if changed:
                values[changed] = values[changed] + 1
            made.frozen.clear()
            made.frozen.update({name: values[name] for name in frozen})
            return keras_files.described(made, {}).fingerprint

        frozen = list(module(keras_models.CASES["nested"]).frozen)
        self.assertEqual(fingerprint(""), fingerprint("dense/bias"))
        self.assertNotEqual(fingerprint(""), fingerprint("conv2d/kernel"))


class LearningTest(absltest.TestCase):
    def test_an_easy_task_is_learnt(self):
        """Three classes of stripes, told by a network with BatchNorm and dropout."""
        _, folder = written("dropout", "adam")
        rng = np.random.default_rng(0)

        def draw(count):
            y = rng.integers(0, 3, count).astype(np.int32)
            stripes = np.sin(np.arange(8) * np.pi / 2.0)
            x = rng.normal(0, 0.5, (count, 8, 8, 2))
            down, across = ((y == k)[:, None, None, None] for k in (1, 2))
            x += down * stripes[:, None, None] + across * stripes[:, None]
            return x.astype(np.float32), y

        with session.Session(folder / "model.tflite") as opened:
            for _ in range(300):
                x, y = draw(BATCH)
                opened.train(
                    x=x, y=y, sample_weights=np.ones(BATCH, np.float32),
                    learning_rate=3e-3, seed=0,
                )  # fmt: skip
            x, y = draw(200)
            found = [int(opened.infer(image[None]).argmax()) for image in x]
        self.assertGreater(np.mean(found == y), 0.9)


class ManifestTest(absltest.TestCase):
    def test_files_of_before_there_were_folds_are_read(self):
        _, folder = written("overview")
        text = (folder / "manifest.json").read_text()
        self.assertNotIn("folds", text)
        self.assertEqual(manifests.from_json(text).folds, {})

    def test_a_fold_that_is_malformed_is_refused_in_one_line(self):
        _, folder = written("batch_norm")
        path = folder / "inference.tflite"
        file = tflite_file.read(path)
        found = manifests.of_file(file)
        self.assertNotEmpty(found.folds)
        source = exports.Source.read(folder / "model.tflite", path)
        state = source.own_state()
        wrong = {name: ["Mul", ["weight"]] for name in found.folds}
        with self.assertRaisesRegex(patch.PatchError, "A fold must be"):
            patch.patch_inference(
                file,
                dataclasses.replace(found, folds=wrong),
                {n: state[n] for n in state if n.endswith("gamma")},
            )


if __name__ == "__main__":
    absltest.main()
