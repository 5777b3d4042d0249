"""Functions' results in two parts: the same in float, and far nearer to it in integers."""

import numpy as np
import pytest

from edge_kernels.integer import oracle
from edge_kernels.integer.net import Add, Product, Table
from edge_kernels.quantize import evaluate
from edge_kernels.quantize.functions import Function, Remainder
from edge_kernels.quantize.integer_rounding import RoundToNearest
from edge_kernels.quantize.parts import parted
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.blocks import LENGTH, WIDTH, Builder, block


def windows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, LENGTH, WIDTH)).astype(np.float32)


def at_of(net, kind):
    (at,) = [at for at, step in enumerate(net.steps) if type(step) is kind]
    return at


def test_the_rest_is_nothing_in_float_and_both_products_are_summed():
    net = read(block()).net
    at = at_of(net, Remainder)
    rest = net.steps[at]
    assert rest.whole == at == at_of(net, Function) + 1
    made = evaluate.values(net, evaluate.torch.zeros(2, LENGTH, WIDTH), evaluate.constants(net))
    assert not made[at + 1].any()
    first, second = [
        i
        for i, step in enumerate(net.steps)
        if isinstance(step, Product) and step.x in (rest.whole, at + 1)
    ]
    np.testing.assert_array_equal(net.steps[first].weight, net.steps[second].weight)
    assert not net.steps[second].bias.any()
    assert net.steps[second + 1] == Add(first + 1, second + 1)


def test_two_parts_hold_a_function_of_large_and_small_results():
    net, x = read(block()).net, windows(64)
    made = RoundToNearest().quantize(net, x)
    at = at_of(net, Remainder)
    whole, rest = made.levels[at], made.levels[at + 1]
    assert rest.scale == pytest.approx(whole.scale / 255)
    q = made.steps[at - 1], made.steps[at]
    assert all(type(step) is Table for step in q)
    source = made.levels[q[0].x]
    real = source.scale * (np.arange(256.0) - source.zero)
    found = whole.scale * (q[0].values - float(whole.zero))
    found += rest.scale * (q[1].values - float(rest.zero))
    exact = net.steps[at].reals(real)
    inside = (exact > -whole.scale * whole.zero) & (exact < whole.scale * (255 - whole.zero))
    assert np.abs(found - exact)[inside].max() <= 0.51 * rest.scale
    oracle.check(made)


def test_a_network_without_norms_is_left_as_it_is():
    b = Builder()
    x = b.add("Gelu", b.linear("x", WIDTH, WIDTH, seed=1))
    b.linear(x, WIDTH, WIDTH, seed=2)
    net = read(b.model(3)).net
    assert not any(isinstance(step, Remainder) for step in net.steps)
    assert parted(net) is net
