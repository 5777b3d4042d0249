import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_kernels.quantize.histogram import (
    Histogram,
    count,
    denoised,
    merge,
    noise_of_sum,
    private,
    range_of,
)


def drawn(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(2, 40))
def test_merged_is_the_whole(sizes, bins):
    x = drawn(sum(sizes))
    parts = np.split(x, np.cumsum(sizes)[:-1])
    merged = merge([count(each, -2.0, 1.5, bins) for each in parts])
    np.testing.assert_array_equal(merged.counts, count(x, -2.0, 1.5, bins).counts)
    assert merged.counts.sum() == len(x)


def test_what_is_outside_counts_at_the_ends():
    found = count(np.array([-9.0, 0.1, 0.9, 7.0, 8.0]), 0.0, 1.0, 4)
    np.testing.assert_array_equal(found.counts, [2, 0, 0, 3])


def test_ranges():
    x = drawn(100_000)
    x[0] = 30.0
    whole = count(x, -40.0, 40.0, 2000)
    low, high = range_of(whole)
    assert low <= x.min() < low + 0.05
    assert high - 0.05 < 30.0 <= high
    assert 3 < range_of(whole, "percentile")[1] < 5
    assert range_of(whole, "mse")[1] < 30.0
    assert 3 < range_of(count(x[1:], -40.0, 40.0, 2000), "mse", levels=256)[1] < 5
    assert range_of(count(x[1:], -40.0, 40.0, 2000), "mse", levels=4)[1] < 3


@given(st.lists(st.floats(1e-4, 1.0), min_size=2, max_size=40))
def test_shares_that_are_no_whole_numbers_end_where_they_end(shares):
    padded = np.array([0.0, *shares, *np.zeros(7)])
    low, high = range_of(Histogram(-1.0, len(padded) - 1.0, padded))
    assert (low, high) == pytest.approx((0.0, len(shares)))


def test_zero_is_always_inside():
    assert range_of(count(np.array([2.0, 3.0]), 1.0, 4.0, 30))[0] == 0.0


def test_a_device_may_clip_and_add_noise():
    mine = count(drawn(500), -4.0, 4.0, 32)
    sent = private(mine)
    assert sent.counts.sum() == pytest.approx(1.0)
    random = np.random.default_rng(3)
    many = [private(mine, 0.01, kind, random) for kind in ("laplace", "gaussian") * 500]
    np.testing.assert_allclose(merge(many).counts / 1000, sent.counts, atol=2e-3)
    low, high = range_of(merge(many), "percentile")
    assert -4 <= low < -2
    assert 2 < high <= 4


@pytest.mark.parametrize("kind", ["laplace", "gaussian"])
def test_noise_at_the_ends_sets_no_range(kind):
    mine, random = private(count(drawn(5000), -20.0, 20.0, 64)), np.random.default_rng(1)
    sent = [private(mine, 2e-3, kind, random) for _ in range(40)]
    whole, deviation = merge(sent), noise_of_sum(2e-3, kind, 40)
    assert range_of(whole)[1] > 15  # noise alone
    low, high = range_of(denoised(whole, deviation))
    assert -4.5 < low < -2
    assert 2 < high < 4.5
    assert denoised(whole, 0.0) is whole


@pytest.mark.parametrize("kind", ["laplace", "gaussian"])
def test_the_deviation_of_merged_noise(kind):
    random = np.random.default_rng(2)
    none = Histogram(0.0, 1.0, np.zeros(4000))
    sent = [private(none, 0.1, kind, random) for _ in range(9)]
    found = float(merge(sent).counts.std())
    assert found == pytest.approx(noise_of_sum(0.1, kind, 9), rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: count(np.array([np.nan]), 0, 1, 4), "a value to count is NaN"),
        (lambda: count(np.zeros(3), 1, 1, 4), "from 1 to 1; low < high"),
        (lambda: count(np.zeros(3), 0, np.inf, 4), "low < high"),
        (lambda: count(np.zeros(3), 0, 1, 1), "2 to 4096 bins"),
        (lambda: Histogram(0, 1, np.array([np.nan, 1])), "counts hold NaN"),
        (lambda: merge([]), "no histograms"),
        (
            lambda: merge([count(np.zeros(1), 0, 1, 4), count(np.zeros(1), 0, 2, 4)]),
            "histogram 1 has 4 bins from 0 to 2; the first has 4 from 0 to 1",
        ),
        (lambda: range_of(Histogram(0, 1, np.zeros(4))), "without counts"),
        (lambda: range_of(Histogram(0, 1, np.ones(4)), "best"), "ranges by 'best'"),
        (lambda: private(Histogram(0, 1, np.ones(4)), 1.0), "needs a random generator"),
        (lambda: private(Histogram(0, 1, np.ones(4)), -1.0), "noise of -1.0"),
    ],
)
def test_what_is_wrong_is_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()
