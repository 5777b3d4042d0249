"""Networks as torch's default exporter writes them, in float and in integers."""

import numpy as np
import pytest
import torch
from torch import nn

import edge_kernels
from edge_kernels import quantize
from edge_kernels.quantize import quantizer
from edge_kernels.sequential import Fusion, fuse
from hypernet.onnx_registry import made_once
from tests.edge_kernels.quantize.small import normal, run


def conv(*after):
    return nn.Sequential(nn.Conv1d(6, 32, 3), nn.ReLU(), *after)


NETS = {
    "flatten": lambda: conv(nn.Flatten(), nn.Linear(1536, 4)),
    "adaptive mean": lambda: conv(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 4)),
    "adaptive largest": lambda: conv(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(32, 4)),
    "adaptive four": lambda: conv(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, 4)),
    "mean": lambda: conv(nn.AvgPool1d(2), nn.Flatten(), nn.Linear(768, 4)),
    "largest": lambda: conv(nn.MaxPool1d(3, 2, 1), nn.Flatten(), nn.Linear(768, 4)),
}


def export(net, batch=None, opset=18, shape=(6, 50), **more):
    """A fixed batch, or a free one."""
    free = torch.export.Dim("batch", min=1, max=4096)
    with made_once():
        return torch.onnx.export(
            net.eval(),
            (torch.randn(batch or 3, *shape),),
            dynamo=True,
            opset_version=opset,
            input_names=["x"],
            dynamic_shapes=None if batch else ({0: free},),
            verbose=False,
            **more,
        ).model_proto


def served(model, x):
    return edge_kernels.session(model).run(None, {"x": x})[0]


def close(found, right, share):
    assert found.shape == right.shape
    assert np.linalg.norm(found - right) < share * np.linalg.norm(right)


@pytest.fixture(scope="module", params=[(name, batch) for name in NETS for batch in (None, 1)])
def exported(request):
    name, batch = request.param
    torch.manual_seed(0)
    return export(NETS[name](), batch), normal(batch or 5, 6, 50)


def test_fused_into_one_operator(exported):
    model, x = exported
    low, report = quantize.rtn(model, bits=4, gain=0), Fusion()
    fused = fuse(low, report=report)
    assert [node.op_type for node in fused.graph.node] == ["LutSequential"], report.left
    np.testing.assert_allclose(served(fused, x), served(low, x), rtol=1e-4, atol=1e-4)


def test_in_integers(exported):
    model, x = exported
    made = quantizer.quantize(model, normal(64, 6, 50, seed=1), quantizer="rtn")
    right = run(model, x)
    close(served(quantizer.to_edge(made), x), right, 0.06)
    close(run(quantizer.to_qdq(made), x), right, 0.06)


def test_a_fixed_batch_of_more_than_one():
    torch.manual_seed(0)
    model, x = export(NETS["flatten"](), 4), normal(4, 6, 50)
    made = quantizer.quantize(model, normal(64, 6, 50, seed=1), quantizer="rtn")
    close(served(quantizer.to_edge(made), x), run(model, x), 0.06)


class Unit(nn.Module):
    def __init__(self, turned):
        super().__init__()
        self.first, self.last, self.turned = nn.Linear(20, 32), nn.Linear(32, 8), turned

    def forward(self, x):
        x = self.first(x.abs() if self.turned else x).clamp(min=0)
        return nn.functional.normalize(self.last(x), dim=-1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_division_by_the_vector_s_length_stays_in_float(turned):
    torch.manual_seed(0)
    model, x = export(Unit(turned), shape=(20,)), normal(5, 20)
    made = quantizer.quantize(model, normal(64, 20, seed=1), quantizer="rtn")
    assert made.split.epilogue[0][-1].op_type == "Div"
    for found in (served(quantizer.to_edge(made), x), run(quantizer.to_qdq(made), x)):
        close(found, run(model, x), 0.06)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_fixed_batch_behind_a_float_prologue(batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.conv = nn.BatchNorm1d(6), nn.Conv1d(6, 64, 3)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.conv(self.norm(x).abs()).relu().mean(-1))

    torch.manual_seed(0)
    model, x = export(Net(), batch), normal(64, 6, 50, seed=1)
    made = quantizer.quantize(model, x, quantizer="rtn")
    assert len(made.split.prologue.graph.node) > 0
    assert quantizer.inputs(made.split, x).shape == (64, 6, 50)
    right = np.concatenate([run(model, x[at : at + batch]) for at in range(0, 60, batch)])
    edge = edge_kernels.session(quantizer.to_edge(made))
    found = [edge.run(None, {"x": x[at : at + batch]})[0] for at in range(0, 60, batch)]
    close(np.concatenate(found), right, 0.06)


def test_an_export_without_optimisation_is_served():
    layers = [nn.Conv1d(32, 32, 5, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
    net = conv(*layers, nn.Flatten(), nn.Linear(32 * 44, 4))
    report = quantize.Report()
    low = quantize.rtn(export(net, optimize=False), bits=4, gain=0, report=report)
    assert [line.why for line in report.lines] == [""] * 3
    assert [node.op_type for node in fuse(low).graph.node] == ["LutSequential"]
