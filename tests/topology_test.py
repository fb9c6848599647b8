"""Tests of ondevice/rebuild/specs.py, topology.py and trunks.py."""

import collections
import dataclasses
import math

import pytest

from checkpoints import manifest as manifests
from ondevice.rebuild import specs, topology, trunks


@pytest.mark.parametrize(
    "name, parameters, slopes, anchors, depthwise, convolutions, activations",
    [
        ("palm_128", 959_608, 4_096, 896, 23, 30, 26),
        ("palm_lite", 959_608, 4_096, 2016, 23, 30, 26),
        ("palm_full", 1_132_056, 4_832, 2016, 28, 35, 31),
        # Two of its 50 are transpose convolutions.
        ("palm_256", 1_757_342, 0, 2944, 41, 50, 44),
        ("face_short_range", 100_412, 0, 896, 16, 21, 17),
        ("face_back", 134_704, 0, 896, 32, 37, 33),
        ("face_full_range", 510_489, 0, 2304, 40, 49, 47),
        ("face_full_range_sparse", 508_308, 0, 2304, 42, 49, 47),
    ],
)
def test_counts_are_those_of_the_vendors_files(
    name, parameters, slopes, anchors, depthwise, convolutions, activations
):
    layers = topology.draw(specs.PRESETS[name])
    shapes = topology.variables(layers)
    kinds = collections.Counter(layer.kind for layer in layers)
    assert sum(map(math.prod, shapes.values())) == parameters
    alphas = [math.prod(s) for n, s in shapes.items() if n.endswith("alpha")]
    assert sum(alphas) == slopes
    assert specs.PRESETS[name].anchors == anchors
    assert kinds["depthwise"] == depthwise
    assert kinds["conv"] + kinds["transpose_conv"] == convolutions
    assert kinds["prelu"] + kinds["relu"] == activations


def test_classes_add_a_branch_and_change_nothing_else():
    spec = specs.PRESETS["palm_lite"]
    one = topology.variables(topology.draw(spec))
    layers = topology.draw(spec, 7)
    seven = topology.variables(layers)
    new = {name: shape for name, shape in seven.items() if name not in one}
    assert {name: seven[name] for name in one} == one
    shapes = {
        "class_fine/kernel": (1, 1, 64, 64),
        "class_coarse/kernel": (1, 1, 64, 64),
        "class_grid/kernel": (1, 1, 256, 64),
        "class_8/kernel": (1, 1, 64, 14),
        "class_16/kernel": (1, 1, 64, 42),
    }
    assert {name: new[name] for name in shapes} == shapes
    # Twice a strided depthwise, a convolution and a PReLU; the grid's convolution; four
    # blocks of four weights; two heads.
    assert len(new) == 2 * (1 + 2 + 1) + 2 + 4 * 4 + 2 * 2
    group = {layer.name: layer.group for layer in layers}
    assert {group[name.split("/")[0]] for name in new} == {topology.CLASS_HEAD}


def test_plain_heads_are_the_vendors_of_as_many_outputs_for_each_anchor():
    spec = specs.PRESETS["palm_full"]
    vendors = topology.variables(topology.draw(spec))
    layers = topology.draw(spec, 7, manifests.PLAIN)
    shapes = topology.variables(layers)
    changed = {name: shapes[name] for name in shapes if shapes[name] != vendors[name]}
    assert changed == {
        "classifier_8/kernel": (1, 1, 128, 14),
        "classifier_8/bias": (14,),
        "classifier_16/kernel": (1, 1, 256, 42),
        "classifier_16/bias": (42,),
    }
    assert layers[-1].name == topology.SCORES and layers[-1].shape == (2016, 7)
    assert topology.class_weights(layers) == ()
    assert topology.trained_variables(layers, "classifier") == tuple(changed)
    assert topology.draw(spec, 1, manifests.PLAIN) == topology.draw(spec)


def test_the_class_branch_sees_the_encoder_before_it_is_as_coarse_as_the_heads():
    layers = topology.draw(specs.PRESETS["palm_full"], 7)
    by_name = {layer.name: layer for layer in layers}
    (strided,) = by_name["class_fine"].inputs
    (finest,) = by_name[strided].inputs
    assert by_name[finest].shape == (48, 48, 64)
    # The last of its stage: what the strided block after it reads.
    strides = {x.stride for x in layers if finest in x.inputs and x.kind == "depthwise"}
    assert strides == {2}
    (grid,) = by_name["class_grid"].inputs
    assert grid == by_name["regressor_16"].inputs[0]


@pytest.mark.parametrize(
    "choice, count",
    [("heads", 38), ("classifier", 34), ("blocks:1", 42), ("blocks:2", 46)],
)
def test_trained_variables_are_counted_from_the_end(choice, count):
    layers = topology.draw(specs.PRESETS["palm_lite"], 7)
    names = topology.trained_variables(layers, choice)
    assert len(names) == count
    assert {"classifier_8/kernel", "class_coarse/bias"} <= set(names)


def test_bias_trains_biases_slopes_and_new_class_heads():
    layers = topology.draw(specs.PRESETS["palm_lite"], 7)
    names = topology.trained_variables(layers, "bias")
    kernels = [name for name in names if name.endswith("kernel")]
    group = {layer.name: layer.group for layer in layers}
    groups = {group[name.split("/")[0]] for name in kernels}
    assert groups == {topology.CLASS_HEAD} and "class_8/kernel" in kernels
    assert "p_re_lu/alpha" in names and "regressor_8/bias" in names


def test_all_trains_everything():
    layers = topology.draw(specs.PRESETS["palm_lite"])
    chosen = topology.trained_variables(layers, "all")
    assert chosen == tuple(topology.variables(layers))


@pytest.mark.parametrize("choice", ["blocks:0", "blocks:99", "blocks:x", "", "head"])
def test_unknown_choices_are_refused(choice):
    layers = topology.draw(specs.PRESETS["palm_lite"])
    with pytest.raises(ValueError, match=f"Received: '{choice}'"):
        topology.trained_variables(layers, choice)


def test_split_cuts_at_the_features_and_loses_no_weight():
    spec = specs.PRESETS["palm_lite"]
    layers = topology.draw(spec, 7)
    features = trunks.trunk_features(
        layers, topology.trained_variables(layers, "heads")
    )
    trunk, heads = trunks.split(layers, features)
    assert tuple(x.name for x in heads if x.kind == "input") == features
    assert all(x.group == topology.GLUE or "head" in x.group for x in heads)
    both = {**topology.variables(trunk), **topology.variables(heads)}
    assert both == topology.variables(layers)


@pytest.mark.parametrize(
    ("choice", "shapes"),
    [
        ("heads", [(48, 48, 64), (12, 12, 256), (24, 24, 128)]),
        ("classifier", [(48, 48, 64), (12, 12, 256), (24, 24, 128)]),
        ("blocks:2", [(48, 48, 64), (12, 12, 256), (24, 24, 128)]),
        ("blocks:5", [(48, 48, 64), (24, 24, 128), (12, 12, 256), (6, 6, 256)]),
        ("blocks:18", [(48, 48, 64), (24, 24, 128)]),
        ("bias", []),
        ("all", []),
    ],
)
def test_the_trunk_ends_where_training_begins(choice, shapes):
    layers = topology.draw(specs.PRESETS["palm_full"], 7)
    trained = topology.trained_variables(layers, choice)
    features = trunks.trunk_features(layers, trained)
    by_name = {layer.name: layer for layer in layers}
    assert [by_name[name].shape for name in features] == shapes
    if features:
        trunk, rest = trunks.split(layers, features)
        assert set(trained) <= set(topology.variables(rest))
        assert not set(trained) & set(topology.variables(trunk))


def test_new_class_heads_learn_faster_than_what_was_trained():
    layers = topology.draw(specs.PRESETS["palm_full"], 7)
    trained = topology.trained_variables(layers, "all")
    rates = topology.rates(layers, trained)
    vendors = topology.variables(topology.draw(specs.PRESETS["palm_full"]))
    new = tuple(name for name in trained if name not in vendors)
    assert topology.class_weights(layers) == new
    assert rates == dict.fromkeys(new, topology.CLASS_RATE)
    assert topology.CLASS_RATE > 1


def test_a_head_without_a_grid_is_refused():
    spec = specs.PRESETS["palm_lite"]
    with pytest.raises(ValueError, match=r"Received: strides \[7, 16\]"):
        dataclasses.replace(spec, heads=(specs.Head(7, 2), spec.heads[1]))
    with pytest.raises(ValueError, match=r"Received: strides \[16, 8\]"):
        dataclasses.replace(spec, heads=spec.heads[::-1])


@pytest.mark.parametrize("stride", [3, 2, 16])
def test_a_class_branch_that_begins_or_ends_nowhere_is_refused(stride):
    spec = specs.PRESETS["palm_lite"]
    with pytest.raises(ValueError, match=f"Received: class_stride {stride}"):
        dataclasses.replace(spec, class_stride=stride)


def test_a_kind_that_nobody_can_draw_is_refused():
    spec = specs.PRESETS["palm_lite"]
    with pytest.raises(ValueError, match="Received: 'gelu'"):
        dataclasses.replace(spec, activation="gelu")
    with pytest.raises(ValueError, match="Received: 'nearest'"):
        specs.Decoder("nearest", 8, ())


def test_an_input_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 32. Received: 200"):
        dataclasses.replace(specs.PRESETS["palm_lite"], input_size=200)


def test_zeros_around_a_grid_are_no_features_of_the_trunk():
    layers = topology.draw(specs.PRESETS["face_full_range_sparse"])
    kind = {layer.name: layer.kind for layer in layers}
    for choice in ("all", "heads", *(f"blocks:{count}" for count in range(1, 20))):
        trained = topology.trained_variables(layers, choice)
        features = trunks.trunk_features(layers, trained)
        assert "spatial_pad" not in {kind[name] for name in features}, choice
        assert features or choice == "all"
        if features:
            trunk, rest = trunks.split(layers, features)
            assert not set(topology.variables(trunk)).intersection(trained)
            assert {x.name for x in rest if x.kind == "input"} == set(features)
