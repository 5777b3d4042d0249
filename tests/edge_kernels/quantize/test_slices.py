"""Encoders of a sensor each, which read their channels of one input."""

import numpy as np
import pytest
import torch
from torch import nn

from edge_kernels.integer.net import Product, Slice, Transpose
from edge_kernels.quantize import quantizer
from edge_kernels.quantize.reader import read
from hypernet.onnx_registry import made_once
from tests.edge_kernels.quantize.small import build, normal, run

WAYS = ("slice", "negative", "split", "chunk", "last", "shared")


class Sensors(nn.Module):
    """An accelerometer's and a gyroscope's encoder, concatenated."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.a = nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool1d(2))
        self.b = nn.Sequential(nn.Conv1d(3, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU())
        self.after = nn.Sequential(nn.Conv1d(16, 16, 3), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        match self.way:
            case "last":
                u, v = x[..., :3].transpose(1, 2), x[..., 3:].transpose(1, 2)
            case "split":
                u, v = torch.split(x, 3, 1)
            case "chunk":
                u, v = x.chunk(2, 1)
            case "negative":
                u, v = x[:, :-3], x[:, -3:]
            case _:
                u, v = x[:, :3], x[:, 3:]
        b = self.a if self.way == "shared" else self.b
        return self.head(self.after(torch.cat([self.a(u), b(v)], 1)).mean(-1))


def export(net, *shape):
    with made_once():
        return torch.onnx.export(
            net.eval(),
            (torch.randn(2, *shape),),
            dynamo=True,
            verbose=False,
            input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        ).model_proto


def far(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


@pytest.mark.parametrize("way", WAYS)
def test_two_encoders_of_one_input(way):
    torch.manual_seed(0)
    shape = (50, 6) if way == "last" else (6, 50)
    model, x = export(Sensors(way), *shape), normal(5, *shape)
    split = read(model)
    assert [step.x for step in split.net.steps[:1]] == [0]
    first = [s for s in split.net.steps if isinstance(s, Product) and s.weight.shape[2] == 6]
    assert len(first) == 2
    assert not first[0].weight[:, :, 3:].any()
    assert not first[1].weight[:, :, :3].any()
    assert sum(isinstance(step, Transpose) for step in split.net.steps) <= (way == "last")
    made = quantizer.quantize(model, normal(64, *shape, seed=1), quantizer="rtn")
    right = run(model, x)
    edge, plain = (run_edge(made, x), run(quantizer.to_qdq(made), x))
    assert max(far(edge, right), far(plain, right)) < 0.05


def run_edge(made, x):
    import edge_kernels

    return edge_kernels.session(quantizer.to_edge(made)).run(None, {"x": x})[0]


CONV = {"kernel_shape": [3], "pads": [1, 1]}
ONE = {"starts": [0], "ends": [3], "axes": [1]}


def test_channels_that_nobody_reads_stay_out_of_the_integers():
    nodes = [
        ("Slice", ["x", "starts", "ends", "axes"], ["s"], {}),
        ("Conv", ["s", "w"], ["y"], CONV),
    ]
    split = read(build(nodes, {**ONE, "w": normal(4, 3, 3)}, (6, 20), "y"))
    assert split.net.shapes[0] == (3, 20)
    assert [node.op_type for node in split.prologue.graph.node] == ["Slice"]


def test_half_of_what_a_layer_made_is_read_by_the_next():
    nodes = [
        ("Conv", ["x", "w"], ["c"], CONV),
        ("Slice", ["c", "starts", "ends", "axes"], ["s"], {}),
        ("Conv", ["s", "v"], ["y"], CONV),
    ]
    constants = {**ONE, "w": normal(8, 6, 3), "v": normal(4, 3, 3)}
    model = build(nodes, constants, (6, 20), "y")
    made = quantizer.quantize(model, normal(64, 6, 20, seed=1), quantizer="rtn")
    x = normal(5, 6, 20)
    assert far(run_edge(made, x), run(model, x)) < 0.03


@pytest.mark.parametrize("transposed", [0, 1])
def test_linear_layers_of_a_part_of_the_numbers_each(transposed):
    weight = normal(3, 5)
    nodes = [
        ("Split", ["x", "sizes"], ["a", "b"], {"axis": 1}),
        ("Gemm", ["a", "w"], ["c"], {"transB": transposed}),
        ("MatMul", ["b", "v"], ["d"], {}),
        ("Add", ["c", "d"], ["y"], {}),
    ]
    constants = {"sizes": [3, 4], "w": weight.T.copy() if transposed else weight, "v": normal(4, 5)}
    model = build(nodes, constants, (7,), "y")
    made = quantizer.quantize(model, normal(64, 7, seed=1), quantizer="rtn")
    x = normal(9, 7)
    assert far(run_edge(made, x), run(model, x)) < 0.03


@pytest.mark.parametrize(
    "constants",
    [
        {"starts": [0], "ends": [6], "axes": [1], "steps": [2]},  # every second channel
        {"starts": [0], "ends": [10], "axes": [2], "steps": [2]},
        {"starts": [0, 0], "ends": [3, 10], "axes": [1, 2], "steps": [1, 1]},
    ],
)
def test_other_slices_between_layers_are_refused_by_name(constants):
    nodes = [
        ("Conv", ["x", "w"], ["c"], CONV),
        ("Slice", ["c", "starts", "ends", "axes", "steps"], ["s"], {}),
        ("Conv", ["s", "v"], ["y"], CONV),
    ]
    rows = 8 if constants["axes"] == [2] else 3
    held = {**constants, "w": normal(8, 6, 3), "v": normal(4, rows, 3)}
    with pytest.raises(ValueError, match=r"node1.*Slice.*cannot run in integers"):
        read(build(nodes, held, (6, 20), "y"))


def test_positions_that_a_layer_reads_are_a_step_of_their_own():
    nodes = [
        ("Conv", ["x", "w"], ["c"], CONV),
        ("Slice", ["c", "starts", "ends", "axes"], ["s"], {}),
        ("Conv", ["s", "v"], ["y"], CONV),
    ]
    held = {"starts": [2], "ends": [12], "axes": [2], "w": normal(8, 6, 3), "v": normal(4, 8, 3)}
    right_to_a_step(build(nodes, held, (6, 20), "y"))


def right_to_a_step(model):
    assert len([step for step in read(model).net.steps if isinstance(step, Slice)]) < 2
    made = quantizer.quantize(model, normal(64, 6, 20, seed=1), quantizer="rtn")
    x = normal(5, 6, 20)
    assert far(run_edge(made, x), run(model, x)) < 0.03


def test_a_part_may_be_summed_too():
    nodes = [
        ("Conv", ["x", "w"], ["c"], CONV),
        ("Slice", ["c", "starts", "ends", "axes"], ["s"], {}),
        ("Conv", ["s", "v"], ["d"], CONV),
        ("Add", ["d", "s"], ["y"], {}),
    ]
    held = {**ONE, "w": normal(8, 6, 3), "v": normal(3, 3, 3)}
    right_to_a_step(build(nodes, held, (6, 20), "y"))


def test_a_function_may_read_a_half():
    """A gated linear unit: a Split of which a node of one input reads a part."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], CONV),
        ("Split", ["c", "sizes"], ["a", "b"], {"axis": 1}),
        ("Sigmoid", ["b"], ["s"], {}),
        ("Mul", ["a", "s"], ["g"], {}),
        ("Conv", ["g", "v"], ["y"], CONV),
    ]
    constants = {"sizes": [4, 4], "w": normal(8, 6, 3), "v": normal(4, 4, 3)}
    right_to_a_step(build(nodes, constants, (6, 20), "y"))
