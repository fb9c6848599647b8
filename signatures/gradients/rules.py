"""The table of all rules."""

from __future__ import annotations

from signatures.gradients import (
    activations,
    apart,
    arrangement,
    convolution,
    depthwise,
    elementwise,
    pooling,
    products,
    reductions,
    resize,
    rule,
    siblings,
)

RULES: dict[str, rule.Rule] = {
    **activations.RULES,
    **apart.RULES,
    **arrangement.RULES,
    **convolution.RULES,
    **depthwise.RULES,
    **elementwise.RULES,
    **pooling.RULES,
    **products.RULES,
    **reductions.RULES,
    **resize.RULES,
    **siblings.RULES,
}

# Operators whose result does not change, or not smoothly, with their inputs: the
# gradient ends there, as in TensorFlow.
CONSTANT = frozenset(
    (
        "Ceil",
        "Equal",
        "Floor",
        "FloorDiv",
        "Greater",
        "GreaterEqual",
        "Less",
        "LessEqual",
        "NotEqual",
        "OnesLike",
        "Rint",
        "Round",
        "Shape",
        "Sign",
        "StopGradient",
        "ZerosLike",
    )
)

# Operators that have no builtin one, or a wrong one, or not for all that they can do:
# they take the form of their rule where no gradient is asked for, too.
WRITTEN_OUT = frozenset(
    (
        *apart.RULES,
        "Conv2DBackpropInput",
        "Einsum",
        "Erf",
        "Erfc",
        "Expm1",
        "ReverseV2",
        "Selu",
        "Softplus",
        "Softsign",
    )
)
