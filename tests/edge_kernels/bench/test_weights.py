"""The weights that are measured, against what the layout says they are."""

import numpy as np
import pytest

from edge_kernels.bench.weights import Weights, relative_rms
from edge_kernels.layout import unpack


def dequantized(blob):
    """One weight at a time."""
    packed = unpack(blob)
    rows, inputs = packed.codes.shape
    zero = {"ternary": 1}.get(packed.values, 2 ** (packed.bits - 1))
    w = np.empty((rows, inputs))
    for i in range(rows):
        for j in range(inputs):
            q = float(packed.codes[i, j])
            value = 2 * q - 1 if packed.bits == 1 else q - zero
            w[i, j] = value * packed.scales[i, j // packed.group if packed.group else 0]
    return w


@pytest.mark.parametrize("bits", [1, 2, 3, 4, "ternary"])
@pytest.mark.parametrize("group", [64, 0])
def test_the_float_product_is_that_of_the_packed_weights(bits, group):
    random = np.random.default_rng(1)
    weights = Weights.random(20, 130, bits, group, random)
    x = random.standard_normal((3, 130), dtype=np.float32)
    right = x.astype(np.float64) @ dequantized(weights.blob).T
    assert weights.float_product(x) == pytest.approx(right, rel=1e-4, abs=1e-5)
    assert weights.streamed == weights.blob.size - 64


def test_relative_rms():
    exact = np.array([[3.0, 4.0]], np.float32)
    assert relative_rms(exact, exact) == 0
    assert relative_rms(exact * 1.5, exact) == pytest.approx(0.5)
