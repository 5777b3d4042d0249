"""Branches of very different ranges, concatenated."""

from functools import cache

import numpy as np
import pytest

import edge_kernels
from edge_kernels.integer.net import Concat
from edge_kernels.quantize import calibrate, quantizer
from edge_kernels.quantize.branches import evened
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.integer_rounding import RoundToNearest
from edge_kernels.quantize.quantizer import inputs, quantize, to_edge, to_lookup, to_qdq
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import (
    GRAPHS,
    build,
    classifier,
    integer_output,
    normal,
    run,
    windows,
)

ROWS = 16
BOTH = [
    ("Conv", ["x", "a.w", "a.b"], ["a.c"], {"pads": [1, 1]}),
    ("Relu", ["a.c"], ["a"], {}),
    ("Conv", ["x", "b.w", "b.b"], ["b.c"], {"pads": [1, 1]}),
]
PLAIN, TANH = ("Relu", ["b.c"], ["b"], {}), ("Tanh", ["b.c"], ["b"], {})
MIXED = [
    ("Conv", ["both", "mix.w", "mix.b"], ["m"], {}),
    ("Relu", ["m"], ["r"], {}),
    ("ReduceMax", ["r", "axes"], ["p"], {"keepdims": 0}),
    ("Gemm", ["p", "head.w", "head.b"], ["y"], {"transB": 1}),
]
CONCAT = ("Concat", ["a", "b"], ["both"], {"axis": 1})
NODES = {
    "conv": [*BOTH, PLAIN, CONCAT, *MIXED],
    "linear": [
        *BOTH,
        PLAIN,
        ("ReduceMax", ["a", "axes"], ["a.m"], {"keepdims": 0}),
        ("ReduceMax", ["b", "axes"], ["b.m"], {"keepdims": 0}),
        ("Concat", ["a.m", "b.m"], ["both"], {"axis": 1}),
        ("Gemm", ["both", "mix.l", "mix.b"], ["r"], {"transB": 1}),
        ("Relu", ["r"], ["s"], {}),
        ("Gemm", ["s", "head.w", "head.b"], ["y"], {"transB": 1}),
    ],
    # a function's result keeps its size; its branch is what the other is made like
    "tanh": [*BOTH, TANH, CONCAT, *MIXED],
    # as a DenseNet's: a layer's result beside what it read
    "dense": [
        *BOTH[:2],
        ("Conv", ["a", "d.w", "b.b"], ["d"], {"pads": [1, 1]}),
        ("Relu", ["d"], ["b"], {}),
        ("Concat", ["a", "b"], ["ab"], {"axis": 1}),
        ("Conv", ["ab", "e.w", "e.b"], ["e"], {"pads": [1, 1]}),
        ("Concat", ["ab", "e"], ["both"], {"axis": 1}),
        ("Conv", ["both", "mix.w3", "mix.b"], ["m"], {}),
        *MIXED[1:],
    ],
    # the input itself beside features
    "skip": [*BOTH[:2], ("Concat", ["a", "x"], ["both"], {"axis": 1}), *MIXED],
}
NAMES = ["conv", "linear", "tanh", "dense", "skip"]


def model(name, by):
    """The same function whatever ``by``: one branch is so much larger, and its readers smaller."""

    def layer(rows, *inputs, scale=1.0):
        return normal(rows, *inputs) * np.float32(scale / np.sqrt(np.prod(inputs)))

    width = 5 if name == "skip" else ROWS
    by = np.float32(by)
    made = {f"{each}.b": 0.3 * normal(ROWS, seed=at) for at, each in enumerate("abe")}
    made |= {f"{each}.w": layer(ROWS, 5, 3, scale=1 + at) for at, each in enumerate("ab")}
    made |= {"d.w": layer(ROWS, ROWS, 3), "e.w": layer(ROWS, 2 * ROWS, 3)}
    made |= {"mix.w": layer(24, ROWS + width, 3), "mix.l": layer(24, 2 * ROWS)}
    made |= {"mix.w3": layer(24, 3 * ROWS, 3), "mix.b": normal(24)}
    made |= {"head.w": layer(4, 24), "head.b": normal(4), "axes": np.array([2])}
    for each in ("a.w", "a.b"):
        made[each] = made[each] * by
    for each in ("mix.w", "mix.l", "mix.w3", "d.w", "e.w"):
        made[each][:, :ROWS] /= by
    read_names = {each for _, names, _, _ in NODES[name] for each in names}
    held = {each: value for each, value in made.items() if each in read_names}
    return build(NODES[name], held, (5, 32), "y")


def served(made, x):
    return edge_kernels.session(made.SerializeToString()).run(None, {"x": x})[0]


def error(found, right):
    """In shares of how the answers differ from window to window."""
    return np.linalg.norm(found - right) / np.linalg.norm(right - right.mean(0))


SEEN, X = normal(128, 5, 32, seed=1), normal(200, 5, 32, seed=2)


@cache
def lost(name, by, how="rtn", bits=8):
    """The error of what a quantizer makes: at 8 bits one operator's, else the lookup kernels'."""
    settings = ({"ends": 4} if bits < 8 else {}) | ({"steps": 16} if how == "distilled" else {})
    float_model = model(name, by)
    made = quantize(float_model, SEEN, quantizer=how, bits=bits, settings=settings)
    form = to_edge(made) if bits == 8 else to_lookup(made)
    return error(served(form, X), run(float_model, X))


@pytest.mark.parametrize("by", [0.01, 10, 100])
@pytest.mark.parametrize("name", NAMES)
def test_branches_far_apart_lose_no_more_than_alike(name, by):
    assert lost(name, 1) < 0.07
    assert lost(name, by) < 1.4 * lost(name, 1)


@pytest.mark.parametrize("how", ["rtn", "smoothquant", "distilled"])
def test_nor_do_they_at_four_bits(how):
    assert lost("conv", 100, how, 4) < 1.25 * lost("conv", 1, how, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_form_gives_what_the_integers_do(name):
    made = quantize(model(name, 100), SEEN, quantizer="rtn")
    right = integer_output(made.net, inputs(made.split, X))
    np.testing.assert_allclose(served(to_edge(made), X), right, rtol=1e-5, atol=1e-5)
    assert error(run(to_qdq(made), X), right) < 5e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_network_in_float_computes_the_same(name):
    net = read(model(name, 100)).net
    other = evened(net, SEEN)
    assert other is not net
    np.testing.assert_array_equal(evaluate(other, X), evaluate(net, X))

    def apart(of):
        most = calibrate.largest(of, SEEN)
        return max(
            np.abs(np.log2([most[x].max() / most[at + 1].max() for x in step.xs])).max()
            for at, step in enumerate(of.steps)
            if isinstance(step, Concat)
        )

    assert apart(other) < 3 < apart(net)


@pytest.mark.parametrize("name", GRAPHS)
def test_networks_without_branches_stay_as_they_are(name):
    net = read(GRAPHS[name]).net
    assert evened(net, normal(20, 5, 12)) is net


def test_branches_of_the_same_channels_stay_as_they_are():
    split = read(classifier())  # the mean and the largest of one convolution
    assert any(isinstance(step, Concat) for step in split.net.steps)
    assert evened(split.net, inputs(split, windows(50, 5)[0])) is split.net


def test_a_branch_that_is_always_zero_keeps_its_size():
    net = read(model("conv", 100)).net
    net.steps[0].weight[:], net.steps[0].bias[:] = 0, -1
    assert evened(net, SEEN) is net


def test_given_ranges_are_of_the_network_as_it_was():
    float_model = model("conv", 100)
    seen = calibrate.ranges(read(float_model).net, SEEN)
    twice = [(2 * low, 2 * high) for low, high in seen]
    own, given = (
        quantize(float_model, SEEN, quantizer="rtn", settings=settings).net
        for settings in ({}, {"ranges": twice})
    )
    for a, b in zip(own.levels[:-1], given.levels[:-1], strict=True):
        assert a is None or b.scale == pytest.approx(2 * a.scale)


def test_given_ranges_of_other_networks_reach_the_quantizer_as_they_are():
    x = windows(50, 5)[0]
    given = [(-9.0, 9.0), (0.0, 20.0), (0.0, 10.0), (0.0, 30.0)]
    made = quantize(classifier(), x, quantizer="rtn", settings={"ranges": given})
    split = read(classifier())
    right = RoundToNearest(ranges=given).quantize(split.net, inputs(split, x))
    assert made.net.levels == right.levels


def test_what_is_shared_is_learned_of_the_evened_network():
    settings, found = {"steps": 4}, []
    for by in (1, 100):
        float_model = model("conv", by)
        start = quantizer.shared(float_model, SEEN, settings=settings)
        made = quantize(float_model, SEEN, bits=2, settings=settings | {"start": start})
        found.append(error(served(to_edge(made), X), run(float_model, X)))
    assert found[1] < 1.25 * found[0]
