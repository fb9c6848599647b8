"""Tests that a file's signatures are proven to be what its manifest says."""

from __future__ import annotations

import dataclasses
import functools

from absl.testing import absltest

from checkpoints import manifest, tflite_file
from ondevice.device import checks
from tests import tiny
from tests.soak import limits


class DisagreementsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.file = tflite_file.parse(tiny.trainable())
        self.manifest = manifest.of_file(self.file)

    def found(self, **changes) -> list[str]:
        described = dataclasses.replace(self.manifest, **changes)
        return checks.disagreements(self.file, described)

    def test_none(self):
        self.assertEqual(self.found(), [])

    def test_each_is_named(self):
        save = self.manifest.signature("save")
        first, *others = save.outputs
        other = dataclasses.replace(first, shape=(7,))
        changed = dataclasses.replace(save, inputs=(), outputs=(other, *others))
        strange = manifest.SignatureSpec("strange", (), ())
        faults = self.found(signatures=(changed, strange), variables=())
        for words in (
            "input 'format_version' of 'save' in one of the two",
            f"output {first.name!r} of 'save': ",
            "(7,) in the manifest",
            "variable 'step' in one of manifest and 'save'",
            "no signature 'strange'",
        ):
            self.assertIn(words, "; ".join(faults))

    def test_long_names_and_many_faults_take_little(self):
        key = "k" * 100_000
        (signature, *_) = self.file.signatures
        file = dataclasses.replace(
            self.file, signatures=(dataclasses.replace(signature, key=key),)
        )
        specs = tuple(manifest.TensorSpec(str(i), ()) for i in range(2_000))
        long = manifest.SignatureSpec(key, specs, ())
        described = dataclasses.replace(self.manifest, signatures=(long,))
        read = functools.partial(checks.disagreements, file, described)
        self.assertTrue(limits.held(read, 2**20))
        self.assertLen(read(), 1_000)


if __name__ == "__main__":
    absltest.main()
