"""A vendor's file read without tensorflow: its detector, weights and their names."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest

from checkpoints import constants, tflite_file
from ondevice.rebuild import naming, porting, recognition, topology
from tests import shared_data

# File -> detector, variables, numbers in them.
FILES = {
    "palm_detection_full": ("palm_full", 129, 1_132_056),
    "palm_detection_lite": ("palm_lite", 109, 959_608),
    "palm_detection_128": ("palm_128", 109, 959_608),
    "palm_detection_builtin_256_integer_quant": ("palm_256", 141, 1_757_342),
    "face_detection_front": ("face_short_range", 58, 100_412),
    "face_detection_back": ("face_back", 106, 134_704),
    "face_detection_full_range": ("face_full_range", 138, 510_489),
    "face_detection_full_range_sparse": ("face_full_range_sparse", 182, 508_308),
}


@functools.cache
def ported(name):
    file = tflite_file.read(shared_data.vendor(name))
    found = recognition.recognise(file)
    return file, found, porting.port(file, found)


def digests(arrays):
    """Of the numbers of each array, whatever their order and the sign of a zero.

    Arrays of zeros are left out: the file has more of them.
    """
    return sorted(
        hashlib.sha256(np.sort(array + 0.0, axis=None).tobytes()).hexdigest()
        for array in arrays
        if array.any()
    )


def float_constants(file):
    """Every constant of subgraph 0 that an operator reads as numbers."""
    found = {}
    for row in naming.name_all(file)[1]:
        found[row.tensor] = constants.decoded(file, row.subgraph, row.tensor)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_number_of_the_file_is_in_a_variable(name):
    file, found, weights = ported(name)
    spec, variables, numbers = FILES[name]
    assert found.spec.name == spec
    assert len(weights) == variables
    assert sum(value.size for value in weights.values()) == numbers
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert digests(weights.values()) == digests(float_constants(file).values())


@pytest.mark.parametrize("name", FILES)
def test_every_constant_has_a_name_of_its_own(name):
    file, _, weights = ported(name)
    detector, rows = naming.name_all(file)
    assert detector == FILES[name][0]
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    assert set(weights) <= set(names)


@pytest.mark.parametrize("classes", [2, 7])
def test_new_class_heads_begin_at_zero_behind_random_kernels(classes):
    _, found, weights = ported("palm_detection_lite")
    layers = topology.draw(found.spec, classes)
    made = porting.with_classes(weights, layers)
    shapes = topology.variables(layers)
    assert {name: value.shape for name, value in made.items()} == shapes
    new = made.keys() - weights.keys()
    assert all(made[name] is weights[name] for name in made.keys() - new)
    last = {layer.inputs[0] for layer in layers if layer.kind == "reshape"}
    drawn = {n for n in new if n.endswith("/kernel") and n.split("/")[0] not in last}
    assert drawn and not any(made[name].any() for name in new - drawn)
    for name in drawn:
        window, ends = np.prod(shapes[name][:2]), sum(shapes[name][2:])
        limit = np.sqrt(6 / (window * ends))  # Glorot and Bengio, 2010.
        spread = made[name].max() - made[name].min()
        assert 1.8 * limit < spread <= 2 * limit


def test_without_new_heads_the_weights_are_the_vendors():
    _, found, weights = ported("palm_detection_lite")
    assert porting.with_classes(weights, found.layers) == weights
