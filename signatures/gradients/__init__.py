"""Gradients of convolutional networks in builtin TFLite operators.

`graph.value_and_gradients` differentiates a function of tensors; the rules live in one
module for each family of operators, and `rules` is the table of them.
"""
