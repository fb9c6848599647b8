"""What version 1 of the formats holds, and how its file behaves: later ones must, too.

Written down once. Where one of these fails, what users keep has become unreadable, or
means something else: a new version of the format is due, that reads the old one too.
"""

from __future__ import annotations

import pathlib
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from absl.testing import absltest, parameterized

from checkpoints import manifest as manifests
from checkpoints import store
from ondevice.device import runtimes, session
from tests import tiny_builds

MANIFEST = (
    '{"anchors":{"strides":[8]},"batch_size":2,"census":{"ADD":1},"classes":["a","b"],'
    '"constants":[{"buffer":1,"permutation":[1,0],"shape":[3,2],"variable":"k"}],'
    '"fingerprint":"ab","input_range":[0.0,1.0],"input_size":32,"keypoints":7,'
    '"kind":"trainable","losses":{"box":0.5},"ops":"builtin","optimizer":{"name":'
    '"sgd"},"signatures":[{"inputs":[{"dtype":"float32","name":"image","shape":[1,2]}],'
    '"key":"infer","outputs":[]}],"source":{"name":"vendor"},"spec":"tiny",'
    '"trainable":"all","variables":[{"buffer":0,"dtype":"float32","name":"k","role":'
    '"weight","shape":[2,3]}],"version":1,"versions":{"numpy":"1"}}'
)
TABLE = (
    '{"__metadata__":{"checksum":"4d14620f","crc32":"{\\"k\\":\\"260ec668\\",'
    '\\"step\\":\\"33f170f2\\"}","format":"ondevice.checkpoint",'
    '"header":"{\\"classes\\":[\\"a\\"],'
    '\\"epoch\\":2,\\"extra\\":{},\\"fingerprint\\":\\"ab\\",\\"format_version\\":1,'
    '\\"optimizer\\":{\\"name\\":\\"sgd\\"},\\"random_state\\":null,\\"seed\\":5,'
    '\\"step\\":3}"},"k":{"data_offsets":[0,8],"dtype":"F32","shape":[1,2]},"step":'
    '{"data_offsets":[8,12],"dtype":"I32","shape":[]}}'
)

# Of two classes, every weight, Adam with clipping: three steps on one batch at a rate
# of 1e-4, then `infer`. An array stands as its product with a direction drawn for its
# name; of one role they are added. After the first step `m` is a tenth of the gradient.
GOLDEN = {
    "loss 0": 47.250382,
    "loss 1": 46.784779,
    "loss 2": 46.381271,
    "norm 0": 57.520708,
    "norm 1": 55.369792,
    "norm 2": 53.627774,
    "gradient": -0.19712080,
    "weight": -26.172493,
    "slot": -0.54423628,
    "step": -3.1606724,
    "regressors": 35.459245,
    "classificators": 356.219004,
}
TOLERANCE = 1e-5


def figure(name: str, array: np.ndarray) -> float:
    """The product of an array with the direction that belongs to its name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return float(random.standard_normal(array.size) @ array.reshape(-1))


class FormatTest(absltest.TestCase):
    def test_manifest(self):
        found = manifests.from_json(MANIFEST)
        (variable,), (constant,) = found.variables, found.constants
        self.assertEqual((variable.name, variable.buffer), ("k", 0))
        self.assertEqual(variable.shape, (2, 3))
        self.assertEqual((constant.permutation, constant.shape), ((1, 0), (3, 2)))
        self.assertEqual(found.signature("infer").inputs[0].shape, (1, 2))
        self.assertEqual(found.classes, ("a", "b"))
        self.assertEqual(found.heads, "score_and_classes")
        self.assertEqual(manifests.to_json(found), MANIFEST)

    def test_checkpoint(self):
        table = TABLE.encode() + b" " * (-len(TABLE) % 8)
        path = pathlib.Path(self.create_tempdir().full_path) / "x.safetensors"
        path.write_bytes(
            struct.pack("<Q", len(table)) + table + struct.pack("<ffi", 0.5, -1, 3)
        )
        tensors, header = store.load_file(path)
        np.testing.assert_array_equal(tensors["k"], np.float32([[0.5, -1]]))
        self.assertEqual((int(tensors["step"]), header.step, header.epoch), (3, 3, 2))
        self.assertEqual((header.fingerprint, header.classes), ("ab", ("a",)))


def behaviour(model: bytes, runtime: str) -> dict[str, float]:
    """What a file makes of three steps, and then of an image; as `GOLDEN`."""
    with session.Session(model, runtime, 1) as opened:
        roles = {v.name: v.role for v in opened.manifest.variables}
        batch = tiny_builds.batch(opened.manifest)
        found = dict.fromkeys(GOLDEN, 0.0)
        for step in range(3):
            losses = opened.train(**batch, learning_rate=1e-4)
            found[f"loss {step}"] = losses.loss
            found[f"norm {step}"] = losses.gradient_norm or 0.0
            if not step:
                slots = {n: a for n, a in opened.state().items() if n.endswith("/m")}
                found["gradient"] = sum(figure(n, a) for n, a in slots.items())
        for name, array in opened.state().items():
            found[roles[name]] += figure(name, array)
        outputs = opened.infer(batch["image"][:1])
    for name, array in zip(("regressors", "classificators"), outputs):
        found[name] = figure(name, array)
    return found


def furthest(found: Mapping[str, float]) -> float:
    """The largest distance from `GOLDEN`, as a share of what it has there."""
    return max(abs(found[n] - wanted) / abs(wanted) for n, wanted in GOLDEN.items())


class BehaviourTest(parameterized.TestCase):
    @parameterized.parameters(*runtimes.installed())
    def test_losses_gradients_and_outputs(self, runtime):
        found = behaviour(tiny_builds.new_classes().model, runtime)
        self.assertEqual(found.keys(), GOLDEN.keys())
        self.assertLess(furthest(found), TOLERANCE, found)


if __name__ == "__main__":
    absltest.main()
