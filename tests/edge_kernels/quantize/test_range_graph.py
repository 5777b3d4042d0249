"""Graphs that count agree with counting here, value by value and window by window."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_kernels.quantize import calibrate
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.range_graph import range_graph
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import GRAPHS, build, classifier, normal, windows

BINS = 24


def counts_of(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (made.name, made.shape[0], made.shape[2]) == ("counts", "batch", BINS)
    return session.run(None, {given.name: x})[0]


def check_counts(model, x):
    split = read(model)
    seen = inputs(split, x)
    bounds = calibrate.bounds(split.net, seen, widen=0.7)  # so that some lies outside
    found = counts_of(range_graph(split, bounds, BINS), x)
    assert found.shape == (len(x), len(bounds), BINS)
    for at in range(len(x)):
        right = calibrate.histograms(split.net, seen[at : at + 1], bounds, BINS)
        for counted, wanted in zip(found[at], right, strict=True):
            assert counted.sum() == wanted.counts.sum()
            moved = np.abs(counted - wanted.counts).sum() / 2
            assert moved <= 2  # an element on an edge, by another order of sums


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_counts_of_graphs_that_have_one_thing_or_another(name):
    model = GRAPHS[name]
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    check_counts(model, normal(6, *shape, seed=4))


def test_counts_of_a_trained_classifier():
    check_counts(classifier(), windows(8, 5)[0])


def test_an_older_model_is_brought_to_the_opset_that_counts():
    nodes = [
        ("Sub", ["x", "mean"], ["centred"], {}),
        ("Conv", ["centred", "w"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("ReduceMean", ["r"], ["y"], {"axes": [2], "keepdims": 0}),
    ]
    held = {"mean": normal(5, 1), "w": normal(6, 5, 3)}
    old = build(nodes, held, (5, 12), "y", opset=13)
    made = range_graph(read(old), [(-1.0, 1.0)] * 3, BINS)
    onnx.checker.check_model(made)
    assert made.opset_import[0].version == 18
    check_counts(old, normal(3, 5, 12))


def test_the_split_is_left_as_it_was():
    split = read(classifier())
    before = split.prologue.SerializeToString()
    range_graph(split, [(-1.0, 1.0)] * 4, BINS)
    assert split.prologue.SerializeToString() == before


@pytest.mark.parametrize(
    ("bounds", "bins", "says"),
    [
        ([(-1.0, 1.0)] * 3, 8, "3 bounds for 4 values that have levels"),
        ([(-1.0, 1.0)] * 4, 1, "1 bins; 2 to 4096"),
        ([(1.0, 1.0)] * 4, 8, r"bounds from 1\.0 to 1\.0"),
        ([(0.0, np.inf)] * 4, 8, "low < high"),
    ],
)
def test_what_is_wrong_is_named(bounds, bins, says):
    with pytest.raises(ValueError, match=says):
        range_graph(read(classifier()), bounds, bins)
