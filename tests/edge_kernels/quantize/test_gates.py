"""Products of two tensors, their parts and softmaxes, from torch's modules to the operator."""

from functools import cache

import numpy as np
import pytest
import torch

import edge_kernels
from edge_kernels.integer.net import Attention, Constant, Multiply, Product, Reduce, Slice
from edge_kernels.quantize import calibrate, evaluate
from edge_kernels.quantize.integer_rounding import integers
from edge_kernels.quantize.learner import Learner
from edge_kernels.quantize.quantizer import quantize, to_edge, to_lookup, to_qdq
from edge_kernels.quantize.range_graph import range_graph
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.scaling import classes, scaled
from tests.edge_kernels.integer.instruction_sets import SETS, codes, keep, same
from tests.edge_kernels.integer.test_edge import model_of
from tests.edge_kernels.quantize.blocks import LENGTH, WIDTH, Builder, weights
from tests.edge_kernels.quantize.gated import BLOCKS, SHAPE, exported, seeded
from tests.edge_kernels.quantize.small import integer_output
from tests.edge_kernels.quantize.test_transformers import by_oracle, difference, run

FEW = {"steps": 6, "batch": 8, "windows": 32}


def windows(count, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@cache
def model(name, dynamo=False):
    return exported(seeded(BLOCKS[name]), dynamo=dynamo)


def served(whole, bits=8, quantizer="rtn", shape=SHAPE, settings=None, apart=0.005):
    """A model in integers; both exports are as the oracle, which has such an error to float.

    ``apart``: what plain ONNX may differ by, a level here and there.
    """
    x = windows(40, 2, shape)
    how = {"quantizer": quantizer, "bits": bits, "settings": settings}
    made = quantize(whole, windows(64, 1, shape), **how)
    ours = by_oracle(made, x)
    edge = edge_kernels.session(to_edge(made).SerializeToString(), threads=1)
    np.testing.assert_allclose(edge.run(None, {"x": x})[0], ours, rtol=1e-5, atol=1e-6)
    assert difference(run(to_qdq(made), x), ours) < apart
    return made, difference(ours, run(whole, x))


@pytest.mark.parametrize("name", BLOCKS)
def test_networks_with_gates_at_8_and_4_bits(name):
    made, error = served(model(name))
    kinds = {type(step) for step in made.net.steps}
    assert error < 0.02
    assert {Attention, Constant} <= kinds if "pooled" in name else Multiply in kinds
    _, coarse = served(model(name), 4)
    assert coarse < 0.15


@pytest.mark.parametrize("name", ["expanded", "cbam", "eca", "glu", "pooled, flat"])
def test_what_torchs_other_exporter_writes(name):
    _, error = served(model(name, dynamo=True))
    assert error < 0.02


@pytest.mark.parametrize("name", ["squeeze-excite", "swiglu", "pooled, product"])
@pytest.mark.parametrize("quantizer", ["smoothquant", "mobilequant", "distilled", "blockwise"])
def test_every_quantizer_learns_through_gates(name, quantizer):
    _, error = served(
        model(name), 8, quantizer, settings=None if quantizer == "smoothquant" else FEW
    )
    assert error < 0.03


def test_learning_wins_some_back_through_a_gate():
    _, nearest = served(model("squeeze-excite"), 4)
    few = {"steps": 60, "batch": 16, "windows": 64}
    _, learned = served(model("squeeze-excite"), 4, "distilled", settings=few)
    assert learned < nearest


@pytest.mark.parametrize("name", [*BLOCKS, "bilinear", "token", "constant"])
def test_scaling_changes_nothing(name):
    net, x = network(name)
    scaling = classes(net)
    factors = np.exp(np.random.default_rng(1).standard_normal(scaling.count))
    factors[0] = 1.0
    other = scaled(net, scaling, factors)
    np.testing.assert_allclose(evaluate.run(other, x), evaluate.run(net, x), rtol=1e-6, atol=1e-7)
    assert scaling.count > 1


@pytest.mark.parametrize("name", ["squeeze-excite", "glu", "pooled, flat", "bilinear", "token"])
def test_the_learner_computes_what_the_integers_do(name):
    net, x = network(name, 64)
    learner = Learner(net, calibrate.ranges(net, x), 8)
    with torch.no_grad():
        random = torch.Generator().manual_seed(0)
        learner.scales.copy_(torch.rand(len(learner.scales), generator=random) + 0.5)
        learner.widths.copy_(4 * torch.rand(len(learner.widths), generator=random) + 4)  # coarse
        found = learner(torch.from_numpy(x))[net.output].numpy()
    right = integer_output(integers(learner.choice()), x)
    assert difference(found, right) < 0.01


def test_halves_of_a_layer_are_layers_with_levels_of_their_own():
    net = read(model("glu")).net
    assert not any(isinstance(step, Slice) for step in net.steps)
    rows = [len(step.weight) for step in net.steps if isinstance(step, Product)]
    assert rows == [12, 12, 12, 5]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    nets = [
        quantize(model(name), windows(64, 1), quantizer="rtn", bits=bits).net
        for name in BLOCKS
        for bits in (8, 4)
    ]
    cases = [(net, codes(net, at)) for at, net in enumerate(nets)]
    return keep(tmp_path_factory.mktemp("gates") / "answers.npz", cases, model_of)


@pytest.mark.parametrize("isa", SETS)
def test_every_instruction_set(isa, answers):
    same(isa, answers)


def built(write, rank=3):
    """A model of what ``write(b, x)`` adds behind a layer, and a layer behind it."""
    b = Builder()
    made = write(b, b.linear("x", WIDTH, WIDTH, seed=1))
    b.linear(made, WIDTH, WIDTH, seed=3)
    return b.model(rank)


def wide_gate(b, x):
    """(L, 1) by (1, D): neither is as large as the result."""
    return b.add("Mul", *(b.add("ReduceMean", x, np.array([axis])) for axis in (1, 2)))


def copied(b, x):
    """A mean that is copied to all positions, for another reader than a product."""
    mean = b.add("Sigmoid", b.add("ReduceMean", x, np.array([1])))
    return b.add("Add", x, b.add("Expand", mean, np.array([1, LENGTH, 1])))


def token(b, x):
    """A constant that is repeated for each sample, of which there are as many as x has."""
    batch = b.add("Slice", b.add("Shape", x), np.array([0]), np.array([1]))
    shape = b.add("Concat", batch, np.array([LENGTH, 1]), axis=0)
    return b.add("Expand", weights(1, 1, WIDTH, seed=5), shape)


MORE = {
    "a token added": (lambda b, x: b.add("Add", x, token(b, x)), {Constant: 1}),
    "a token joined": (
        lambda b, x: b.add("Tanh", b.add("Concat", token(b, x), x, axis=1)),
        {Constant: 1},
    ),
    "of itself": (lambda b, x: b.add("Mul", x, x), {Multiply: 1}),
    "with ReLU": (lambda b, x: b.add("Relu", b.add("Mul", x, b.add("Tanh", x))), {}),
    "both broadcast": (wide_gate, {Multiply: 1, Reduce: 2}),
    "by a constant of each number": (
        lambda b, x: b.add("Mul", x, weights(LENGTH, WIDTH, seed=7)),
        {Multiply: 1, Constant: 1},
    ),
    "by a constant of the last axis": (
        lambda b, x: b.add("Mul", b.add("Tanh", x), weights(WIDTH, seed=7)),
        {Multiply: 1, Constant: 1},
    ),
    "a mean taken off": (
        lambda b, x: b.add("Sub", x, b.add("ReduceMean", x, np.array([1]))),
        {Multiply: 1, Constant: 1},
    ),
    "taken off a mean": (
        lambda b, x: b.add("Sub", b.add("ReduceMean", x, np.array([2])), x),
        {Multiply: 2},
    ),
    "added along both": (
        lambda b, x: b.add("Add", *(b.add("ReduceMean", x, np.array([at])) for at in (1, 2))),
        {Multiply: 2},
    ),
    "copied": (copied, {Multiply: 1, Constant: 1}),
    "some positions": (
        lambda b, x: b.add("Slice", x, np.array([1]), np.array([5]), np.array([1])),
        {Slice: 1},
    ),
    "gathered": (lambda b, x: b.add("Gather", x, np.array([2, 3]), axis=1), {Slice: 1}),
    "shares of channels": (lambda b, x: b.add("Softmax", x, axis=-1), {Attention: 1}),
    "shares of positions": (lambda b, x: b.add("Softmax", x, axis=1), {Attention: 1}),
}


def network(name, count=5):
    """A network of ``BLOCKS``, or of layers whose product has no function in it; and windows."""
    if name in BLOCKS:
        return read(model(name)).net, windows(count)
    writes = {
        "bilinear": lambda b, x: b.add("Mul", x, b.linear(x, WIDTH, WIDTH, seed=9)),
        "token": MORE["a token added"][0],
        "constant": MORE["by a constant of each number"][0],
    }
    return read(built(writes[name])).net, windows(count, 0, (LENGTH, WIDTH))


@pytest.mark.parametrize("name", MORE)
def test_more_that_a_network_may_hold(name):
    write, wanted = MORE[name]
    made, error = served(built(write), shape=(LENGTH, WIDTH))
    assert error < 0.05
    for kind, count in wanted.items():
        assert sum(isinstance(step, kind) for step in made.net.steps) == count


@pytest.mark.parametrize(
    ("write", "wrong"),
    [
        (lambda b, x: b.add("Div", x, b.add("Exp", x)), None),
        (
            lambda b, x: b.add("Div", x, b.add("ReduceMean", x, np.array([1]))),
            r"node 'Div\d+' \(Div\) cannot run in integers: both of its operands depend",
        ),
        (
            lambda b, x: b.add("Gather", x, np.array([3, 1]), axis=1),
            r"node 'Gather\d+' \(Gather\).*its parts are not known, or not in a row",
        ),
        (
            lambda b, x: b.add("Slice", x, np.array([0]), np.array([5]), np.array([1]),
                               np.array([2])),
            r"\(Slice\).*its parts are not known, or not in a row",
        ),
    ],
)  # fmt: skip
def test_what_is_still_refused_names_node_and_operator(write, wrong):
    if wrong is None:  # a function of one number
        assert served(built(write), shape=(LENGTH, WIDTH))[1] < 0.05
        return
    with pytest.raises(ValueError, match=wrong):
        read(built(write))


@pytest.mark.parametrize(
    ("stop", "wrong"),
    [(1, None), (2, "its parts are not known"), (2**31, "its parts are not known")],
)
def test_of_a_free_axis_the_first_position_alone_is_taken(stop, wrong):
    b = Builder()
    x = b.add("Tanh", b.linear("x", WIDTH, WIDTH, seed=1))
    part = b.add("Slice", x, np.array([0]), np.array([stop]), np.array([1]))
    b.linear(part, WIDTH, WIDTH, seed=3)
    whole = b.model(3, ("length", WIDTH))
    if wrong is None:
        made = quantize(whole, windows(64, 1, (LENGTH, WIDTH)), quantizer="rtn")
        edge = edge_kernels.session(to_edge(made).SerializeToString())
        for length in (1, 4):
            x = windows(5, 2, (length, WIDTH))
            assert difference(edge.run(None, {"x": x})[0], run(whole, x)) < 0.05
        return
    with pytest.raises(ValueError, match=rf"\(Slice\).*{wrong}"):
        read(whole)


def test_a_softmax_of_many_numbers_is_refused():
    b = Builder()
    x = b.linear("x", 300, WIDTH, seed=1)
    b.linear(b.add("Softmax", x, axis=-1), WIDTH, 300, seed=3)
    with pytest.raises(ValueError, match=r"\(Softmax\).*a softmax of 300 numbers; 256 at most"):
        read(b.model(3))


def test_lookup_kernels_refuse_gates_of_functions():
    made = quantize(model("glu"), windows(64), quantizer="rtn", bits=2, settings={"ends": 4})
    with pytest.raises(ValueError, match="a function of one number, which lookup kernels are not"):
        to_lookup(made)


@pytest.mark.parametrize("name", ["squeeze-excite", "swiglu", "hard", "pooled, flat"])
def test_devices_count_what_the_server_does(name):
    split, x = read(model(name)), windows(12)
    bounds = calibrate.bounds(split.net, x)
    whole = range_graph(split, bounds, 16)
    counts = edge_kernels.session(whole.SerializeToString()).run(None, {"x": x})[0].sum(0)
    right = np.array([each.counts for each in calibrate.histograms(split.net, x, bounds, 16)])
    assert counts.shape == right.shape
    np.testing.assert_array_equal(counts.sum(1), right.sum(1))
    assert np.abs(counts - right).sum() <= 0.01 * right.sum()  # on a bin's edge, now and then


def test_a_product_without_functions_runs_beside_lookup_kernels():
    whole = built(lambda b, x: b.add("Mul", x, b.linear("x", WIDTH, WIDTH, seed=9)))
    x = windows(30, 2, (LENGTH, WIDTH))
    how = {"quantizer": "rtn", "bits": 4, "settings": {"ends": 4}}
    low = to_lookup(quantize(whole, windows(64, 1, (LENGTH, WIDTH)), **how))
    kinds = [node.op_type for node in low.graph.node]
    assert "Mul" in kinds
    assert {"LutSequential", "LutMatMul"} & set(kinds)
    y = edge_kernels.session(low.SerializeToString()).run(None, {"x": x})[0]
    assert difference(y, run(whole, x)) < 0.25
