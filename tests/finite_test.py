"""Tests of steps that find what is not finite, or are given it."""

from __future__ import annotations

import numpy as np
from absl.testing import absltest, parameterized

from ondevice.device import finite
from tests import session_test

batch = session_test.batch


class NotFiniteTest(session_test.SessionTestCase):
    """Steps that are taken back, or not begun."""

    # Of weights past 1e38 the loss is not finite.
    WILD = 1e30

    def test_the_variables_are_those_of_the_file_again(self):
        opened = self.open()
        before = opened.state()
        opened.train(**batch(), learning_rate=self.WILD)  # Finite, as yet.
        with self.assertRaisesRegex(
            finite.NotFiniteError, "loss inf.*variables that are not: head/bias"
        ) as caught:
            opened.train(**batch(), learning_rate=self.WILD)
        self.assertIn("head/kernel", caught.exception.variables)
        self.assert_states_equal(opened.state(), before)

    @parameterized.parameters("restore", "save", "load_state", "forget_steps")
    def test_the_variables_are_what_they_were_when_last(self, way):
        opened = self.open()
        opened.train(**batch(), learning_rate=0.01)
        opened.save(self.path)
        good = opened.state()
        if way == "restore":
            opened = self.open()
            opened.restore(self.path)
        elif way == "load_state":
            opened = self.open()
            opened.load_state(good)
            good = {name: array.copy() for name, array in good.items()}
            opened.state()["head/bias"][:] = 7  # Nobody's own.
        elif way == "forget_steps":
            opened.forget_steps()
            good = opened.state()
        with self.assertRaises(finite.NotFiniteError):
            for _ in range(3):
                opened.train(**batch(), learning_rate=self.WILD)
        self.assert_states_equal(opened.state(), good)
        first = opened.train(**batch(), learning_rate=1e-4)
        self.assertLess(opened.train(**batch(), learning_rate=1e-4).loss, first.loss)

    def test_a_state_that_is_not_finite_is_never_the_last_good_one(self):
        opened = self.open()
        good = opened.state()
        bad = {n: a.copy() for n, a in good.items()}
        bad["head/bias"][2] = np.inf
        opened.load_state(bad)
        with self.assertRaises(finite.NotFiniteError):
            opened.train(**batch(), learning_rate=0.01)
        self.assert_states_equal(opened.state(), good)

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_inputs_are_refused_before_the_step(self, number):
        opened = self.open()
        opened.train(**batch(), learning_rate=0.01)
        before = opened.state()
        arrays = batch(learning_rate=0.01)
        arrays["image"] = arrays["image"].copy()
        arrays["image"][1, 2, 3, 0] = number
        with self.assertRaisesRegex(
            finite.NotFiniteError, r"'image' with 1, the first at \[1, 2, 3, 0\]"
        ):
            opened.train(**arrays)
        with self.assertRaisesRegex(finite.NotFiniteError, "'learning_rate' with 1"):
            opened.train(**batch(learning_rate=number))
        self.assert_states_equal(opened.state(), before)

    def test_steps_on_features_are_taken_back_too(self):
        opened = self.open()
        before = opened.state()
        given = {k: v for k, v in batch().items() if k != "image"}
        features = np.full((2, 2), np.nan, np.float32)
        with self.assertRaisesRegex(finite.NotFiniteError, "must find finite"):
            opened.train_features(feature_0=features, **given, learning_rate=0.01)
        with self.assertRaisesRegex(finite.NotFiniteError, "inputs of a step"):
            opened.train_features(feature_0=features * 0, **given, learning_rate=np.inf)
        self.assert_states_equal(opened.state(), before)


if __name__ == "__main__":
    absltest.main()
