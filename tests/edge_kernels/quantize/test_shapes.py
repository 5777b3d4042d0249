"""Shapes that a graph computes at run time, as torch's older exporter writes a view."""

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from edge_kernels import session
from edge_kernels.quantize import quantizer, rtn
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.shapes import settled
from edge_kernels.sequential import Fusion, fold, fuse
from tests.edge_kernels.quantize.small import build, normal, run

VIEWS = {
    "rest": lambda x: x.view(x.size(0), -1),
    "sizes": lambda x: x.view(x.shape[0], x.shape[1] * x.shape[2]),
    "batch": lambda x: x.view(-1, x.shape[1] * x.shape[2]),
}


class Net(nn.Module):
    """Windows as one row of numbers; convolutions; a view before the last layer."""

    def __init__(self, view):
        super().__init__()
        self.conv, self.head = nn.Conv1d(6, 32, 5), nn.Linear(32 * 20, 4)
        self.view = view

    def forward(self, x):
        x = x.view(x.size(0), 6, -1)
        return self.head(self.view(nn.functional.max_pool1d(self.conv(x).relu(), 2)))


@pytest.fixture(scope="module", params=[(name, opset) for name in VIEWS for opset in (13, 17)])
def exported(request):
    name, opset = request.param
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.onnx.export(
        Net(VIEWS[name]).eval(),
        (torch.randn(3, 264),),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
    )
    return onnx.load_from_string(file.getvalue())


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def close(found, right, share):
    assert found.shape == right.shape
    assert np.linalg.norm(found - right) < share * np.linalg.norm(right)


@pytest.mark.parametrize("batch", [1, 5])
def test_fused_into_one_operator(exported, batch):
    low, report = rtn(exported, bits=4, gain=0), Fusion()
    fused = fuse(low, report=report)
    assert [node.op_type for node in fused.graph.node] == ["LutSequential"], report.left
    x = normal(batch, 264)
    floats = run(exported, x)
    close(session(fused).run(None, {"x": x})[0], session(low).run(None, {"x": x})[0], 1e-5)
    close(session(low).run(None, {"x": x})[0], floats, 0.2)


def test_in_integers(exported):
    made = quantizer.quantize(exported, normal(64, 264, seed=1), quantizer="rtn")
    x = normal(5, 264)
    close(session(quantizer.to_edge(made)).run(None, {"x": x})[0], run(exported, x), 0.06)


def viewed(*more, to="to"):
    """A Reshape of ``x`` (batch, 4, 6) to (batch, 24)."""
    return build(
        [
            ("Shape", ["x"], ["shape"], {}),
            ("Gather", ["shape", "zero"], ["samples"], {}),
            ("Concat", ["samples", "rest"], ["to"], {"axis": 0}),
            *more,
            ("Reshape", ["x", to], ["y"], {}),
        ],
        {"zero": np.array([0]), "rest": np.array([24]), "many": np.array([99])},
        (4, 6),
        "y",
    )


def ops(model):
    return [node.op_type for node in model.graph.node]


def test_what_made_the_shape_goes():
    model = settled(viewed())
    assert ops(model) == ["Reshape"]
    x = normal(3, 4, 6)
    np.testing.assert_array_equal(run(model, x), x.reshape(3, 24))


def test_what_made_the_shape_stays_where_something_else_reads_it():
    model = viewed()
    model.graph.output.append(helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [3]))
    assert ops(settled(model)) == ["Shape", "Reshape"]


def test_the_traced_batch_of_an_annotated_output_is_not_believed():
    model = viewed(("Mod", ["to", "many"], ["same"], {}), to="same")  # no inference computes it
    dims = model.graph.output[0].type.tensor_type.shape.dim
    for size in (3, 24):
        dims.add(dim_value=size)
    assert "Mod" in ops(settled(model))
    x = normal(5, 4, 6)
    assert run(settled(model), x).shape == (5, 24)


def test_weights_are_known_by_their_shapes_alone(monkeypatch):
    seen = []
    infer = onnx.shape_inference.infer_shapes
    monkeypatch.setattr(
        onnx.shape_inference,
        "infer_shapes",
        lambda model, **given: seen.append(model.ByteSize()) or infer(model, **given),
    )
    nodes = [("MatMul", ["x", "w"], ["h"], {}), ("Relu", ["h"], ["y"], {})]
    model = settled(fold(build(nodes, {"w": normal(64, 640)}, (64,), "y")))
    assert max(seen) < 1000  # together they may be more than a protobuf holds
    (known,) = [value for value in model.graph.value_info if value.name == "h"]
    assert known.type.tensor_type.shape.dim[1].dim_value == 640


def test_a_shape_that_stays_open_is_refused_by_who_reads_it():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Shape", ["c"], ["shape"], {}),
        ("ConstantOfShape", ["shape"], ["zeros"], {}),
        ("Concat", ["c", "zeros"], ["y"], {"axis": 1}),
    ]
    with pytest.raises(ValueError, match=r"'node3' \(Concat\) cannot run in integers: it reads ze"):
        read(build(nodes, {"w": normal(4, 5, 3)}, (5, 12), "y"))
