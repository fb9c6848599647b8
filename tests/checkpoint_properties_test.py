"""Whatever is stored: it comes back to the bit, or is refused as a whole."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from checkpoints import (
    crc32c,
    interchange,
    manifest,
    sorted_table,
    store,
    tensorflow_v1,
    wire,
)

DTYPES = sorted(store.DTYPES.values())
DTYPES_OF_TENSORFLOW = (
    "float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8",
    "uint16", "bool",
)  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FINITE = {"allow_nan": False, "allow_infinity": False}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(**FINITE) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


def values(dtypes=DTYPES) -> st.SearchStrategy[np.ndarray]:
    return st.sampled_from(dtypes).flatmap(
        lambda dtype: arrays.arrays(
            dtype, SHAPES, elements=arrays.from_dtype(np.dtype(dtype), **FINITE)
        )
    )


HEADERS = st.builds(
    store.Header,
    fingerprint=st.text(max_size=8),
    optimizer=st.dictionaries(st.text(), JSON, max_size=3),
    step=st.integers(0, 2**40),
    epoch=st.integers(0, 2**31),
    seed=st.integers(-(2**40), 2**40),
    random_state=JSON,
    classes=st.lists(st.text(max_size=5), max_size=4).map(tuple),
    extra=st.dictionaries(st.text(), JSON, max_size=3),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("properties") / "x.safetensors"


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        # -0.0 is not 0.0 here.
        assert found[name].tobytes() == array.tobytes()


@given(st.dictionaries(NAMES, values(), max_size=5), HEADERS)
def test_a_checkpoint_comes_back_to_the_bit(path, tensors, header):
    assume("__metadata__" not in tensors)
    store.save_file(path, tensors, header)
    found, read = store.load_file(path)
    assert_same(found, tensors)
    assert read == header
    # Nothing else decides about the bytes.
    before = path.read_bytes()
    store.save_file(path, dict(reversed(found.items())), read)
    assert path.read_bytes() == before


@given(
    st.dictionaries(NAMES, values(), min_size=1, max_size=3),
    st.data(),
)
def test_a_checkpoint_with_any_byte_changed_is_refused(path, tensors, data):
    assume("__metadata__" not in tensors)
    store.save_file(path, tensors, store.Header("f", {"name": "sgd"}))
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    # Between the table and the tensors there are blanks, which JSON does not see.
    assume(whole[at] not in b" \t\n\r" or whole[at - 1] not in b"} ")
    path.write_bytes(whole)
    try:
        found, header = store.load_file(path)
    except store.CheckpointError:
        return
    # The table says the same in other bytes.
    assert_same(found, tensors)
    assert header == store.Header("f", {"name": "sgd"})


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=1, exclude_categories=("Cs",)), min_size=1),
        values([np.dtype(name).str for name in DTYPES_OF_TENSORFLOW]),
        min_size=1,
        max_size=5,
    )
)
def test_tensorflows_format_comes_back_to_the_bit(path, tensors):
    tensorflow_v1.save_file(path, tensors)
    assert_same(tensorflow_v1.load_file(path), tensors)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_varints_come_back(number, behind):
    encoded = wire.encode_varint(number)
    assert wire.varint(encoded + behind, 0, "x") == (number, len(encoded))
    assert len(encoded) == max(1, math.ceil(number.bit_length() / 7))


@given(
    st.sampled_from(("int8", "int32", "int64", "uint8", "uint16", "bool")).flatmap(
        lambda dtype: arrays.arrays(dtype, st.integers(0, 40))
    )
)
def test_packed_numbers_come_back(array):
    packed = wire.pack(array)
    found = wire.unpack(memoryview(packed), array.size, array.dtype, "x")
    np.testing.assert_array_equal(found, array)


@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=90), max_size=40))
def test_a_sorted_table_comes_back(records):
    ordered = sorted(records.items())
    read = sorted_table.read(b"".join(sorted_table.write(ordered)))
    assert [(key, bytes(value)) for key, value in read] == ordered


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_a_checksum_goes_on_where_it_was(one, two):
    assert crc32c.crc32c(one + two) == crc32c.crc32c(two, crc32c.crc32c(one))


SHAPE = st.lists(st.integers(0, 5), max_size=3).map(tuple)
TENSOR_SPECS = st.builds(
    manifest.TensorSpec,
    name=st.text(max_size=5),
    shape=SHAPE,
    dtype=st.sampled_from((*manifest.DTYPES, "string")),
)
VARIABLES = st.builds(
    manifest.VariableSpec,
    name=st.text(max_size=5),
    shape=SHAPE,
    dtype=st.sampled_from(manifest.DTYPES),
    role=st.sampled_from(manifest.ROLES),
    buffer=st.integers(-1, 9),
)
CONSTANTS = st.builds(
    lambda variable, buffer, permuted: manifest.ConstantSpec(
        variable, buffer, (1,) * len(permuted), tuple(permuted)
    ),
    st.text(max_size=5),
    st.integers(0, 9),
    st.integers(0, 4).flatmap(lambda rank: st.permutations(range(rank))),
)
NUMBERS = st.floats(**FINITE)


def some(kind, key):
    return st.lists(kind, max_size=3, unique_by=key).map(tuple)


MANIFESTS = st.builds(
    manifest.Manifest,
    kind=st.sampled_from(manifest.KINDS),
    source=st.dictionaries(st.text(), st.text(), max_size=2),
    spec=st.text(max_size=5),
    classes=some(st.text(max_size=5), lambda name: name),
    input_size=st.integers(0, 4096),
    input_range=st.tuples(NUMBERS, NUMBERS),
    anchors=st.dictionaries(st.text(), JSON, max_size=2),
    keypoints=st.integers(0, 9),
    trainable=st.text(max_size=5),
    optimizer=st.dictionaries(st.text(), JSON, max_size=2),
    losses=st.dictionaries(st.text(), NUMBERS, max_size=2),
    batch_size=st.integers(0, 99),
    ops=st.sampled_from(manifest.OPS),
    signatures=some(
        st.builds(
            manifest.SignatureSpec,
            key=st.text(max_size=5),
            inputs=some(TENSOR_SPECS, None),
            outputs=some(TENSOR_SPECS, None),
        ),
        lambda signature: signature.key,
    ),
    variables=some(VARIABLES, lambda variable: variable.name),
    constants=some(CONSTANTS, lambda constant: constant.variable),
    fingerprint=st.text(max_size=5),
    census=st.dictionaries(st.text(), st.integers(), max_size=2),
    versions=st.dictionaries(st.text(), st.text(), max_size=2),
    folds=st.dictionaries(st.text(), JSON, max_size=2),
    heads=st.sampled_from(manifest.HEADS),
    target=st.sampled_from(manifest.TARGETS),
)


@given(MANIFESTS)
def test_a_manifest_comes_back(one):
    text = manifest.to_json(one)
    assert manifest.from_json(text) == one
    assert manifest.from_json(text.encode()) == one
    assert manifest.to_json(manifest.from_json(text)) == text


@given(MANIFESTS, st.data())
def test_a_manifest_with_a_value_of_another_kind_is_refused(one, data):
    fields = json.loads(manifest.to_json(one))
    # These may hold anything, or be left out.
    free = {"anchors", "optimizer", "folds", "heads", "target"}
    key = data.draw(st.sampled_from(sorted(fields.keys() - free)))
    kind = data.draw(st.sampled_from(("left out", "null", "of an object")))
    if kind == "left out":
        del fields[key]
    else:
        fields[key] = None if kind == "null" else {"x": fields[key]}
    # {"x": text} is what `source` holds, too.
    assume(not (key in ("source", "versions") and kind == "of an object"))
    with pytest.raises(manifest.ManifestError):
        manifest.from_json(json.dumps(fields))


@given(JSON)
def test_json_that_is_no_manifest_is_refused_in_our_own_error(value):
    with pytest.raises(manifest.ManifestError):
        manifest.from_json(json.dumps(value))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_checkpoint_are_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(store.CheckpointError):
        interchange.load_file(path)
