"""Layers that read one position of many."""

from math import prod

import numpy as np
import pytest

from edge_kernels import session
from edge_kernels.integer.net import Product
from edge_kernels.quantize import quantizer
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.positions import unpicked
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.shapes import settled
from tests.edge_kernels.quantize.small import build, normal, run

HELD = {"w": normal(8, 5, 3), "b": normal(4), "v": normal(8, 4), "t": normal(4, 8)}


def picking(axis, index, layers, turned=False):
    """A convolution, maybe its transposition, one position of it, and what reads that."""
    nodes = [("Conv", ["x", "w"], ["h"], {})]
    if turned:
        nodes.append(("Transpose", ["h"], ["ht"], {"perm": [0, 2, 1]}))
    nodes += [("Gather", ["ht" if turned else "h", "at"], ["g"], {"axis": axis}), *layers]
    return build(nodes, HELD | {"at": np.array(index)}, (5, 12), "y")


GEMM = ("Gemm", ["g", "t", "b"], ["y"], {"transB": 1})
SERVED = {
    "the last": picking(2, -1, [GEMM]),
    "the first": picking(2, 0, [("Gemm", ["g", "v", "b"], ["y"], {})]),
    "one between": picking(-1, 4, [("MatMul", ["g", "v"], ["y"], {})]),
    "of an axis before": picking(1, -1, [GEMM], turned=True),
    "for two layers": picking(
        2, -1, [(*GEMM[:2], ["a"], GEMM[3]), ("MatMul", ["g", "v"], ["c"], {}),
                ("Add", ["a", "c"], ["y"], {})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_one_position(name):
    model, x = SERVED[name], normal(64, 5, 12)
    split, right = read(model), run(model, x)
    assert not split.prologue.graph.node
    np.testing.assert_allclose(evaluate(split.net, x), right, rtol=1e-4, atol=1e-5)
    made = quantizer.quantize(model, x, quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.02 * np.linalg.norm(right)


@pytest.mark.parametrize(
    "model",
    [
        picking(2, [-1], [("Flatten", ["g"], ["f"], {}), ("Gemm", ["f", "v"], ["y"], {})]),
        picking(2, -1, [("Sin", ["g"], ["f"], {}), ("Gemm", ["f", "v"], ["y"], {})]),
        picking(2, -1, [(*GEMM[:2], ["a"], GEMM[3]), ("ReduceMax", ["g"], ["m"], {}),
                        ("Add", ["a", "m"], ["y"], {})]),
    ],
    ids=["a list of one", "read by a function", "read by another, too"],
)  # fmt: skip
def test_what_else_reads_it_leaves_it(model):
    settled(model)
    before = model.SerializeToString()
    assert unpicked(model).SerializeToString() == before


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("the last", 16), ("the first", 8), ("one between", 8 * 3), ("of an axis before", 16)],
)
def test_few_positions_are_read(name, inputs):
    """The convolution makes 8 channels at 10 positions: 80 numbers."""
    layers = [step for step in read(SERVED[name]).net.steps if isinstance(step, Product)]
    assert [prod(layer.weight.shape[1:]) for layer in layers] == [5 * 3, inputs]


def test_what_no_layer_made_stays_in_float_with_its_gather():
    held = {"w": normal(1, 24, 5), "r": normal(1, 24, 8), "at": np.array(-1), "v": normal(8, 4)}
    nodes = [
        ("Transpose", ["x"], ["t"], {"perm": [2, 0, 1]}),
        ("GRU", ["t", "w", "r"], ["all"], {"hidden_size": 8}),
        ("Squeeze", ["all", "axis"], ["o"], {}),
        ("Transpose", ["o"], ["h"], {"perm": [1, 0, 2]}),
        ("Gather", ["h", "at"], ["g"], {"axis": 1}),
        ("MatMul", ["g", "v"], ["y"], {}),
    ]
    with pytest.warns(UserWarning, match="GRU"):
        split = read(build(nodes, held | {"axis": np.array([1])}, (5, 12), "y"))
    assert (split.source, split.net.shapes[0]) == ("g", (8,))
