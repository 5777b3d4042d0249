import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_kernels.quantize import Report, rtn


def ops(model):
    return [node.op_type for node in model.graph.node]


def only_line(model):
    report = Report()
    kept = rtn(model, bits=4, report=report)
    (line,) = report.lines
    assert kept == model
    return line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"op": "Gemm", "given": {"transA": 1}}, "transA is set"),
        ({"op": "Conv", "weights": (64, 16, 3), "given": {"group": 2}}, "grouped convolution, 2"),
        ({"op": "Conv", "weights": (64, 16, 3, 3)}, "a 2-D convolution"),
        (
            {"op": "Conv", "weights": (64, 16, 3), "given": {"pads": [-1, 0]}},
            "its pads are [-1, 0]",
        ),
        (
            {
                "op": "Conv",
                "weights": (64, 16, 3),
                "given": {"auto_pad": "SAME_UPPER", "strides": [2]},
            },
            "auto_pad is SAME_UPPER with a stride",
        ),
        ({"op": "Conv", "weights": (64, 16, 3), "more": ["x"]}, "its bias is computed"),
        ({"weights": (3, 64, 96)}, "its weights have 3 axes; 2 are served"),
        ({"weights": (12, 10)}, "too small: 2240 bytes packed"),
        ({"op": "Gemm", "more": ["x"]}, "its C is not a constant row"),
    ],
)
def test_what_is_not_served_stays_and_says_why(product, nets, options, why):
    shape = options.get("weights", (128, 96))
    line = only_line(product(**(options | {"weights": nets.normal(*shape)})))
    assert line.served == "float"
    assert line.before == line.after == 4 * np.prod(shape)
    assert why in line.why


def test_a_bias_that_is_not_finite_stays(product, nets):
    bias = np.full(96, np.inf, np.float32)
    line = only_line(product("Gemm", weights=nets.normal(128, 96), more=["b"], b=bias))
    assert line.why == "its bias holds NaN or infinity"


def test_a_product_without_weights_stays():
    node = helper.make_node("MatMul", ["x"], ["y"])
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 64]) for n in "xy"]
    graph = helper.make_graph([node], "test", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert only_line(model).why == "it has no weights"


def test_a_product_without_a_name_takes_no_other_nodes(nets):
    nodes = [("MatMul", ["x", "w"], ["h"], {}), ("Sin", ["h"], ["y"], {})]
    model = nets.build(nodes, {"w": nets.normal(64, 64)}, [("x", 2)], [("y", 2)])
    model.graph.node[0].name, model.graph.node[1].name = "", "h"
    x = nets.normal(5, 64)
    for fake in (False, True):
        low = rtn(model, bits=4, gain=0, fake=fake)
        assert [node.name for node in low.graph.node] == ["", "h"]
        nets.run(low, x=x)  # ONNX Runtime refuses two nodes of one name


def test_an_input_that_nobody_reads_keeps_its_default(product, nets):
    model = product(spare=np.ones(3, np.float32))
    model.graph.input.append(helper.make_tensor_value_info("spare", TensorProto.FLOAT, [3]))
    low = rtn(model, bits=4)
    assert ops(low) == ["LutMatMul"]
    nets.run(low, x=nets.normal(5, 128))


def test_a_model_that_is_rounded_twice_imports_the_domain_once(mlp, nets):
    once = rtn(mlp, bits=4, skip=["node2"])
    twice = rtn(once, bits=4)
    assert [each.domain for each in twice.opset_import] == ["", "flwr.edge"]
    x = nets.normal(5, 128)
    (found,), (right,) = (nets.run(model, x=x) for model in (twice, rtn(mlp, bits=4)))
    np.testing.assert_array_equal(found, right)


def test_weights_that_are_not_finite_stay(product, nets):
    weights = nets.normal(128, 96)
    weights[3, 4] = np.nan
    report = Report()
    model = rtn(product(weights=weights), bits=4, report=report)
    assert ops(model) == ["MatMul"]
    assert report.lines[0].why == "its weights hold NaN or infinity"


def test_double_weights_stay(nets):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [None, 64])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 64])],
        [numpy_helper.from_array(np.ones((64, 64)), "w")],
    )
    assert only_line(helper.make_model(graph)).why == "its weights are float64; float32 is served"


def test_a_constant_on_the_left_stays(nets):
    nodes = [("MatMul", ["w", "x"], ["y"], {})]
    model = nets.build(nodes, {"w": nets.normal(64, 64)}, [("x", 2)], [("y", 2)])
    assert only_line(model).why == "its constant is the left operand"


def test_weights_that_an_input_may_override_stay(product):
    model = product()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [128, 96]))
    assert only_line(model).why == "its weights 'w' are an input of the model, too"


def test_before_ir_4_initializers_were_inputs_too(product):
    model = product()
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [128, 96]))
    found = rtn(model, bits=4)
    assert ops(found) == ["LutMatMul"]
    assert [value.name for value in found.graph.input] == ["x"]


@pytest.mark.parametrize(
    ("after", "constant"),
    [
        (("Add", None, "c"), (3, 96)),  # differs by row of x
        (("Add", None, "c"), (1, 1, 96)),  # adds an axis
        (("Sub", "c", None), (96,)),
        (("Div", "c", None), (96,)),
        (("Mul", None, None), (96,)),
        (("Tanh", None), (96,)),
    ],
)
def test_what_follows_is_folded_only_if_it_can_be(product, nets, after, constant):
    model = rtn(product(after=[after], c=nets.normal(*constant)), bits=4)
    assert ops(model) == ["LutMatMul", after[0]]


def test_a_factor_of_zero_is_folded_and_a_division_by_it_is_not(product):
    zero = np.zeros(96, np.float32)
    assert ops(rtn(product(after=[("Mul", None, "c")], c=zero), bits=4)) == ["LutMatMul"]
    assert ops(rtn(product(after=[("Div", None, "c")], c=zero), bits=4)) == ["LutMatMul", "Div"]


def test_what_others_read_is_not_folded(nets):
    nodes = [
        ("MatMul", ["x", "w"], ["h"], {}),
        ("Relu", ["h"], ["y"], {}),
        ("Tanh", ["h"], ["z"], {}),
    ]
    model = nets.build(nodes, {"w": nets.normal(64, 64)}, [("x", 2)], [("y", 2), ("z", 2)])
    assert ops(rtn(model, bits=4)) == ["LutMatMul", "Relu", "Tanh"]
    inner = nets.build(nodes[:2], {"w": nets.normal(64, 64)}, [("x", 2)], [("y", 2), ("h", 2)])
    assert ops(rtn(inner, bits=4)) == ["LutMatMul", "Relu"]


def test_batch_norm_is_folded(product, nets):
    parts = {name: nets.normal(64, seed=at) for at, name in enumerate("smb")}
    parts["v"] = np.abs(nets.normal(64, seed=9)) + 0.5
    given = product(
        "Conv",
        [("BatchNormalization", None, "s", "b", "m", "v"), ("Relu", None)],
        nets.normal(64, 16, 5),
        **parts,
    )
    fake = rtn(given, bits=4, fake=True)
    assert ops(fake) == ["Conv", "Add", "Relu"]
    x = nets.normal(2, 16, 30)
    right = nets.run_float(given, x=x)[0]
    assert nets.difference(nets.run_float(fake, x=x)[0], right) < 0.15


def test_constants_are_seen_through_nodes(nets):
    weights, bias = nets.normal(96, 128), nets.normal(96)
    nodes = [
        ("Constant", [], ["c"], {"value": numpy_helper.from_array(weights)}),
        ("Transpose", ["c"], ["t"], {"perm": [1, 0]}),
        ("Identity", ["t"], ["w"], {}),
        ("MatMul", ["x", "w"], ["h"], {}),
        ("Constant", [], ["b"], {"value_floats": bias.tolist()}),
        ("Add", ["h", "b"], ["y"], {}),
    ]
    model = nets.build(nodes, {}, [("x", 2)], [("y", 2)])
    assert ops(rtn(model, bits=4)) == ["LutMatMul"]
    x = nets.normal(2, 128)
    fake = rtn(model, bits=4, fake=True)
    assert ops(fake) == ["MatMul", "Add"]
    assert nets.difference(nets.run_float(fake, x=x)[0], x @ weights.T + bias) < 0.15


def branches(read, weights="w"):
    """A model whose If body reads a tensor of the graph around it."""
    body = helper.make_graph(
        [helper.make_node("MatMul", [read, weights], ["inner"], name="body")],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [None, 64])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", [read], ["outer"])],
        "else",
        [],
        [helper.make_tensor_value_info("outer", TensorProto.FLOAT, [None, 64])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="top"),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=other),
        ],
        "branches",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("r", TensorProto.FLOAT, [None, 64]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 64]),
        ],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("read", ["h", "r"])
def test_bodies_keep_what_they_read(nets, read):
    report = Report()
    model = rtn(branches(read), bits=4, report=report)
    assert ops(model) == (["LutMatMul", "Relu", "If"] if read == "h" else ["LutMatMul", "If"])
    assert "w" in [each.name for each in model.graph.initializer]
    assert report.lines[1].why == "inside the body of an If, Loop or Scan"
    onnx.checker.check_model(model)


def test_functions_are_inlined(nets):
    function = helper.make_function(
        "local",
        "Dense",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 18)],
    )
    graph = helper.make_graph(
        [helper.make_node("Dense", ["x", "w"], ["y"], domain="local")],
        "functions",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    assert ops(rtn(model, bits=4)) == ["LutMatMul"]
