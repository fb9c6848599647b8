"""Tests of recipes and what they make."""

from __future__ import annotations

import dataclasses
import itertools
import math
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import tflite_file, weights
from ondevice import fresh
from ondevice.device import session
from ondevice.rebuild import topology
from signatures import contract, sample_by_sample
from tests import tiny_builds, tiny_detector


class RecipeTest(absltest.TestCase):
    def test_a_manifest_gives_its_recipe_back(self):
        manifest = tiny_builds.heads().manifest
        with tiny_detector.known():
            self.assertEqual(fresh.recipe_of(manifest), tiny_builds.heads_recipe())

    def test_unknown_spec(self):
        with self.assertRaisesRegex(fresh.RecipeError, "one of palm_full.*'palm_tiny'"):
            fresh.recipe_of(tiny_builds.heads().manifest)

    def test_unknown_hyperparameter(self):
        manifest = tiny_builds.heads().manifest
        for changed in (
            dataclasses.replace(manifest, optimizer={"name": "adam", "speed": 1}),
            dataclasses.replace(manifest, losses={"speed": 1.0}),
        ):
            with tiny_detector.known():
                with self.assertRaisesRegex(fresh.RecipeError, "speed"):
                    fresh.recipe_of(changed)

    def test_a_file_of_before_there_was_a_smoothing_had_none(self):
        manifest = tiny_builds.heads().manifest
        losses = dict(manifest.losses)
        self.assertGreater(losses.pop("smoothing"), 0)
        with tiny_detector.known():
            recipe = fresh.recipe_of(dataclasses.replace(manifest, losses=losses))
        self.assertEqual(recipe.losses.smoothing, 0)


class MakeTest(absltest.TestCase):
    def test_embedded_manifests(self):
        files = tiny_builds.heads()
        model = manifests.of_file(tflite_file.parse(files.model))
        frozen = manifests.of_file(tflite_file.parse(files.inference))
        self.assertEqual(model, files.manifest)
        self.assertEqual((model.kind, frozen.kind), ("trainable", "inference"))
        self.assertEqual(model.fingerprint, frozen.fingerprint)
        self.assertEqual(frozen.constants, files.constants)
        self.assertEqual((frozen.variables, frozen.signatures), ((), ()))
        self.assertEqual(model.classes, tiny_builds.CLASSES)

    def test_the_weights_are_the_files_constants(self):
        files = tiny_builds.heads()
        given = tiny_detector.weights(1, len(tiny_builds.CLASSES))
        recipe = tiny_builds.heads_recipe()
        state = weights.of_trainable(tflite_file.parse(files.model), files.manifest)
        for name in recipe.trained:
            np.testing.assert_array_equal(state[name], given[name], err_msg=name)
        file = tflite_file.parse(files.inference)
        shapes = topology.variables(recipe.layers)
        stored = weights.of_inference(file, manifests.of_file(file), shapes)
        self.assertEqual(set(stored), set(given))
        for name, value in given.items():
            np.testing.assert_array_equal(stored[name], value, err_msg=name)

    def test_the_file_gives_what_its_buffers_hold(self):
        files = tiny_builds.whole()
        held = weights.of_trainable(tflite_file.parse(files.model), files.manifest)
        with session.Session(files.model) as opened:
            state = opened.state()
        self.assertEqual(set(held), set(state))
        for name, value in state.items():
            np.testing.assert_array_equal(held[name], value, err_msg=name)

    def test_runtimes_know_every_shape_before_they_run(self):
        # Otherwise they lay out what follows apart, and hold both for a moment; and
        # tflite-runtime 2.14 delegates nothing of that graph nor of those behind it.
        made = (tiny_builds.heads(), tiny_builds.whole(), tiny_builds.new_classes())
        for file in [tflite_file.parse(files.model) for files in made]:
            unknown = [
                (graph.name, operator.index)
                for graph in file.subgraphs
                for operator in graph.operators
                if operator.name in ("RESHAPE", "READ_VARIABLE")
                and not graph.tensors[operator.outputs[0]].shape
            ]
            self.assertEqual(unknown, [])

    def test_what_trains_on_features(self):
        keys = {s.key for s in tiny_builds.heads().manifest.signatures}
        self.assertContainsSubset({contract.FEATURES, contract.TRAIN_FEATURES}, keys)
        self.assertNotIn(contract.TRAIN_CLASSES, keys)
        keys = {s.key for s in tiny_builds.new_classes().manifest.signatures}
        self.assertContainsSubset({contract.FEATURES, contract.TRAIN_CLASSES}, keys)
        self.assertNotIn(contract.TRAIN_FEATURES, keys)
        # Where no head is new there is nothing to train before the rest.
        keys = {s.key for s in tiny_builds.whole().manifest.signatures}
        self.assertNoCommonElements({contract.FEATURES, *contract.ON_FEATURES}, keys)

    def test_a_step_of_the_classes_moves_nothing_else(self):
        files, recipe = tiny_builds.new_classes(), tiny_builds.new_classes_recipe()
        with session.Session(files.model) as opened:
            before = opened.state()
            batch = tiny_builds.batch(files.manifest)
            images = batch.pop("image")
            features = [opened.features(image[np.newaxis]) for image in images]
            stacked = {n: np.concatenate([f[n] for f in features]) for n in features[0]}
            found = opened.train_classes(**stacked, **batch, learning_rate=1e-3)
            after = opened.state()
            opened.load_state(before)
            full = opened.train(image=images, **batch, learning_rate=1e-3)
        self.assertAlmostEqual(found.loss, full.loss, places=5)
        self.assertLess(found.gradient_norm, full.gradient_norm)
        moved = {n for n in before if not np.array_equal(before[n], after[n])}
        names = {n.removesuffix("/m").removesuffix("/v") for n in moved}
        self.assertEqual(names, {*recipe.class_weights, "step"})

    def test_fingerprint_covers_frozen_weights_and_not_trained_ones(self):
        files = tiny_builds.heads()
        recipe, manifest = tiny_builds.heads_recipe(), files.manifest
        given = tiny_detector.weights(1, len(tiny_builds.CLASSES))

        def fingerprint(**changed):
            frozen = {
                n: np.ascontiguousarray(w).tobytes()
                for n, w in (given | changed).items()
                if n not in recipe.trained
            }
            return manifests.fingerprint(
                manifest.spec, manifest.classes, manifest.variables, frozen
            )

        self.assertEqual(fingerprint(), manifest.fingerprint)
        self.assertEqual(
            fingerprint(**{recipe.trained[0]: np.zeros(1)}), manifest.fingerprint
        )
        self.assertNotEqual(
            fingerprint(**{"conv2d/bias": np.zeros(4)}), manifest.fingerprint
        )


class BatchTest(parameterized.TestCase):
    # What trains, and how many samples each of its loops takes at a time.
    @parameterized.parameters(("heads", {1}), ("all", {1, 2}))
    def test_of_a_whole_batch_nothing_is_held_but_what_was_given(
        self, trainable, together
    ):
        recipe = tiny_detector.recipe(
            classes=tiny_builds.CLASSES, trainable=trainable, batch_size=10
        )
        summed = mock.Mock(wraps=sample_by_sample.summed)
        with (
            tiny_detector.known(),
            mock.patch.object(sample_by_sample, "summed", summed),
        ):
            weights = tiny_detector.weights(1, len(recipe.classes))
            model, manifest = fresh.make_trainable(recipe, weights, {})
        # Of features one at a time, everywhere.
        self.assertEqual({call.args[3] for call in summed.call_args_list}, together)
        keys = {signature.key for signature in manifest.signatures}
        of_features = contract.TRAIN_FEATURES, contract.TRAIN_CLASSES
        for key in (contract.TRAIN, contract.EVALUATE, *keys.intersection(of_features)):
            with self.subTest(key):
                self._check(tflite_file.parse(model), key, recipe.batch_size)

    def _check(self, file, key, batch):
        (place,) = [s.subgraph for s in file.signatures if s.key == key]
        graph = file.subgraphs[place]
        self.assertIn("WHILE", [operator.name for operator in graph.operators])
        made = [o.outputs for o in graph.operators if o.name != "WHILE"]
        shapes = [graph.tensors[i].shape for i in itertools.chain(*made)]
        of_batch = [math.prod(shape) for shape in shapes if shape[:1] == (batch,)]
        self.assertLessEqual(max(of_batch, default=0), batch)  # The samples' shares.


class DamagedManifestTest(absltest.TestCase):
    def test_buffers_that_do_not_hold_the_weights(self):
        files = tiny_builds.heads()
        file = tflite_file.parse(files.model)
        first, *others = files.manifest.variables
        for buffer in (-1, 0, 10**6, others[-1].buffer):
            wrong = dataclasses.replace(first, buffer=buffer)
            manifest = dataclasses.replace(files.manifest, variables=(wrong, *others))
            with self.assertRaisesRegex(weights.WeightsError, first.name):
                weights.of_trainable(file, manifest)

    def test_constants_that_do_not_hold_the_weights(self):
        files = tiny_builds.heads()
        file = tflite_file.parse(files.inference)
        manifest = manifests.of_file(file)
        shapes = topology.variables(tiny_builds.heads_recipe().layers)
        first, *others = manifest.constants
        for wrong in (
            dataclasses.replace(first, buffer=0),
            dataclasses.replace(first, permutation=(0,)),
            dataclasses.replace(first, variable="other"),
        ):
            changed = dataclasses.replace(manifest, constants=(wrong, *others))
            with self.assertRaisesRegex(weights.WeightsError, first.variable):
                weights.of_inference(file, changed, shapes)


if __name__ == "__main__":
    absltest.main()
