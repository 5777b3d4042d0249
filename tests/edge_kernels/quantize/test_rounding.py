import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_kernels.layout import Shape, unpack
from edge_kernels.oracle import dequantize
from edge_kernels.quantize import round_to_nearest

KINDS = [(1, "symmetric"), (2, "symmetric"), (3, "symmetric"), (4, "symmetric"), (2, "ternary")]
KINDS += [(bits, "zero_points") for bits in (1, 2, 3, 4)]


@st.composite
def cases(draw, kinds=tuple(KINDS)):
    bits, values = draw(st.sampled_from(kinds))
    group = draw(st.sampled_from([0, 32, 64, 128]))
    shape = Shape(draw(st.integers(1, 70)), draw(st.integers(1, 300)), bits, group, values)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "heavy", "shifted", "sparse"]))
    weights = rng.standard_normal((shape.rows, shape.inputs))
    if kind == "heavy":
        weights **= 3
    elif kind == "shifted":
        weights += 3
    elif kind == "sparse":
        weights *= rng.random(weights.shape) < 0.2
    return shape, (weights * 2.0 ** draw(st.integers(-30, 30))).astype(np.float32)


@pytest.mark.parametrize(("bits", "values"), KINDS)
@pytest.mark.parametrize("group", [0, 64])
def test_the_size_of_weights_changes_nothing(bits, values, group):
    weights = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    right = round_to_nearest(weights, Shape(5, 100, bits, group, values))
    for exponent in (-90, 100):  # whose squares no float32 holds
        found = round_to_nearest(np.ldexp(weights, exponent), right.shape)
        np.testing.assert_array_equal(found.codes, right.codes)
        np.testing.assert_array_equal(found.scales, np.ldexp(right.scales, exponent))


def error(weights, rounded):
    return float(np.linalg.norm(dequantize(rounded.packed()) - weights))


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_blob_holds_what_was_chosen(case):
    shape, weights = case
    rounded = round_to_nearest(weights, shape)
    back, chosen = unpack(rounded.pack()), rounded.packed()
    np.testing.assert_array_equal(back.codes, chosen.codes)
    np.testing.assert_array_equal(back.scales, chosen.scales)
    assert back.multiplier == chosen.multiplier
    assert (back.zeros is None) == (shape.values != "zero_points")
    if back.zeros is not None:
        np.testing.assert_array_equal(back.zeros, chosen.zeros)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_no_other_code_is_nearer(case):
    shape, weights = case
    rounded = round_to_nearest(weights, shape)
    distance = np.abs(dequantize(rounded.packed()) - weights)
    slack = 1e-5 * np.abs(weights).max()
    for code in range(shape.levels):
        other = rounded.packed()
        other.codes[:] = code
        assert np.all(distance <= np.abs(dequantize(other) - weights) + slack)
        distance = np.minimum(distance, np.abs(dequantize(other) - weights) + slack)


@settings(max_examples=60, deadline=None)
@given(cases(((2, "symmetric"), (3, "symmetric"), (4, "symmetric"))))
def test_the_search_is_no_worse_than_the_largest_weight(case):
    shape, weights = case
    span = shape.group or shape.inputs
    padded = np.pad(weights, [(0, 0), (0, -shape.inputs % span)]).astype(float)
    groups = padded.reshape(shape.rows, -1, span)
    least = 2 ** (shape.bits - 1)
    scale = np.abs(groups).max(axis=2, keepdims=True) / least
    scale[scale == 0] = 1
    naive = np.clip(np.rint(groups / scale), -least, least - 1) * scale - groups
    floor = 2e-3 * np.linalg.norm(weights)
    assert error(weights, round_to_nearest(weights, shape)) <= np.linalg.norm(naive) + floor


@settings(max_examples=40, deadline=None)
@given(cases(((2, "ternary"),)))
def test_ternary_finds_the_best_of_all_thresholds(case):
    shape, weights = case
    row = weights[:1, : shape.group or None].astype(float)
    least = np.inf
    for threshold in np.unique(np.abs(row)):
        kept = np.abs(row) >= threshold
        scale = np.abs(row[kept]).mean()
        least = min(least, np.linalg.norm(row - np.sign(row) * kept * scale))
    one = Shape(1, row.shape[1], 2, shape.group, "ternary")
    found = error(row, round_to_nearest(row.astype(np.float32), one))
    assert found <= least + 1e-3 * np.linalg.norm(row)


def test_one_bit_is_sign_and_mean():
    weights = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)
    rounded = round_to_nearest(weights, Shape(1, 4, 1, 0))
    np.testing.assert_array_equal(dequantize(rounded.pack()), [[2.5, -2.5, 2.5, -2.5]])


@pytest.mark.parametrize(("bits", "values"), KINDS)
@pytest.mark.parametrize("group", [0, 32, 128])
def test_weights_on_a_grid_are_kept(bits, values, group):
    shape = Shape(40, 200, bits, group, values)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, shape.levels, (40, 200))
    codes[:, ::4], codes[:, 1::4] = 0, shape.levels - 1  # each group has both ends
    integers = 2 * codes - 1 if (bits, values) == (1, "symmetric") else codes - shape.zero
    if values == "zero_points":
        integers = codes - 1
    weights = (integers * 2.0 ** rng.integers(-6, 6, (40, 1))).astype(np.float32)
    np.testing.assert_array_equal(
        dequantize(round_to_nearest(weights, shape).pack()), weights.astype(float)
    )


@pytest.mark.parametrize("group", [0, 64])
@pytest.mark.parametrize(("bits", "values"), KINDS)
def test_equal_and_zero_weights(bits, values, group):
    weights = np.zeros((3, 70), np.float32)
    weights[1] = 0.3
    weights[2] = -0.3
    found = dequantize(round_to_nearest(weights, Shape(3, 70, bits, group, values)).pack())
    np.testing.assert_allclose(found, weights, rtol=1e-3)


@pytest.mark.parametrize(
    ("bits", "values", "most"),
    [
        (1, "symmetric", 0.61),
        (2, "ternary", 0.44),
        (2, "symmetric", 0.36),
        (3, "symmetric", 0.18),
        (4, "symmetric", 0.092),
        (2, "zero_points", 0.34),
        (3, "zero_points", 0.175),
        (4, "zero_points", 0.087),
    ],
)
def test_error_on_normal_weights(bits, values, most):
    weights = np.random.default_rng(0).standard_normal((256, 640)).astype(np.float32)
    rounded = round_to_nearest(weights, Shape(256, 640, bits, 64, values))
    assert error(weights, rounded) / np.linalg.norm(weights) < most
