"""Tests of the network that is drawn for ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from ondevice.measuring.peers import onnxruntime


@pytest.mark.parametrize("size", [1, 6, 12])
def test_upsampling_is_tensorflows(size):
    """Half-pixel centres, as RESIZE_BILINEAR in the vendor's files."""
    image = np.random.default_rng(0).random((1, size, size, 1), np.float32)
    matrix = onnxruntime._bilinear(size)
    expected = tf.image.resize(image, (2 * size, 2 * size), "bilinear")[0, :, :, 0]
    found = matrix @ image[0, :, :, 0] @ matrix.T
    np.testing.assert_allclose(found, expected, atol=1e-6)
