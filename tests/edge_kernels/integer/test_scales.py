"""Constants of steps: exact where they can be, refused where they cannot."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_kernels.integer.net import Add, Affine, IntNet, Levels, Pool
from edge_kernels.integer.scales import add_scales, affine_scales, fixed_point, free_mean, table_of
from edge_kernels.integer.shapes import pool_counts, positions


@given(st.floats(2.0**-30, 2.0**28), st.sampled_from([30, 31]))
def test_a_fixed_point_is_the_nearest(ratio, bits):
    m, s = fixed_point(ratio, bits)
    assert 2 ** (bits - 1) <= m < 2**bits
    assert 1 <= s <= 62
    assert abs(Fraction(m, 2**s) - Fraction(ratio)) <= Fraction(1, 2**s)


def test_a_fraction_that_rounds_up_to_a_power_of_two():
    assert fixed_point(math.nextafter(1, 0)) == (1 << 30, 30)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_ratios_are_positive_and_finite(ratio):
    with pytest.raises(ValueError, match="expected a positive number"):
        fixed_point(ratio)


@pytest.mark.parametrize("ratio", [2.0**31, 2.0**-40])
def test_ratios_beyond_all_shifts(ratio):
    with pytest.raises(ValueError, match="does not fit a shift of 1 to 62 bits"):
        fixed_point(ratio)


def net(*scales):
    return IntNet([(2, 3)] * len(scales), [Levels(scale, 7) for scale in scales])


def test_a_sum_has_one_shift():
    m_x, m_y, s = add_scales(net(0.5, 0.125, 1.0), 1, Add(0, 1))
    assert (m_x, m_y, s) == (1 << 29, 1 << 27, 30)


def test_factors_and_terms_have_one_shift():
    step = Affine(0, np.array([-0.5, 0.25]), np.array([3.0, -1.0]))
    m, t, s = affine_scales(net(1.0, 1.0), 0, step)
    assert (m, t, s) == ([-(1 << 29), 1 << 28], [3 << 30, -(1 << 30)], 30)


def test_accumulators_have_no_levels():
    with pytest.raises(ValueError, match="value 0 is accumulators"):
        IntNet([(1,)], [None]).known(0)


def test_means_count_positions_inside():
    step = Pool(0, True, 3, 2, 1, 2)
    assert positions(step, 5) == 3
    assert pool_counts(step, 5) == [2, 3, 2]
    assert pool_counts(Pool(0, True, 3, 2, 1, 2, count_padding=True), 5) == [3, 3, 3]
    assert positions(step, 0) == 1
    assert positions(Pool(0, True, 9), 5) == 0


@given(st.floats(2.0**-20, 2.0**20), st.integers(1, 65535))
def test_a_mean_of_a_free_length_has_31_bits(ratio, count):
    m, s = free_mean(*fixed_point(ratio), count)
    assert 2**29 <= m < 2**31
    assert abs(Fraction(m, 2**s) * count / Fraction(ratio) - 1) < Fraction(1, 2**28)


def test_a_table_keeps_to_its_levels():
    x, y = Levels(0.1, 0), Levels(1.0, 0, 16)
    assert list(table_of(np.exp, x, y)[[0, 10, 255]]) == [1, 3, 65535]
    assert table_of(np.negative, x, Levels(1.0, 3)).dtype == np.uint8
