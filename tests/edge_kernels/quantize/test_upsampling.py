"""Layers that make more positions than they read."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from edge_kernels import session
from edge_kernels.quantize import quantizer
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.shapes import settled
from edge_kernels.quantize.upsampling import interleaved
from tests.edge_kernels.quantize.small import build, normal, run
from tests.edge_kernels.quantize.test_dynamo import export
from tests.edge_kernels.quantize.test_group_norms import older

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
HELD = {"w": normal(6, 5, 3), "b": normal(6)}


def kinds(model):
    return [node.op_type for node in model.graph.node]


class Autoencoder(nn.Module):
    """Windows (6, 48) and back, by one of two ways."""

    def __init__(self, way):
        super().__init__()
        up = {
            "transposed": lambda a, b: nn.ConvTranspose1d(a, b, 4, 2, 1),
            "nearest": lambda a, b: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(a, b, 1)),
        }[way]
        down = [nn.Conv1d(6, 16, 5, 2, 2), nn.ReLU(), nn.Conv1d(16, 8, 5, 2, 2), nn.ReLU()]
        self.layers = nn.Sequential(*down, up(8, 16), nn.ReLU(), up(16, 6))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("how", [older, export])
@pytest.mark.parametrize("way", ["transposed", "nearest"])
def test_an_autoencoder_runs_in_integers(way, how):
    torch.manual_seed(0)
    model, x = how(Autoencoder(way), shape=(6, 48)), normal(40, 6, 48)
    split, right = read(model), run(model, x)
    assert not split.prologue.graph.node
    np.testing.assert_allclose(evaluate(split.net, x), right, rtol=1e-4, atol=1e-5)
    made = quantizer.quantize(model, normal(128, 6, 48, seed=1), quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.03 * np.linalg.norm(right)
    plain = run(quantizer.to_qdq(made), x)
    assert np.linalg.norm(found - plain) < 0.02 * np.linalg.norm(plain)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), kernel=st.integers(1, 7), stride=st.integers(1, 4), length=st.integers(1, 9))
def test_transposed_convolutions_against_onnx_runtime(data, kernel, stride, length):
    pads = [data.draw(st.integers(0, kernel - 1)) for _ in range(2)]
    more = data.draw(st.integers(0, stride - 1))
    assume((length - 1) * stride + kernel + more > sum(pads))
    how = {"strides": [stride], "pads": pads, "output_padding": [more]}
    inputs = ["x", "w", "b"] if data.draw(st.booleans()) else ["x", "w"]
    held = {"w": normal(5, 6, kernel), "b": normal(6)}
    model = build([("ConvTranspose", inputs, ["y"], how)], held, (5, length), "y")
    x, right = normal(2, 5, length), run(model, normal(2, 5, length))
    made = interleaved(settled(model))
    if right.shape[2] % stride:
        assert kinds(made) == ["ConvTranspose"]
    np.testing.assert_allclose(run(made, x), right, rtol=1e-4, atol=1e-5)


def resized(given, **more):
    nodes = [("Conv", ["x", "w"], ["h"], {}), ("Resize", ["h", "", "by"], ["y"], given)]
    return settled(build(nodes, HELD | {"by": np.float32([1, 1, 3])} | more, (5, 12), "y"))


FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize("given", [FLOOR, {}], ids=["as torch writes it", "as ONNX has it"])
def test_positions_are_repeated(given):
    model = resized({"mode": "nearest", **given})
    x, right = normal(2, 5, 12), run(model, normal(2, 5, 12))
    made = interleaved(model)
    assert kinds(made) == ["Conv", "Concat", "Transpose", "Reshape", "Transpose"]
    np.testing.assert_array_equal(run(made, x), right)


def test_a_length_that_is_told():
    nodes = [("Conv", ["x", "w"], ["h"], {}), ("Resize", ["h", "", "", "to"], ["y"], FLOOR)]
    model = settled(build(nodes, HELD | {"to": np.array([2, 6, 20])}, (5, 12), "y"))
    x, right = normal(2, 5, 12), run(model, normal(2, 5, 12))
    made = interleaved(model)
    assert "Resize" not in kinds(made)
    np.testing.assert_array_equal(run(made, x), right)


@pytest.mark.parametrize(
    "model",
    [
        resized({"mode": "linear"}),
        resized({"mode": "nearest", **FLOOR}, by=np.float32([1, 1, 1.5])),
        resized({"mode": "nearest", **FLOOR}, by=np.float32([1, 2, 2])),
        resized({"mode": "nearest", **FLOOR, "nearest_mode": "ceil"}),
    ],
    ids=["linear", "no whole factor", "channels", "another nearest"],
)
def test_what_else_resizes_stays(model):
    assert kinds(interleaved(model)) == ["Conv", "Resize"]
