import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper

from edge_kernels import exact_int8
from edge_kernels.integer import qdq
from edge_kernels.integer.net import IntNet, Levels, Product, Relu
from edge_kernels.quantize.integer_rounding import RoundToNearest
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from tests.edge_kernels.quantize.small import (
    GRAPHS,
    build,
    classifier,
    integer_output,
    normal,
    windows,
)

PLAIN = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
FUSED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL


def model_of(net, opset=20):
    nodes, tensors = qdq.nodes(net, "x", "y", opset=opset)
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *net.shapes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *net.shapes[net.output]])],
        tensors,
    )
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    checker.check_model(model, full_check=True)
    return model


def run(model, x, level=PLAIN):
    options = exact_int8(onnxruntime.SessionOptions())
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("level", [PLAIN, FUSED])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_agrees_with_the_integers(name, level):
    split = read(GRAPHS[name])
    x = inputs(split, normal(40, 5, 12))
    net = RoundToNearest().quantize(split.net, x)
    found, right = run(model_of(net), x, level), integer_output(net, x)
    assert np.linalg.norm(found - right) < 5e-3 * np.linalg.norm(right)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_trained_classifier_agrees(bits, opset):
    split = read(classifier())
    x = inputs(split, windows(300, 5)[0])
    net = RoundToNearest(bits=bits).quantize(split.net, x)
    found, right = run(model_of(net, opset), x, FUSED), integer_output(net, x)
    assert np.linalg.norm(found - right) < 5e-3 * np.linalg.norm(right)
    assert (found.argmax(1) == right.argmax(1)).mean() >= 0.99


@pytest.mark.parametrize("name", ["residual", "pools", "affine"])
def test_values_in_between_are_within_a_step(name):
    """One layer and what follows it: nothing is rounded before the output's last rounding."""
    split = read(GRAPHS[name])
    x = inputs(split, normal(40, 5, 12))
    net = RoundToNearest().quantize(split.net, x)
    first = IntNet(net.shapes[:2], net.levels[:2], net.steps[:1], 1)
    found, right = run(model_of(first), x), integer_output(first, x)
    step = net.levels[1].scale
    assert np.abs(found - right).max() <= step * 1.001
    assert (np.abs(found - right) < step * 0.01).mean() > 0.99


def test_only_plain_operators_are_written():
    split = read(classifier())
    net = RoundToNearest().quantize(split.net, inputs(split, windows(50, 5)[0]))
    model = model_of(net)
    assert {node.domain for node in model.graph.node} == {""}
    weights = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith("weight")}
    assert len(weights) == 4
    assert set(weights.values()) == {TensorProto.INT8}


def relu_and_sum(bits):
    levels = Levels(2.0**-6, 100, bits)
    weight, zeros = np.ones((2, 1, 3), np.int8), np.zeros(2, np.int32)
    steps = [Relu(0), Product(1, weight, zeros, np.ones(2), linear=True)]
    return IntNet([(3,), (3,), (2,)], [levels, levels, None], steps, 2)


def test_sixteen_bits_need_a_new_opset():
    with pytest.raises(ValueError, match="16-bit levels need opset 21; the model's is 20"):
        qdq.nodes(relu_and_sum(16), "x", "y", opset=20)
    x = 100 * np.abs(normal(5, 3))
    right = np.rint(x * 64).sum(1) / 64
    found = run(model_of(relu_and_sum(16), opset=21), x)
    np.testing.assert_allclose(found[:, 1], right, rtol=1e-6)


def test_an_inconsistent_network_is_refused():
    net = relu_and_sum(8)
    net.shapes[2] = (5,)
    with pytest.raises(ValueError, match=r"step 1 \(Product\): it makes \(2,\), not \(5,\)"):
        qdq.nodes(net, "x", "y", opset=20)


@pytest.mark.parametrize("level", [PLAIN, FUSED])
@pytest.mark.parametrize(("groups", "rows"), [(6, 12), (3, 6), (1, 8)])
def test_groups_are_written_without_the_zeros_between_them(groups, rows, level):
    held = {"w": normal(6, 5, 3), "v": normal(rows, 6 // groups, 3)}
    nodes = [
        ("Conv", ["x", "w"], ["h"], {}),
        ("Relu", ["h"], ["r"], {}),
        ("Conv", ["r", "v"], ["y"], {"group": groups, "pads": [1, 1]}),
    ]
    split, x = read(build(nodes, held, (5, 12), "y")), normal(40, 5, 12)
    net = RoundToNearest().quantize(split.net, x)
    model = model_of(net)
    given = [{a.name: a.i for a in n.attribute} for n in model.graph.node if n.op_type == "Conv"]
    assert [each.get("group", 1) for each in given] == [1, groups]
    shapes = [list(t.dims) for t in model.graph.initializer if t.name.endswith("weight")]
    assert shapes == [[6, 5, 3], [rows, 6 // groups, 3]]
    found, right = run(model, x, level), integer_output(net, x)
    assert np.linalg.norm(found - right) < 5e-3 * np.linalg.norm(right)


def test_a_grouped_convolution_alone_is_exact():
    """No rounding in between: accumulators are the output."""
    nodes = [("Conv", ["x", "w"], ["y"], {"group": 4})]
    split, x = read(build(nodes, {"w": normal(8, 2, 3)}, (8, 12), "y")), normal(40, 8, 12)
    net = RoundToNearest().quantize(split.net, x)
    np.testing.assert_allclose(run(model_of(net), x), integer_output(net, x), rtol=1e-5, atol=1e-5)
