"""The distance of conditions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.distance import distance


def pair(seed, tokens=4, channels=7):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, tokens, channels)).astype(np.float32)


@given(st.integers(0, 999), st.floats(1e-3, 1e3))
def test_a_distance_has_no_unit_and_no_side(seed, unit):
    one, other = pair(seed)
    far = distance(one, other)
    assert far == pytest.approx(distance(other, one))
    assert far == pytest.approx(distance(one * np.float32(unit), other * np.float32(unit)), 1e-4)
    assert distance(one, one) == 0


@given(st.integers(0, 999))
def test_it_is_that_of_the_slow_obvious_sum(seed):
    one, other = pair(seed, 3, 2)
    moved = sum((one[t, c] - other[t, c]) ** 2 for t in range(3) for c in range(2)) / 6
    apart = 0
    for each in (one, other):
        mean = each.mean(0)
        apart += sum((each[t, c] - mean[c]) ** 2 for t in range(3) for c in range(2)) / 12
    assert distance(one, other) == pytest.approx(float(np.sqrt(moved / apart)), rel=1e-4)


def test_what_moves_further_is_further_and_tokens_all_alike_are_no_fault():
    one, step = pair(3)
    assert distance(one, one + 0.1 * step) < distance(one, one + 0.3 * step)
    flat = np.ones((2, 3), np.float32)
    assert distance(flat, flat) == 0
    assert distance(flat, 2 * flat) > 1e9
