import numpy as np
import pytest

from edge_kernels.integer.net import Product
from edge_kernels.quantize import calibrate
from edge_kernels.quantize.evaluate import run
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.scaling import classes, scaled, smoothing
from tests.edge_kernels.quantize.small import GRAPHS, classifier, normal, windows

# Classes beside that which is held: conv1's and conv2's rows, of which the pooled ones are twice
# in the concatenation, and the linear layer's.
FREE = {"residual": 6, "affine": 12, "pools": 6, "counted": 6, "chains": 6, "rows": 8}
FREE |= {"slopes": 12, "difference": 6, "total": 12}


@pytest.mark.parametrize("name", GRAPHS)
def test_scaling_changes_nothing(name):
    split = read(GRAPHS[name])
    net, x = split.net, inputs(split, normal(5, 5, 12))
    scaling = classes(net)
    assert scaling.count == 1 + FREE[name]
    factors = np.exp(np.random.default_rng(1).standard_normal(scaling.count))
    factors[0] = 1.0
    other = scaled(net, scaling, factors)
    np.testing.assert_allclose(run(other, x), run(net, x), rtol=1e-9, atol=1e-9)
    assert any(
        isinstance(a, Product) and not np.allclose(a.weight, b.weight)
        for a, b in zip(other.steps, net.steps, strict=True)
    )


def test_pooled_channels_share_their_convolutions_factor():
    net = read(classifier()).net
    scaling = classes(net)
    assert scaling.count == 1 + 16 + 24 + 24
    linear = scaling.columns[5]
    np.testing.assert_array_equal(linear[:24], scaling.rows[1])
    np.testing.assert_array_equal(linear[24:], scaling.rows[1])
    assert not scaling.rows[-1].any()
    assert not scaling.columns[0].any()


def test_smoothquant_evens_out_channels():
    split = read(classifier())
    net, x = split.net, inputs(split, windows(100, 5)[0])
    scaling = classes(net)
    factors = smoothing(net, scaling, calibrate.largest(net, x))
    other = scaled(net, scaling, factors)
    np.testing.assert_allclose(run(other, x), run(net, x), rtol=1e-9, atol=1e-9)

    def spread(of):
        most = calibrate.largest(of, x)[1].max(1)
        return np.log(most[most > 0]).std()

    assert spread(other) < 0.8 * spread(net)


def test_factors_that_are_wrong():
    net = read(GRAPHS["chains"]).net
    scaling = classes(net)
    for factors in (np.ones(3), np.zeros(7), np.full(7, 2.0)):
        with pytest.raises(ValueError, match="7 positive numbers, the first of them 1"):
            scaled(net, scaling, factors)
