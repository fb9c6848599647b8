"""The trainable graph: contract, gradients, losses, optimizers, signatures."""
