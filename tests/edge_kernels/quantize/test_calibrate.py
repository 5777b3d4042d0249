import numpy as np
import pytest

from edge_kernels.quantize import calibrate
from edge_kernels.quantize.histogram import private
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import GRAPHS, classifier, normal, windows


@pytest.fixture(scope="module")
def net_and_x():
    split = read(classifier())
    return split.net, inputs(split, windows(200, 5)[0])


def test_values_on_the_same_levels(net_and_x):
    net, _ = net_and_x
    assert calibrate.tied(net) == [0, 1, 2, 2, 2, 2, 6, 7]
    assert calibrate.accumulates(net)
    assert calibrate.quantized_values(net) == [0, 1, 2, 6]


def test_an_output_that_is_read_again_has_levels():
    net = read(GRAPHS["residual"]).net
    net.output = 1
    assert not calibrate.accumulates(net)


def test_ranges_cover_what_was_seen(net_and_x):
    net, x = net_and_x
    found = calibrate.ranges(net, x)
    assert found[0] == (pytest.approx(float(x.min())), pytest.approx(float(x.max())))
    assert all(low == 0.0 < high for low, high in found[1:])
    for method in ("percentile", "mse"):
        inner = calibrate.ranges(net, x, method)
        assert inner != found
        assert all(b[1] <= a[1] * 1.001 for a, b in zip(found, inner, strict=True))


def test_federated_ranges_are_those_of_all_windows(net_and_x):
    net, x = net_and_x
    sources, devices = x[:50], np.split(x[50:], 5)
    bounds = calibrate.bounds(net, sources, widen=1.5)
    sent = [calibrate.histograms(net, each, bounds, bins=32) for each in devices]
    whole = calibrate.histograms(net, x[50:], bounds, bins=32)
    for merged, right in zip(zip(*sent, strict=True), whole, strict=True):
        total = np.sum([each.counts for each in merged], axis=0)
        np.testing.assert_array_equal(total, right.counts)
    found = calibrate.federated(sent)
    assert found == calibrate.federated([whole])
    for got, right, bound in zip(found, calibrate.ranges(net, x[50:]), bounds, strict=True):
        width = (bound[1] - bound[0]) / 32
        assert abs(got[0] - max(right[0], bound[0])) <= width
        assert abs(got[1] - min(right[1], bound[1])) <= width


def test_federated_ranges_of_noisy_histograms(net_and_x):
    net, x = net_and_x
    random = np.random.default_rng(0)
    bounds = calibrate.bounds(net, x, widen=1.5)
    sent = [
        [private(h, 1e-4, "gaussian", random) for h in calibrate.histograms(net, each, bounds, 24)]
        for each in np.split(x, 10)
    ]
    exact = calibrate.ranges(net, x)
    for got, right in zip(calibrate.federated(sent, "percentile"), exact, strict=True):
        assert 0.3 * right[1] < got[1] < 1.6 * right[1]


def test_levels_hold_zero():
    levels = calibrate.levels_of((-1.0, 3.0))
    assert (levels.zero, levels.bits, levels.top) == (64, 8, 255)
    assert levels.scale == pytest.approx(4 / 255)
    assert calibrate.levels_of((1.0, 2.0)).zero == 0
    assert calibrate.levels_of((-2.0, -1.0)).zero == 255
    assert calibrate.levels_of((0.0, 0.0)).scale > 0


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (normal(0, 3, 40), "no calibration windows"),
        (normal(4, 40, 3), r"shape \(4, 40, 3\); the network reads \(windows, 3, 40\)"),
        (np.full((2, 3, 40), np.nan, np.float32), "calibration window 0 holds NaN"),
    ],
)
def test_windows_that_are_wrong(net_and_x, x, says):
    net, _ = net_and_x
    for wrong in (calibrate.ranges, calibrate.bounds):
        with pytest.raises(ValueError, match=says):
            wrong(net, x)


def test_histograms_that_do_not_fit(net_and_x):
    net, x = net_and_x
    with pytest.raises(ValueError, match="1 bounds for 4 values"):
        calibrate.histograms(net, x, [(0.0, 1.0)])
    one = calibrate.histograms(net, x, calibrate.bounds(net, x), 8)
    with pytest.raises(ValueError, match=r"devices sent \[2, 4\] histograms"):
        calibrate.federated([one, one[:2]])
