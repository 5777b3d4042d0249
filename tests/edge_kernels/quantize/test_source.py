"""Where a model's integers begin."""

import numpy as np
import pytest

from edge_kernels import session
from edge_kernels.quantize import quantizer
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import build, normal, run

HELD = {
    "a": normal(5, 5, 3),
    "b": normal(5, 5, 3, seed=1),
    "v": normal(10, 4),
    "s": normal(5),
    "u": np.abs(normal(5)) + 1,
    "axes": np.array([2]),
    "half": np.float32([0.5]),
}
PADS = {"pads": [1, 1]}
POOL = {"kernel_shape": [3], "pads": [1, 1]}
NORM = ["s", "s", "s", "u"]
END = [("ReduceMean", ["c", "axes"], ["m"], {"keepdims": 0}), ("MatMul", ["m", "v"], ["y"], {})]
JOINED = ("Concat", ["f", "g"], ["c"], {"axis": 1})
SECOND = ("Conv", ["x", "b"], ["g"], PADS)


def first(kind, given, more=()):
    """A node before the first layer, which a second branch does not have."""
    return [(kind, ["x", *more], ["p"], given), ("Conv", ["p", "a"], ["f"], PADS)]


BRANCHED = {
    "a pooled branch first": [*first("MaxPool", POOL), SECOND, JOINED, *END],
    "a residual of the input": [
        *first("BatchNormalization", {}, NORM),
        ("Add", ["x", "f"], ["r"], {}),
        ("Concat", ["r", "r"], ["c"], {"axis": 1}),
        *END,
    ],
    "several scales": [
        ("AveragePool", ["x"], ["p"], {"kernel_shape": [2], "strides": [2]}),
        ("Conv", ["p", "a"], ["f"], PADS),
        SECOND,
        ("ReduceMean", ["f", "axes"], ["fm"], {"keepdims": 0}),
        ("ReduceMean", ["g", "axes"], ["gm"], {"keepdims": 0}),
        ("Concat", ["fm", "gm"], ["m"], {"axis": 1}),
        END[1],
    ],
    "two that begin apart": [
        *first("MaxPool", POOL),
        ("BatchNormalization", ["x", *NORM], ["q"], {}),
        ("Conv", ["q", "b"], ["g"], PADS),
        JOINED,
        *END,
    ],
    "with a function": [*first("MaxPool", POOL), ("Conv", ["x", "b"], ["h"], PADS),
                        ("Sigmoid", ["h"], ["g"], {}), JOINED, *END],
}  # fmt: skip


@pytest.mark.parametrize("name", BRANCHED)
def test_branches_begin_where_the_earliest_does(name):
    model, x = build(BRANCHED[name], HELD, (5, 12), "y"), normal(64, 5, 12)
    split, right = read(model), run(model, x)
    assert (split.source, len(split.prologue.graph.node)) == ("x", 0)
    np.testing.assert_allclose(evaluate(split.net, x), right, rtol=1e-4, atol=1e-5)
    made = quantizer.quantize(model, x, quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.03 * np.linalg.norm(right)


def test_what_all_branches_have_before_them_stays_in_float():
    nodes = [("Sub", ["x", "half"], ["z"], {}), *BRANCHED["a pooled branch first"]]
    nodes = [(kind, ["z" if at and n == "x" else n for n in names], *rest)
             for at, (kind, names, *rest) in enumerate(nodes)]  # fmt: skip
    split = read(build(nodes, HELD, (5, 12), "y"))
    assert (split.source, [n.op_type for n in split.prologue.graph.node]) == ("z", ["Sub"])


def test_who_reads_the_input_s_shape_alone_begins_no_branch():
    nodes = [
        ("Exp", ["x"], ["z"], {}),
        ("Conv", ["z", "a"], ["h"], PADS),
        ("ReduceMean", ["h", "axes"], ["p"], {}),
        ("Sigmoid", ["p"], ["f"], {}),
        ("Shape", ["x"], ["sizes"], {}),
        ("Gather", ["sizes", "none"], ["batch"], {}),
        ("Concat", ["batch", "rest"], ["all"], {"axis": 0}),
        ("Reshape", ["f", "all"], ["g"], {}),
        ("MatMul", ["g", "w"], ["y"], {}),
    ]
    more = {"none": np.array([0]), "rest": np.array([-1]), "w": normal(5, 4)}
    assert read(build(nodes, HELD | more, (5, 12), "y")).source == "z"
