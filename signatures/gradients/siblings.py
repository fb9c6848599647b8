"""Convolutions of one image by one window, as a single one.

A kernel works on so many columns of a matrix at a time that 36 take it as long as 64:
beside one head's there is room for those of a second. Backwards they then share one
product for the gradients of the filters, and one for that of the image.
"""

from __future__ import annotations

import collections
import dataclasses

import tensorflow as tf

from signatures.gradients import convolution, rule, trace

_TYPE = "SiblingsConv2D"


def joined(program: trace.Program, trained: int) -> trace.Program:
    """Makes one SiblingsConv2D(image, filters...) of several Conv2D.

    Of those whose filters are weights, and that leave fewer columns empty together: the
    others would gain nothing for the copies that it takes to part their results.

    Args:
      program: A traced function.
      trained: How many of its weights, the first ones, are differentiated by; these are
        joined to no others, whose gradients would be computed with theirs.
    """
    place = {value: i for i, value in enumerate(program.weights)}
    families: dict[tuple, list[trace.Node]] = collections.defaultdict(list)
    for node in program.nodes:
        if node.type == "Conv2D" and node.inputs[1] in place and not _grouped(node):
            trains = place[node.inputs[1]] < trained
            families[trains, *_window(node)].append(node)
    found = {
        family[0]: trace.Node(
            _TYPE,
            family[0].name,
            (family[0].inputs[0], *(node.inputs[1] for node in family)),
            tuple(node.outputs[0] for node in family),
            family[0].operation,
        )
        for family in families.values()
        if _fewer([node.inputs[1].shape[3] for node in family])
    }
    gone = {output for node in found.values() for output in node.outputs}
    nodes = [
        found.get(node, node)
        for node in program.nodes
        if node in found or gone.isdisjoint(node.outputs)
    ]
    return dataclasses.replace(program, nodes=nodes)


def _grouped(node: trace.Node) -> bool:
    image, filters = node.inputs
    return image.shape[3] != filters.shape[2]


def _window(node: trace.Node) -> tuple:
    """What convolutions must share."""
    assert node.operation is not None
    image, filters = node.inputs
    names = ("strides", "padding", "explicit_paddings", "dilations", "data_format")
    settings = [str(node.operation.get_attr(name)) for name in names]
    return (image, tuple(filters.shape[:3]), *settings)


def _fewer(widths: list[int]) -> bool:
    filled = convolution.filled
    return filled(sum(widths)) < sum(filled(width) for width in widths)


def siblings(operation: rule.Operation) -> tuple[list[tf.Tensor], rule.Backward]:
    """SiblingsConv2D(image [B,H,W,I], filters [h,w,I,O]...) -> [B,H',W',O]..."""
    image, *filters = operation.inputs
    widths = [rule.static_shape(each)[3] for each in filters]
    inputs = (image, tf.concat(filters, 3))
    whole = dataclasses.replace(
        operation,
        inputs=inputs,
        wanted=(operation.wanted[0], True),
        emit=lambda: convolution.emit_with(operation, inputs),
    )
    (result,), backward_of_whole = convolution.conv2d(whole)
    results = _split(result, widths)

    def backward(gradients):
        known = [
            tf.zeros_like(result) if gradient is None else gradient
            for result, gradient in zip(results, gradients)
        ]
        to_image, to_filters = backward_of_whole([tf.concat(known, 3)])
        return to_image, *_split(to_filters, widths)

    return results, backward


def _split(tensor: tf.Tensor, widths: list[int]) -> list[tf.Tensor]:
    """Parts of the last of four axes, by slices: delegates take no uneven SPLIT."""
    outer = rule.static_shape(tensor)[:3]
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return [
        tf.slice(tensor, [0, 0, 0, start], [*outer, width])
        for start, width in zip(starts, widths)
    ]


RULES: dict[str, rule.Rule] = {_TYPE: siblings}
