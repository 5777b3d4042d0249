import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edge_kernels import oracle
from edge_kernels.layout import unpack
from edge_kernels.quantize import Report, rtn


def ops(model):
    return [node.op_type for node in model.graph.node]


def tensors(model):
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def given_of(node):
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def test_an_mlp(mlp, nets):
    report = Report()
    model = rtn(mlp, bits=4, report=report)
    assert ops(model) == ["LutMatMul", "LutMatMul", "Gemm"]
    first, second, _ = model.graph.node
    assert given_of(first) == {
        "bits": 4,
        "fast": 0,
        "group": 64,
        "k": 128,
        "n": 256,
        "relu": 1,
        "values": b"symmetric",
    }
    assert list(second.output) == ["r2"]
    assert {(each.domain, each.version) for each in model.opset_import} == {
        ("", 18),
        ("flwr.edge", 1),
    }
    assert set(tensors(model)) == {"node0.lut", "node0.bias", "node2.lut", "node2.bias", "w3"}
    x = nets.normal(7, 128)
    assert nets.difference(nets.run(model, x=x)[0], nets.run_float(mlp, x=x)[0]) < 0.15


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_the_report_of_weights_of_any_size(product, nets, size):
    report = Report()
    rtn(product(weights=nets.normal(128, 96) * np.float32(size)), bits=4, report=report)
    assert 0.08 < report.lines[0].error < 0.1


def test_the_report(mlp):
    report = Report()
    model = rtn(mlp, bits=2, report=report)
    one, two, three = report.lines
    assert [line.name for line in report.lines] == ["node0", "node2", "node5"]
    assert (one.op, one.served, one.shape, one.why) == ("Gemm", "LutMatMul", (256, 128), "")
    assert (one.before, one.after) == (256 * 128 * 4, tensors(model)["node0.lut"].size)
    assert 0.2 < one.error < 0.4
    assert (two.shape, two.error > 0.2) == ((64, 256), True)
    assert (three.served, three.before, three.after) == ("float", 1280, 1280)
    assert three.why == "too small: 1216 bytes packed"
    assert report.before == sum(line.before for line in report.lines)
    assert report.served == [one, two]
    table = str(report).splitlines()
    assert len(table) == 5
    assert "node5" in table[3]
    assert "float: too small" in table[3]


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 1},
        {"bits": 2, "ternary": True, "group": 128},
        {"bits": 3, "symmetric": False, "group": 32},
        {"bits": 4, "group": 0},
        {"bits": 4, "group": 0, "symmetric": False},
    ],
)
def test_the_kernels_compute_the_rounded_model(mlp, nets, options):
    x = nets.normal(3, 128)
    found = nets.run(rtn(mlp, **options), x=x)[0]
    fake = rtn(mlp, fake=True, **options)
    assert "LutMatMul" not in ops(fake)
    assert nets.difference(found, nets.run_float(fake, x=x)[0]) < 2e-2


def test_the_model_is_not_changed(mlp):
    before = mlp.SerializeToString(deterministic=True)
    rtn(mlp, bits=3)
    assert mlp.SerializeToString(deterministic=True) == before


def test_fake_holds_the_rounded_weights(product, nets):
    given = product(after=[("Add", None, "b"), ("Relu", None)], b=nets.normal(96))
    exact, fake = rtn(given, bits=3), rtn(given, bits=3, fake=True)
    (name,) = [each for each in tensors(fake) if each.endswith("weights")]
    right = oracle.dequantize(tensors(exact)["node0.lut"]).astype(np.float32)
    np.testing.assert_array_equal(tensors(fake)[name].T, right)
    assert ops(fake) == ["MatMul", "Add", "Relu"]
    assert [each.domain for each in fake.opset_import] == [""]


def test_one_operator_against_the_oracle(product, nets):
    model = rtn(product(after=[("Add", None, "b")], b=nets.normal(96)), bits=2)
    x = nets.normal(5, 128)
    held = tensors(model)
    right = oracle.product(x, held["node0.lut"], held["node0.bias"])
    np.testing.assert_allclose(nets.run(model, x=x)[0], right, rtol=1e-5, atol=1e-4)


def test_layers_that_read_the_same_input_become_one(nets):
    constants = {"q": nets.normal(96, 64), "k": nets.normal(96, 33), "v": nets.normal(65, 96)}
    constants["b"] = nets.normal(33)
    nodes = [
        ("MatMul", ["x", "q"], ["Q"], {}),
        ("Gemm", ["x", "v"], ["V"], {"transB": 1}),
        ("MatMul", ["x", "k"], ["h"], {}),
        ("Add", ["h", "b"], ["K"], {}),
        ("MatMul", ["x", "k"], ["R0"], {}),
        ("Relu", ["R0"], ["R"], {}),
    ]
    outputs = [("Q", 2), ("K", 2), ("V", 2), ("R", 2)]
    given = nets.build(nodes, constants, [("x", 2)], outputs)
    report = Report()
    model = rtn(given, bits=4, report=report)
    merged, relu = model.graph.node
    assert list(merged.output) == ["Q", "V", "K"]
    assert given_of(merged)["splits"] == [64, 65, 33]
    assert given_of(merged)["n"] == 162
    assert given_of(relu)["relu"] == 1
    assert [line.name for line in report.lines] == ["node0", "node1", "node2", "node4"]
    x = nets.normal(4, 96)
    for found, right in zip(nets.run(model, x=x), nets.run_float(given, x=x), strict=True):
        assert nets.difference(found, right) < 0.15


def test_tied_weights_are_stored_once(nets):
    nodes = [("MatMul", ["x", "w"], ["h"], {}), ("MatMul", ["h", "w"], ["y"], {})]
    given = nets.build(nodes, {"w": nets.normal(96, 96)}, [("x", 2)], [("y", 2)])
    assert list(tensors(rtn(given, bits=4))) == ["node0.lut"]


@st.composite
def convolutions(draw):
    kernel, stride, dilation = (draw(st.integers(1, 4)) for _ in range(3))
    pads = [draw(st.integers(0, 3)), draw(st.integers(0, 3))]
    given = {"strides": [stride], "dilations": [dilation], "pads": pads}
    return (draw(st.integers(1, 70)), draw(st.integers(1, 40)), kernel), given


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.booleans(), st.integers(0, 3))
def test_a_convolution_is_reordered_tap_by_tap(nets, product, conv, biased, seed):
    shape, attributes = conv
    constants = {"b": nets.normal(shape[0])} if biased else {}
    weights = nets.normal(*shape, seed=seed)
    given = product("Conv", [("Relu", None)], weights, attributes, list(constants), **constants)
    model = rtn(given, bits=4, gain=0)
    assert ops(model) == ["LutConv1d"]
    x = nets.normal(2, shape[1], 20)
    right = nets.run_float(rtn(given, bits=4, gain=0, fake=True), x=x)[0]
    reach = np.abs(right).max() + 1e-3
    assert np.abs(nets.run(model, x=x)[0] - right).max() < 0.05 * reach + 0.05 * shape[1]
    held = tensors(model)
    exact = oracle.conv1d(
        x,
        held["node0.lut"],
        held.get("node0.bias"),
        kernel=shape[2],
        stride=attributes["strides"][0],
        dilation=attributes["dilations"][0],
        pads=tuple(attributes["pads"]),
        relu=True,
    )
    np.testing.assert_allclose(nets.run(model, x=x)[0], exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_pads(product, nets, how):
    given = product("Conv", weights=nets.normal(64, 32, 4), given={"auto_pad": how})
    x = nets.normal(1, 32, 30)
    fake = rtn(given, bits=4, fake=True)
    right = nets.run_float(given, x=x)[0]
    assert nets.difference(nets.run_float(fake, x=x)[0], right) < 0.15


GRID = st.sampled_from([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0])


@st.composite
def chains(draw):
    """A float graph whose weights, folded, stand on a 4-bit grid: rounding must not change it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    nodes, constants, at, width = [], {}, "x", 64

    def add(op, *constant, **attributes):
        nonlocal at
        name = f"t{len(nodes)}"
        read = [at]
        for value in constant:
            constants[f"{name}c{len(read)}"] = value
            read.append(f"{name}c{len(read)}")
        if op in ("Add", "Mul") and draw(st.booleans()):
            read.reverse()
        nodes.append((op, read, [name], attributes))
        at = name

    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.sampled_from([1, 16, 64, 70]))
        codes = rng.integers(-8, 8, (rows, width))
        codes[:, ::32] = -8
        weights = (codes / 64).astype(np.float32)
        if draw(st.booleans()):
            add("MatMul", np.ascontiguousarray(weights.T))
        else:
            scale = 2.0 ** draw(st.integers(-2, 2))
            rest = [np.float32(rng.integers(-9, 9, rows))] * draw(st.integers(0, 1))
            add("Gemm", weights, *rest, transB=1, alpha=scale, beta=scale)
        for op in draw(st.lists(st.sampled_from(["Add", "Sub", "Mul", "Div"]), max_size=3)):
            value = [draw(GRID) for _ in range(rows if draw(st.booleans()) else 1)]
            add(op, np.array(value, np.float32))
        if draw(st.booleans()):
            add("Relu")
        width = rows
    return nodes, constants, at


@settings(max_examples=60, deadline=None)
@given(chains(), st.sampled_from([0, 32, 64]))
def test_folding_keeps_the_function(nets, chain, group):
    nodes, constants, last = chain
    given = nets.build(nodes, constants, [("x", 2)], [(last, 2)])
    fake = rtn(given, bits=4, group=group, gain=0, fake=True)
    assert not {"Mul", "Div", "Sub", "Gemm"} & set(ops(fake))
    x = nets.normal(3, 64)
    found, right = nets.run_float(fake, x=x)[0], nets.run_float(given, x=x)[0]
    np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3 * (1 + np.abs(right).max()))
    assert set(ops(rtn(given, bits=4, group=group, gain=0))) == {"LutMatMul"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": 5}, "bits is 5"),
        ({"bits": 4, "group": 48}, "group is 48"),
        ({"bits": 3, "ternary": True}, "ternary weights take 2 bits, not 3"),
        ({"bits": 2, "ternary": True, "symmetric": False}, "no zero points"),
        ({"bits": 4, "skip": ["node9", "node0"]}, "no layer is called node9"),
        ({"bits": 4, "skip": "node0"}, "must be a list of names"),
        ({"bits": 2.0}, r"bits is 2\.0; a whole number"),
        ({"bits": "2"}, "bits is '2'; a whole number"),
        ({"bits": 2, "group": 64.0}, r"group is 64\.0; a whole number"),
        ({"bits": 2, "gain": float("nan")}, "gain is nan; 0 or more"),
        ({"bits": 2, "gain": -1}, "gain is -1; 0 or more"),
    ],
)
def test_wrong_options_are_named(mlp, options, says):
    with pytest.raises(ValueError, match=says):
        rtn(mlp, **options)


def test_skip_takes_names_outputs_and_patterns(mlp):
    assert ops(rtn(mlp, bits=4, skip=["node0"]))[:2] == ["Gemm", "Relu"]
    assert ops(rtn(mlp, bits=4, skip=["h2"]))[1:3] == ["MatMul", "Add"]
    assert rtn(mlp, bits=4, skip=["node*"]) == mlp


def test_fast_is_asked_of_the_operator(mlp):
    assert given_of(rtn(mlp, bits=2, fast=True).graph.node[0])["fast"] == 1


def test_blobs_are_sound(mlp):
    blob = tensors(rtn(mlp, bits=3, group=32))["node0.lut"]
    assert unpack(blob).shape.rows == 256


def test_other_nodes_that_multiply_are_reported(nets):
    constants = {
        "w": nets.normal(1, 256, 8),
        "r": nets.normal(1, 256, 64),
        "v": nets.normal(64, 96),
    }
    nodes = [
        ("LSTM", ["x", "w", "r"], ["h"], {"hidden_size": 64}),
        ("MatMul", ["h", "v"], ["y"], {}),
    ]
    report = Report()
    rtn(nets.build(nodes, constants, [("x", 3)], [("y", 4)]), bits=2, report=report)
    assert [(line.op, line.served) for line in report.lines] == [
        ("LSTM", "float"),
        ("MatMul", "LutMatMul"),
    ]
    assert report.lines[0].why == "no kernel serves such a layer"
    size = 4 * 256 * (8 + 64)
    assert (report.lines[0].before, report.lines[0].after) == (size, size)
    assert report.before == size + 4 * 64 * 96
    assert str(size) in next(line for line in str(report).splitlines() if "LSTM" in line)


def test_a_model_that_is_quantized_already_is_told(nets):
    constants = {
        "q": np.ones((128, 96), np.int8),
        "s": np.float32(0.1),
        "b": np.zeros((), np.int8),
        "zero": np.zeros((), np.uint8),
    }
    nodes = [
        ("DequantizeLinear", ["q", "s", "b"], ["w"], {}),
        ("MatMul", ["x", "w"], ["h"], {}),
        ("DynamicQuantizeLinear", ["h"], ["n", "scale", "at"], {}),
        ("MatMulInteger", ["n", "t"], ["m"], {}),
        ("Cast", ["m"], ["y"], {"to": 1}),
    ]
    constants["t"] = np.ones((96, 8), np.int8)
    report = Report()
    rtn(nets.build(nodes, constants, [("x", 2)], [("y", 2)]), bits=2, report=report)
    assert [line.op for line in report.lines] == ["MatMul", "MatMulInteger"]
    assert all("quantized already: give the float model" in line.why for line in report.lines)


def test_what_nodes_compute_of_constants_is_computed_ahead(nets):
    """As torch's exporter without optimisation writes a batch norm behind a convolution."""
    constants = {
        "w": nets.normal(96, 16, 3),
        "deviation": np.abs(nets.normal(96, 1, 1)) + 1,
        "mean": nets.normal(96),
        "zero": np.float32(0),
        "column": np.array([96, 1]),
    }
    nodes = [
        ("Reciprocal", ["deviation"], ["factor"], {}),
        ("Mul", ["w", "factor"], ["weights"], {}),
        ("Sub", ["zero", "mean"], ["bias"], {}),
        ("Conv", ["x", "weights", "bias"], ["h"], {}),
        ("Reshape", ["mean", "column"], ["term"], {}),
        ("Add", ["h", "term"], ["y"], {}),
    ]
    given = nets.build(nodes, constants, [("x", 3)], [("y", 3)])
    report = Report()
    model = rtn(given, bits=4, gain=0, report=report)
    assert (ops(model), [line.why for line in report.lines]) == (["LutConv1d"], [""])
    x = nets.normal(2, 16, 20)
    assert nets.difference(nets.run(model, x=x)[0], nets.run_float(given, x=x)[0]) < 0.15


def test_constants_that_would_make_a_model_larger_stay_nodes(nets):
    """A table that is read as it is and turned, a small tensor that is widened, int8 weights."""
    constants = {
        "table": nets.normal(64, 96),
        "one": np.ones((1, 1), np.float32),
        "size": np.array([64, 1000]),
        "codes": np.ones((96, 1000), np.int8),
        "scale": np.float32(0.1),
    }
    nodes = [
        ("Transpose", ["table"], ["turned"], {}),
        ("MatMul", ["x", "turned"], ["h"], {}),
        ("MatMul", ["h", "table"], ["g"], {}),
        ("DequantizeLinear", ["codes", "scale"], ["floats"], {}),
        ("MatMul", ["g", "floats"], ["m"], {}),
        ("Expand", ["one", "size"], ["ones"], {}),
        ("MatMul", ["h", "ones"], ["n"], {}),
        ("Add", ["m", "n"], ["y"], {}),
    ]
    given = nets.build(nodes, constants, [("x", 2)], [("y", 2)])
    model = rtn(given, bits=4, skip=["node1", "node2"])
    assert ops(model) == ops(given)
    assert model.ByteSize() <= given.ByteSize()
    assert ops(rtn(given, bits=4, skip=["node2"]))[:2] == ["LutMatMul", "MatMul"]
