"""Pools in two dimensions that are pools over time."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_kernels.narrow import narrowed

AXES = "axes"  # stands for two axes, as the opset writes them
SERVED = [
    (-2, "MaxPool", {"kernel_shape": [1, 3], "strides": [1, 2], "pads": [0, 1, 0, 1]}),
    (2, "MaxPool", {"kernel_shape": [1, 3], "dilations": [1, 2]}),
    (3, "AveragePool", {"kernel_shape": [4, 1], "strides": [2, 1], "pads": [1, 0, 2, 0]}),
    (-1, "AveragePool", {"kernel_shape": [4, 1], "count_include_pad": 1, "pads": [1, 0, 1, 0]}),
    (-2, "AveragePool", {"kernel_shape": [1, 4]}),
    (2, "GlobalAveragePool", {}),
    (-1, "GlobalMaxPool", {}),
    (-2, "ReduceMean", {AXES: [-1, -2]}),
    (-2, "ReduceMax", {AXES: [-2, -1]}),
    (2, "ReduceMean", {AXES: [2, 3]}),
    (-1, "ReduceMax", {AXES: [-1, -2, -3]}),
    (1, "ReduceMean", {AXES: [1, 3]}),
]
LEFT = [
    (-2, "MaxPool", {"kernel_shape": [3, 1], "pads": [1, 0, 1, 0]}),  # over the axis of length 1
    (-2, "AveragePool", {"kernel_shape": [1, 3], "pads": [1, 0, 1, 0]}),
    (1, "MaxPool", {"kernel_shape": [1, 3]}),  # over channels
    (-2, "ReduceMean", {AXES: [2, 3]}),  # counted from different ends
    (-2, "ReduceMax", {AXES: [-2]}),
]


def model_of(axis, op, given, opset=18, read=False):
    """Unsqueeze, a pool, Squeeze; ``read``: the result between them is an output, too."""
    given = dict(given)
    axes = given.pop(AXES, None)
    constants = {"at": np.array([axis], np.int64)}
    inputs = ["wide"]
    if axes and opset >= 18:
        inputs.append("over")
        constants["over"] = np.array(axes, np.int64)
    elif axes:
        given["axes"] = axes
    nodes = [
        helper.make_node("Unsqueeze", ["x", "at"], ["wide"]),
        helper.make_node(op, inputs, ["pooled"], **given),
        helper.make_node("Squeeze", ["pooled", "at"], ["y"]),
    ]
    ends = ["y", "pooled"] if read else ["y"]
    graph = helper.make_graph(
        nodes,
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 12])],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in ends],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def run(model, x):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize(("axis", "op", "given"), SERVED)
def test_a_pool_between_is_one_node_that_computes_the_same(axis, op, given, opset):
    model = model_of(axis, op, given, opset)
    x = np.random.default_rng(0).standard_normal((3, 5, 12)).astype(np.float32)
    right = run(model, x)
    assert [node.op_type for node in narrowed(model).graph.node] == [op]
    np.testing.assert_allclose(run(model, x), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("axis", "op", "given"), LEFT)
def test_what_is_not_surely_such_a_pool_stays(axis, op, given):
    assert len(narrowed(model_of(axis, op, given)).graph.node) == 3


def test_a_value_between_that_others_read_stays():
    assert len(narrowed(model_of(*SERVED[0], read=True)).graph.node) == 3
