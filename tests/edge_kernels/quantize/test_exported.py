import pytest
import torch
from torch import nn

from edge_kernels.quantize import Report, rtn
from hypernet.networks.encoder import ConvEncoder, InputSpec, MlpEncoder
from hypernet.onnx_registry import made_once


def ops(model):
    return [node.op_type for node in model.graph.node]


def export(net, x):
    batch = torch.export.Dim("batch")
    net = net.eval()
    with made_once():
        program = torch.onnx.export(
            net, (x,), dynamo=True, verbose=False, input_names=["x"], dynamic_shapes=({0: batch},)
        )
    return program.model_proto


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    net = ConvEncoder(InputSpec(100, 8))
    for name, buffer in net.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(std=0.1)
    return export(net, torch.randn(2, 8, 100))


@pytest.mark.parametrize(("bits", "most"), [(4, 0.1), (2, 0.6)])
def test_the_encoder_with_its_batch_norms_folded(encoder, nets, bits, most):
    report = Report()
    model = rtn(encoder, bits=bits, report=report)
    assert [line.served for line in report.lines] == ["LutConv1d"] * 3 + ["LutMatMul"]
    assert {"Mul", "Add", "Relu", "Conv", "Gemm"}.isdisjoint(ops(model))
    x = nets.normal(3, 8, 100)
    fake = nets.run_float(rtn(encoder, bits=bits, fake=True), x=x)[0]
    assert nets.difference(fake, nets.run_float(encoder, x=x)[0]) < most
    assert nets.difference(nets.run(model, x=x)[0], fake) < 3e-2


def test_an_exported_mlp(nets):
    torch.manual_seed(0)
    given = export(MlpEncoder(InputSpec(32, 8)), torch.randn(2, 8, 32))
    model = rtn(given, bits=4, symmetric=False)
    assert ops(model).count("LutMatMul") == 3
    x = nets.normal(4, 8, 32)
    assert nets.difference(nets.run(model, x=x)[0], nets.run_float(given, x=x)[0]) < 0.2


def test_attention_exported_from_torch(nets):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = nn.Linear(96, 64), nn.Linear(96, 64, bias=False)
            self.v = nn.Linear(96, 96)

        def forward(self, x):
            scores = self.q(x) @ self.k(x).transpose(1, 2) / 8
            return x + torch.softmax(scores, dim=-1) @ self.v(x)

    torch.manual_seed(0)
    given = export(Attention(), torch.randn(2, 10, 96))
    report = Report()
    model = rtn(given, bits=3, report=report)
    (lut,) = [node for node in model.graph.node if node.op_type == "LutMatMul"]
    assert [list(a.ints) for a in lut.attribute if a.name == "splits"] == [[64, 64, 96]]
    assert sum(line.why == "its weights are computed at run time" for line in report.lines) == 2
    x = nets.normal(2, 10, 96)
    assert nets.difference(nets.run(model, x=x)[0], nets.run_float(given, x=x)[0]) < 0.1
