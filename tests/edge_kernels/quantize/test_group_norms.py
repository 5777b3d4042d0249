"""Norms of channels, and of groups of them."""

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edge_kernels import session
from edge_kernels.integer.net import Norm
from edge_kernels.quantize import quantizer
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import build, normal, run
from tests.edge_kernels.quantize.test_dynamo import export

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NORMS = {
    "instance": lambda: nn.InstanceNorm1d(16, affine=True),
    "instance, bare": lambda: nn.InstanceNorm1d(16),
    "group": lambda: nn.GroupNorm(4, 16, eps=1e-3),
    "all": lambda: nn.GroupNorm(1, 16),
}


def network(norm):
    torch.manual_seed(0)
    for each in norm.parameters():
        each.data.uniform_(0.3, 1.5)
    layers = [nn.Conv1d(6, 16, 3, 2), norm, nn.ReLU(), nn.Conv1d(16, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))


def older(net, shape=(6, 50)):
    file, axes = io.BytesIO(), {"x": {0: "batch"}}
    given = (torch.randn(2, *shape),)
    torch.onnx.export(net.eval(), given, file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


EXPORTS = {"older": older, "dynamo": export, "opset 21": lambda net: export(net, opset=21)}


@pytest.mark.parametrize("how", EXPORTS)
@pytest.mark.parametrize("name", NORMS)
def test_they_run_in_integers(name, how):
    model, x = EXPORTS[how](network(NORMS[name]())), normal(40, 6, 50)
    split, right = read(model), run(model, x)
    assert any(isinstance(step, Norm) for step in split.net.steps)
    np.testing.assert_allclose(evaluate(split.net, x), right, rtol=1e-3, atol=1e-4)
    made = quantizer.quantize(model, normal(128, 6, 50, seed=1), quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.03 * np.linalg.norm(right)
    plain = run(quantizer.to_qdq(made), x)
    assert np.linalg.norm(found - plain) < 0.02 * np.linalg.norm(plain)


HELD = {"w": normal(8, 5, 3), "s": normal(8), "b": normal(8), "two": normal(2), "v": normal(8, 4)}
MEAN = [("GlobalAveragePool", ["n"], ["p"], {}), ("Flatten", ["p"], ["f"], {})]


def test_a_group_s_own_factors():
    """Before opset 21 a group has one factor and one term."""
    nodes = [
        ("Conv", ["x", "w"], ["h"], {}),
        ("GroupNormalization", ["h", "two", "two"], ["n"], {"num_groups": 2}),
        *MEAN,
        ("MatMul", ["f", "v"], ["y"], {}),
    ]
    model, x = build(nodes, HELD, (5, 12), "y"), normal(6, 5, 12)
    np.testing.assert_allclose(evaluate(read(model).net, x), run(model, x), rtol=1e-3, atol=1e-4)


def test_windows_that_are_normed_before_the_first_layer_stay_in_float():
    nodes = [
        ("InstanceNormalization", ["x", "s", "b"], ["z"], {}),
        ("Conv", ["z", "w8"], ["y"], {}),
    ]
    model = build(nodes, HELD | {"w8": normal(4, 8, 3)}, (8, 12), "y")
    split = read(model)
    assert [node.op_type for node in split.prologue.graph.node] == ["InstanceNormalization"]
