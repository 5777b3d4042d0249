import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_kernels import oracle
from edge_kernels.layout import Shape, pack, unpack


@st.composite
def blobs(draw, inputs=None):
    values = draw(st.sampled_from(["symmetric", "ternary", "zero_points"]))
    bits = 2 if values == "ternary" else draw(st.integers(1, 4))
    group = draw(st.sampled_from([0, 32, 64, 128]))
    shape = Shape(
        draw(st.integers(1, 80)), inputs or draw(st.integers(1, 300)), bits, group, values
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    each = (shape.rows, shape.groups)
    zeros = rng.uniform(0, shape.levels, each).astype(np.float32)
    return pack(
        rng.integers(0, shape.levels, (shape.rows, shape.inputs), dtype=np.uint8),
        rng.standard_normal(each).astype(np.float32),
        bits=bits,
        group=group,
        values=values,
        zeros=zeros if values == "zero_points" else None,
    )


def weight(packed, row, column):
    """One weight, by the words of layout.h."""
    at = column // packed.group if packed.group else 0
    code, scale = int(packed.codes[row, column]), float(packed.scales[row, at])
    if packed.values == "zero_points":
        return (code - float(packed.zeros[row, at])) * scale
    if packed.values == "ternary":
        return (code - 1) * scale
    return (2 * code - 1 if packed.bits == 1 else code - 2 ** (packed.bits - 1)) * scale


@settings(max_examples=40, deadline=None)
@given(blobs(), st.data())
def test_a_weight_is_what_the_layout_says(blob, data):
    packed = unpack(blob)
    weights = oracle.dequantize(blob)
    row = data.draw(st.integers(0, packed.codes.shape[0] - 1))
    column = data.draw(st.integers(0, packed.codes.shape[1] - 1))
    assert weights[row, column] == weight(packed, row, column)


@settings(max_examples=60, deadline=None)
@given(blobs(), st.integers(0, 5), st.integers(0, 2**32))
def test_the_product_is_that_of_the_rounded_activations(blob, m, seed):
    weights = oracle.dequantize(blob)
    x = np.random.default_rng(seed).standard_normal((m, weights.shape[1])).astype(np.float32)
    q, scale = oracle.quantize_activations(x)
    rounded = q * np.repeat(scale.astype(float), 64, axis=1)[:, : x.shape[1]]
    bound = np.abs(rounded) @ np.abs(weights).T * 1e-12 + 1e-12
    assert np.all(np.abs(oracle.product(x, blob) - rounded @ weights.T) <= bound)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(-99, 100), st.integers(0, 2**32))
def test_activations_round_to_half_a_step(k, exponent, seed):
    x = np.random.default_rng(seed).standard_normal((2, 3, k)).astype(np.float32)
    x *= np.float32(2.0**exponent)
    q, scale = oracle.quantize_activations(x)
    assert q.shape == x.shape
    assert scale.shape == (2, 3, -(-k // 64))
    wide = np.repeat(scale, 64, axis=2)[..., :k]
    kept = np.repeat(np.maximum.reduceat(np.abs(x), range(0, k, 64), axis=2), 64, 2)[..., :k]
    error = np.abs(q * wide.astype(float) - x)
    assert np.all((error <= 0.5001 * wide) | (kept < 2.0**-100))
    assert np.abs(q.astype(int)).max() == 127 or exponent < -90


def test_tiny_and_empty_activations_become_zero():
    q, scale = oracle.quantize_activations(np.full((1, 70), 2.0**-101))
    assert not q.any()
    assert not scale.any()
    assert oracle.quantize_activations(np.zeros((0, 70)))[0].shape == (0, 70)


def test_activations_must_be_finite_to_be_quantized():
    with pytest.raises(ValueError, match="NaN or infinity"):
        oracle.quantize_activations([1.0, np.inf])


def test_a_row_that_is_not_finite_is_multiplied_in_float():
    codes = np.array([[0, 3], [2, 1]], np.uint8)
    blob = pack(codes, np.ones((2, 1), np.float32), bits=2, group=0)
    x = np.array([[np.inf, 1.0], [np.nan, 0.0], [1.0, 1.0]])
    y = oracle.product(x, blob)
    np.testing.assert_array_equal(y[:2], [[-np.inf, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(y[2], [-1.0, -1.0], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_convolution_is_a_product_of_its_fields(data):
    kernel, channels = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 20))
    blob = data.draw(blobs(kernel * channels))
    stride, dilation = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    pads = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    length = dilation * (kernel - 1) + 1 + data.draw(st.integers(0, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = rng.standard_normal((2, channels, length)).astype(np.float32)
    y = oracle.conv1d(x, blob, kernel=kernel, stride=stride, dilation=dilation, pads=pads)

    weights = oracle.dequantize(blob).reshape(-1, kernel, channels)
    padded = np.pad(x, [(0, 0), (0, 0), pads])
    for sample in range(2):
        top = np.abs(x[sample]).max()
        q = np.rint(padded[sample] * (np.float32(127) / top))
        rounded = q.astype(float) * float(top / np.float32(127))
        for position in range(y.shape[2]):
            taps = position * stride + dilation * np.arange(kernel)
            right = np.einsum("nkc,ck->n", weights, rounded[:, taps])
            np.testing.assert_allclose(y[sample, :, position], right, atol=1e-8)
    assert taps[-1] + stride > padded.shape[2] - 1


def test_bias_and_relu_come_last():
    blob = pack(np.array([[0], [1]], np.uint8), np.ones((2, 1), np.float32), bits=1, group=0)
    bias = [0.5, -4.0]
    np.testing.assert_allclose(oracle.product([2.0], blob, bias), [-1.5, -2.0])
    np.testing.assert_allclose(oracle.product([-2.0], blob, bias, relu=True), [2.5, 0.0])
    np.testing.assert_allclose(oracle.float_product([2.0], blob, bias, relu=True), [0.0, 0.0])
