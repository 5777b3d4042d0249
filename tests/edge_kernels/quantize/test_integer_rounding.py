import numpy as np
import pytest

from edge_kernels.integer import oracle
from edge_kernels.integer.net import Product
from edge_kernels.quantize import calibrate
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.integer_rounding import (
    RoundToNearest,
    SmoothQuant,
    code_bounds,
    dequantized,
    integers,
    nearest,
    smoothed,
)
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import GRAPHS, classifier, integer_output, normal, windows


def relative(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize("quantizer", [RoundToNearest, SmoothQuant])
@pytest.mark.parametrize("name", GRAPHS)
def test_eight_bits_are_close_to_float(name, quantizer):
    split = read(GRAPHS[name])
    x = inputs(split, normal(40, 5, 12))
    found = integer_output(quantizer().quantize(split.net, x), x)
    assert relative(found, evaluate(split.net, x)) < 0.03


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_the_trained_classifier(method):
    split = read(classifier())
    x = inputs(split, windows(300, 5)[0])
    net = RoundToNearest(method=method).quantize(split.net, x)
    right = evaluate(split.net, x)
    found = integer_output(net, x)
    assert relative(found, right) < 0.05
    assert (found.argmax(1) == right.argmax(1)).mean() > 0.98


@pytest.mark.parametrize("bits", [8, 2])
def test_a_network_in_float_with_the_weights_of_the_codes(bits):
    split = read(classifier())
    x = inputs(split, windows(50, 5)[0])
    choice = nearest(split.net, calibrate.ranges(split.net, x), bits)
    for step, coded in zip(integers(choice).steps, dequantized(choice).steps, strict=True):
        if isinstance(step, Product):
            real = step.weight * step.weight_scale[:, None, None]
            np.testing.assert_allclose(coded.weight, real, rtol=1e-12)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_and_scales(bits):
    split = read(classifier())
    x = inputs(split, windows(50, 5)[0])
    net = RoundToNearest(bits=bits).quantize(split.net, x)
    products = [step for step in net.steps if isinstance(step, Product)]
    ends = min(2 * bits, 8)
    assert [step.weight_bits for step in products] == [ends, bits, bits, ends]
    for step, right in zip(
        products, [s for s in split.net.steps if isinstance(s, Product)], strict=True
    ):
        low, high = code_bounds(step.weight_bits)
        assert step.weight.dtype == np.int8
        assert step.weight.min() >= low
        assert step.weight.max() <= high
        scale = step.weight_scale[:, None, None]
        assert (np.abs(step.weight * scale - right.weight) <= scale * 0.5 + 1e-9).all()
        bias_scale = net.levels[step.x].scale * step.weight_scale
        assert (np.abs(step.bias * bias_scale - right.bias) <= bias_scale * 0.5 + 1e-9).all()


def test_a_row_of_zeros_keeps_its_bias():
    split = read(classifier())
    split.net.steps[0].weight[3] = 0
    split.net.steps[0].bias[3] = 2.5
    x = inputs(split, windows(50, 5)[0])
    net = RoundToNearest().quantize(split.net, x)
    levels = net.levels[0]
    q = np.clip(np.rint(x / levels.scale) + levels.zero, 0, 255).astype(np.uint8)
    got = (oracle.values(net, q)[1][:, 3] - net.levels[1].zero) * net.levels[1].scale
    np.testing.assert_allclose(got, 2.5, atol=net.levels[1].scale)


def test_given_ranges_are_used():
    split = read(classifier())
    x = inputs(split, windows(50, 5)[0])
    given = [(-8.0, 8.0), (0.0, 20.0), (0.0, 10.0), (0.0, 30.0)]
    net = RoundToNearest(ranges=given).quantize(split.net, x)
    wanted = calibrate.quantized_values(split.net)
    for value, (low, high) in zip(wanted, given, strict=True):
        assert net.levels[value].scale == pytest.approx((high - low) / 255)
    seen = calibrate.ranges(split.net, x)
    plain = SmoothQuant().quantize(split.net, x)
    wide = [(2 * low, 2 * high) for low, high in seen]
    doubled = SmoothQuant(ranges=wide).quantize(split.net, x)
    for value in wanted:
        assert doubled.levels[value].scale == pytest.approx(2 * plain.levels[value].scale)


def test_smoothing_leaves_the_network_as_it_was():
    split = read(classifier())
    x = inputs(split, windows(50, 5)[0])
    before = [s.weight.copy() for s in split.net.steps if isinstance(s, Product)]
    np.testing.assert_allclose(evaluate(smoothed(split.net, x), x), evaluate(split.net, x))
    after = [s.weight for s in split.net.steps if isinstance(s, Product)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("quantizer", [RoundToNearest, SmoothQuant])
def test_what_is_wrong_is_named(quantizer):
    split = read(classifier())
    x = inputs(split, windows(20, 5)[0])
    with pytest.raises(ValueError, match="weights of 3 bits; 8, 4, 2"):
        quantizer(bits=3).quantize(split.net, x)
    with pytest.raises(ValueError, match="ranges by 'best'"):
        quantizer(method="best").quantize(split.net, x)
    with pytest.raises(ValueError, match="1 ranges for 4 values"):
        quantizer(ranges=[(0.0, 1.0)]).quantize(split.net, x)
    x[3, 1, 2] = np.inf
    with pytest.raises(ValueError, match="calibration window 3 holds NaN or infinity"):
        quantizer().quantize(split.net, x)
