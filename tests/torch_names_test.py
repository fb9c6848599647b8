"""Tests of ondevice/rebuild/torch_names.py: the names that others have published."""

import math

import pytest

from ondevice.rebuild import specs, topology, torch_names


def _table(name):
    return torch_names.table(name, topology.draw(specs.PRESETS[name]))


# Tensors and numbers in them: of the front and the back model those of blazeface.pth
# and blazefaceback.pth, of the 256 palm those of the notebook that converted it.
@pytest.mark.parametrize(
    "name, tensors, numbers",
    [
        ("face_short_range", 74, 101_390),
        ("face_back", 138, 136_240),
        ("palm_256", 182, 1_763_358),
        ("palm_full", 129, 1_132_056),
        ("face_full_range", 138, 510_489),
    ],
)
def test_a_table_holds_every_variable_once(name, tensors, numbers):
    rows = _table(name)
    assert len({row.name for row in rows}) == len(rows) == tensors
    assert sum(math.prod(row.shape) for row in rows) == numbers
    held = [row.variable for row in rows if row.variable is not None]
    layers = topology.draw(specs.PRESETS[name])
    assert sorted(held) == sorted(topology.variables(layers))


# A name of each kind of module, with the shape that it has where it was published.
@pytest.mark.parametrize(
    "name, published",
    [
        (
            "face_short_range",
            {
                "backbone1.0.weight": (24, 3, 5, 5),
                "backbone1.2.convs.0.weight": (24, 1, 3, 3),
                "backbone1.4.convs.1.weight": (32, 28, 1, 1),
                "backbone1.12.convs.1.bias": (88,),
                "backbone2.0.convs.0.bias": (88,),
                "backbone2.4.convs.1.weight": (96, 96, 1, 1),
                "classifier_8.weight": (2, 88, 1, 1),
                "classifier_16.weight": (6, 96, 1, 1),
                "regressor_8.weight": (32, 88, 1, 1),
                "regressor_16.bias": (96,),
            },
        ),
        (
            "face_back",
            {
                "backbone.0.weight": (24, 3, 5, 5),
                "backbone.17.convs.1.weight": (48, 24, 1, 1),
                "backbone.32.convs.1.weight": (96, 96, 1, 1),
                "final.convs.0.weight": (96, 1, 3, 3),
                "classifier_8.weight": (2, 96, 1, 1),
                "regressor_16.weight": (96, 96, 1, 1),
            },
        ),
        (
            "palm_256",
            {
                "backbone1.1.weight": (32, 3, 3, 3),
                "backbone1.3.f.0.convs.0.weight": (32, 1, 3, 3),
                "backbone1.4.convs.1.weight": (64, 32, 1, 1),
                "backbone2.0.convs.1.weight": (256, 128, 1, 1),
                "backbone3.1.f.6.convs.1.bias": (256,),
                "upscale8to16.0.weight": (256, 256, 2, 2),
                "upscale16to32.0.weight": (256, 128, 2, 2),
                "scaled16add.convs.0.weight": (256, 1, 3, 3),
                "scaled32add.convs.1.bias": (128,),
                "class_32.weight": (2, 128, 1, 1),
                "class_16.weight": (2, 256, 1, 1),
                "class_8.weight": (6, 256, 1, 1),
                "reg_32.weight": (36, 128, 1, 1),
                "reg_8.bias": (108,),
            },
        ),
        (
            "palm_full",
            {
                "conv2d.weight": (32, 3, 5, 5),
                "depthwise_conv2d_3.weight": (32, 1, 5, 5),
                "p_re_lu.weight": (32,),
                "classifier_16.bias": (6,),
            },
        ),
    ],
)
def test_names_are_the_published_ones(name, published):
    shapes = {row.name: row.shape for row in _table(name)}
    assert {n: shapes.get(n) for n in published} == published
