"""A low-rank adapter as an integer side path, exact; and merged, with the same numbers."""

from dataclasses import replace

import numpy as np
import pytest

import edge_kernels
from edge_kernels.integer import oracle
from edge_kernels.integer.net import Add, Product
from edge_kernels.quantize.adapters import merged
from edge_kernels.quantize.evaluate import run
from edge_kernels.quantize.integer_rounding import RoundToNearest
from edge_kernels.quantize.mobilequant import Distilled
from edge_kernels.quantize.quantizer import quantize, to_edge, to_qdq
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize import small
from tests.edge_kernels.quantize.small import build, normal

RANK, WIDTH, ROWS = 4, 24, 20


def gemms():
    """A Gemm, and another of rank 4 beside it."""
    nodes = [
        ("Gemm", ["x", "w", "b"], ["base"], {"transB": 1}),
        ("Gemm", ["x", "down"], ["low"], {"transB": 1}),
        ("Gemm", ["low", "up"], ["side"], {"transB": 1}),
        ("Mul", ["side", "scale"], ["scaled"], {}),
        ("Add", ["base", "scaled"], ["y"], {}),
    ]
    held = {"w": normal(ROWS, WIDTH), "b": normal(ROWS), "down": normal(RANK, WIDTH)}
    held |= {"up": normal(ROWS, RANK), "scale": np.float32(0.1)}
    return build(nodes, held, (WIDTH,), "y")


def convolutions():
    """A strided convolution, and beside it one of few channels before a layer of kernel 1."""
    pads = {"pads": [1, 1], "strides": [2]}
    nodes = [
        ("Conv", ["x", "w", "b"], ["base"], pads),
        ("Conv", ["x", "down", "d"], ["low"], pads),
        ("Conv", ["low", "up"], ["side"], {}),
        ("Add", ["side", "base"], ["sum"], {}),
        ("Relu", ["sum"], ["r"], {}),
        ("GlobalAveragePool", ["r"], ["y"], {}),
    ]
    held = {"w": normal(6, 5, 3), "b": normal(6), "down": normal(2, 5, 3), "d": normal(2)}
    return build(nodes, held | {"up": 0.1 * normal(6, 2, 1)}, (5, 12), "y")


def rows():
    """The same as ``gemms`` at every position."""
    nodes = [
        ("MatMul", ["x", "w"], ["base"], {}),
        ("MatMul", ["x", "down"], ["low"], {}),
        ("MatMul", ["low", "up"], ["side"], {}),
        ("Add", ["base", "side"], ["y"], {}),
    ]
    held = {"w": normal(WIDTH, ROWS), "down": normal(WIDTH, RANK), "up": 0.1 * normal(RANK, ROWS)}
    return build(nodes, held, (7, WIDTH), "y")


CASES = {
    "gemms": (gemms, (WIDTH,)),
    "convolutions": (convolutions, (5, 12)),
    "rows": (rows, (7, WIDTH)),
}
each_case = pytest.mark.parametrize("case", sorted(CASES))


def kinds(net):
    return [type(step) for step in net.steps]


@each_case
def test_an_adapter_is_read_as_a_side_path(case):
    make, _ = CASES[case]
    assert kinds(read(make()).net)[:4] == [Product, Product, Product, Add]


@each_case
@pytest.mark.parametrize("bits", [8, 4])
def test_the_side_path_runs_as_the_oracle_says(case, bits):
    make, shape = CASES[case]
    made = quantize(make(), normal(64, *shape), quantizer="rtn", bits=bits)
    assert kinds(made.net)[:4] == [Product, Product, Product, Add]
    x = normal(9, *shape, seed=1)
    levels, first = made.net.known(made.net.output), made.net.known(0)
    codes = np.clip(np.rint(x / np.float32(first.scale)) + first.zero, 0, first.top)
    right = oracle.run(made.net, codes.astype(np.uint8))
    session = edge_kernels.session(to_edge(made).SerializeToString())
    found = session.run(None, {"x": x})[0] / np.float32(levels.scale) + levels.zero
    np.testing.assert_array_equal(np.rint(found), right)
    np.testing.assert_allclose(found, right, atol=1e-3)


@each_case
def test_merged_computes_the_same_in_float(case):
    make, shape = CASES[case]
    net = read(make()).net
    before = kinds(net)
    one = merged(net)
    assert kinds(one)[0] is Product
    assert len(one.steps) == len(net.steps) - 3
    assert kinds(net) == before
    x = normal(9, *shape, seed=1)
    np.testing.assert_allclose(run(one, x), run(net, x), rtol=1e-5, atol=1e-6)


@each_case
def test_merged_in_integers_gives_the_same_within_a_level(case):
    make, shape = CASES[case]
    net = read(make()).net
    calibration, x = normal(256, *shape), normal(40, *shape, seed=1)
    side = RoundToNearest().quantize(net, calibration)
    one = RoundToNearest().quantize(merged(net), calibration)
    level = side.known(side.output).scale
    differ = np.abs(small.integer_output(side, x) - small.integer_output(one, x)) / level
    # Whole levels but for float32's rounding; the side path rounds twice more.
    assert (differ.round() <= 1).mean() > 0.9
    assert differ.max() < 3


def test_plain_onnx_runs_the_side_path_too():
    made = quantize(gemms(), normal(64, WIDTH), quantizer="rtn")
    x = normal(9, WIDTH, seed=1)
    right = small.integer_output(made.net, x)
    level = made.net.known(made.net.output).scale
    np.testing.assert_allclose(small.run(to_qdq(made), x), right, atol=2.01 * level)


def test_a_side_path_can_be_learned():
    net = read(gemms()).net
    calibration, x = normal(128, WIDTH), normal(40, WIDTH, seed=1)
    right = run(net, x)

    def error(made):
        return float(np.square(small.integer_output(made, x) - right).mean())

    learned = Distilled(bits=4, ends=4, steps=40).quantize(net, calibration)
    assert kinds(learned) == [Product, Product, Product, Add]
    assert error(learned) < error(RoundToNearest(bits=4, ends=4).quantize(net, calibration))


@pytest.mark.parametrize("changed", [{"relu": True}, {"dilation": 2, "pad_begin": 2, "pad_end": 2}])
def test_what_is_no_adapter_stays(changed):
    net = read(convolutions()).net
    other = replace(net, steps=[net.steps[0], replace(net.steps[1], **changed), *net.steps[2:]])
    assert kinds(merged(other)) == kinds(net)


def test_a_layer_that_is_read_twice_stays():
    net = read(convolutions()).net
    twice = replace(net.steps[3], x=3, y=3)
    other = replace(net, steps=[*net.steps[:3], twice, net.steps[4]])
    assert kinds(merged(other)) == [Product, Product, Add, kinds(net)[4]]
