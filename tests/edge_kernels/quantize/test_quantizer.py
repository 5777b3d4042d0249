import copy
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper

import edge_kernels
from edge_kernels import quantize as rooms
from edge_kernels.bench.encoder import float_encoder
from edge_kernels.quantize import quantizer as quantizers
from edge_kernels.quantize.integer_rounding import RoundToNearest
from edge_kernels.quantize.quantizer import by_name, quantize, to_edge, to_lookup, to_qdq
from tests.edge_kernels.quantize.small import (
    build,
    classifier,
    integer_output,
    normal,
    run,
    windows,
)


@pytest.fixture(scope="module")
def quantized():
    return quantize(classifier(), windows(300, 5)[0], quantizer="rtn")


def edge_output(model, x):
    return edge_kernels.session(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_both_exports_give_what_the_integers_do(bits):
    made = quantize(classifier(), windows(300, 5)[0], quantizer="rtn", bits=bits)
    x, _ = windows(200, 6)
    right = integer_output(made.net, quantizers.inputs(made.split, x))
    np.testing.assert_allclose(edge_output(to_edge(made), x), right, rtol=1e-5, atol=1e-5)
    plain = run(to_qdq(made), x)
    assert np.linalg.norm(plain - right) < 5e-3 * np.linalg.norm(right)
    assert (plain.argmax(1) == right.argmax(1)).mean() >= 0.99


def test_an_output_of_accumulators_with_relu():
    made = quantize(float_encoder(np.random.default_rng(0)), normal(64, 8, 100), quantizer="rtn")
    x = normal(9, 8, 100, seed=1)
    right = integer_output(made.net, x)
    assert (right >= 0).all()
    np.testing.assert_allclose(edge_output(to_edge(made), x), right, rtol=1e-5, atol=1e-5)
    found = run(to_qdq(made), x)
    assert np.linalg.norm(found - right) < 5e-3 * np.linalg.norm(right)


def test_an_output_on_levels():
    nodes = [("Conv", ["x", "w"], ["h"], {}), ("GlobalAveragePool", ["h"], ["y"], {})]
    model = build(nodes, {"w": normal(4, 5, 3)}, (5, 12), "y")
    made = quantize(model, normal(64, 5, 12), quantizer="rtn")
    x = normal(9, 5, 12, seed=1)
    right = integer_output(made.net, x)
    assert made.net.levels[made.net.output] is not None
    np.testing.assert_allclose(edge_output(to_edge(made), x), right, rtol=1e-5, atol=1e-5)
    step = made.net.levels[made.net.output].scale
    np.testing.assert_allclose(run(to_qdq(made), x), right, atol=1.01 * step)


def test_the_integer_part_is_one_node(quantized):
    model = to_edge(quantized)
    ops = [node.op_type for node in model.graph.node]
    assert ops == ["Sub", "Div", "Transpose", "QuantizeLinear", "IntSequential", "DequantizeLinear"]
    assert model.graph.input[0].name == "x"
    assert [value.name for value in model.graph.output] == ["logits"]


def test_the_plain_export_is_valid_and_has_integer_weights(quantized):
    model = to_qdq(quantized)
    checker.check_model(model, full_check=True)
    assert {each.domain for each in model.opset_import} == {""}
    kinds = [t.data_type for t in model.graph.initializer if t.name.endswith("weight")]
    assert kinds == [TensorProto.INT8] * 4


@pytest.mark.parametrize("bits", [4, 2])
def test_lookup_kernels_have_the_same_weights(bits):
    settings = {"ends": 4}  # kernels have no more
    made = quantize(classifier(), windows(300, 5)[0], quantizer="rtn", bits=bits, settings=settings)
    x, _ = windows(200, 6)
    model = to_lookup(made)
    assert [node.op_type for node in model.graph.node] == ["LutSequential"]  # prologue and all
    found, right = edge_output(model, x), integer_output(made.net, quantizers.inputs(made.split, x))
    assert np.linalg.norm(found - right) < 0.06 * np.linalg.norm(right)
    assert (found.argmax(1) == right.argmax(1)).mean() > 0.97


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_every_export_ends_in_the_models_own_odds(op):
    model = classifier().__class__()
    model.CopyFrom(classifier())
    model.graph.node.append(helper.make_node(op, ["logits"], ["odds"], axis=-1))
    model.graph.output[0].name = "odds"
    x, _ = windows(200, 6)
    made = quantize(
        model, windows(300, 5)[0], quantizer="rtn", bits=4, settings={"method": "mse", "ends": 4}
    )
    right = run(model, x)
    plain, edge = run(to_qdq(made), x), edge_output(to_edge(made), x)
    lookup = to_lookup(made)
    assert [node.op_type for node in lookup.graph.node] == ["LutSequential", op]
    for found in (plain, edge, edge_output(lookup, x)):
        assert (found.argmax(1) == right.argmax(1)).mean() > 0.9
        odds = np.exp(found) if op == "LogSoftmax" else found
        np.testing.assert_allclose(odds.sum(1), 1, rtol=1e-5)


def test_the_refusal_of_lookup_kernels_names_the_setting():
    made = quantize(classifier(), windows(300, 5)[0], quantizer="rtn", bits=4)
    with pytest.raises(ValueError, match=r'bits=4 or 2 and settings=\{"ends": 4\}'):
        to_lookup(made)


def test_lookup_kernels_have_no_eight_bits(quantized):
    with pytest.raises(ValueError, match="step 0: weights of 8 bits; lookup kernels have 4 or 2"):
        to_lookup(quantized)


def test_exports_leave_the_result_as_it_was(quantized):
    first, second = to_edge(quantized), to_edge(quantized)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert len(quantized.split.prologue.graph.node) == 3


def test_quantizers_are_found_by_name():
    assert {"rtn", "smoothquant", "mobilequant", "blockwise", "distilled"} <= set(
        quantizers.names()
    )
    assert by_name("rtn", bits=4, seed=1) == RoundToNearest(4, 1)
    with pytest.raises(ValueError, match=r"no quantizer is called 'best'; there are blockwise"):
        by_name("best")
    with pytest.raises(ValueError, match=r"quantizer 'rtn': .*'width'"):
        by_name("rtn", width=3)


def test_a_setting_that_is_an_argument_is_refused():
    with pytest.raises(ValueError, match="settings hold bits, which have arguments of their own"):
        quantizers.quantize(classifier(), np.zeros(1), settings={"bits": 4})


def test_settings_reach_the_quantizer(quantized):
    x = windows(300, 5)[0]
    given = [(-9.0, 9.0), (0.0, 20.0), (0.0, 10.0), (0.0, 30.0)]
    made = quantize(classifier(), x, quantizer="rtn", settings={"ranges": given})
    assert made.net.levels[0].scale == pytest.approx(18 / 255)
    assert made.net.levels != quantized.net.levels


def test_what_is_learned_of_a_shared_model_is_a_start():
    x = windows(100, 5)[0]
    assert quantizers.shared(classifier(), x, quantizer="rtn") is None
    start = quantizers.shared(classifier(), x, settings={"steps": 2})
    made = quantize(classifier(), x, bits=2, settings={"steps": 2, "start": start})
    assert made.net != quantize(classifier(), x, bits=2, settings={"steps": 2}).net


def test_mobilequant_is_what_one_gets():
    made = quantize(classifier(), windows(100, 5)[0], settings={"steps": 5})
    again = quantize(classifier(), windows(100, 5)[0], seed=0, settings={"steps": 5})
    assert to_edge(made) == to_edge(again)
    other = quantize(classifier(), windows(100, 5)[0], seed=1, settings={"steps": 5})
    assert to_edge(made) != to_edge(other)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (
            windows(5, 1)[0][:, :39],
            r"shape \(5, 39, 3\); the model's input 'x' is \(windows, 40, 3",
        ),
        (windows(5, 1)[0][0], r"shape \(40, 3\)"),
        (windows(5, 1)[0][:0], "no calibration windows"),
        (
            np.where(np.arange(5)[:, None, None] == 2, np.nan, windows(5, 1)[0]),
            "window 2 holds NaN",
        ),
    ],
)
def test_windows_that_are_wrong(x, says):
    with pytest.raises(ValueError, match=says):
        quantize(classifier(), x, quantizer="rtn")


def test_windows_may_be_a_list():
    x = windows(64, 5)[0]
    made = quantize(classifier(), x.tolist(), quantizer="rtn")
    assert to_edge(made) == to_edge(quantize(classifier(), x, quantizer="rtn"))


@pytest.mark.parametrize("number", [0, 3.5])
def test_windows_of_one_number_are_refused(number):
    x = np.full((64, 40, 3), number, np.float32)
    with pytest.raises(ValueError, match=f"hold nothing but {number}"):
        quantize(classifier(), x, quantizer="rtn")


def test_windows_that_are_all_answered_alike_are_warned_of():
    with pytest.warns(UserWarning, match="answers all of 5 calibration windows alike"):
        quantize(classifier(), np.repeat(windows(1, 5)[0], 5, 0), quantizer="rtn")


def test_the_door_is_the_rooms():
    assert rooms.quantize is quantize
    assert (rooms.to_edge, rooms.to_qdq, rooms.to_lookup) == (to_edge, to_qdq, to_lookup)
    assert {"quantize", "rtn", "to_edge"} <= set(dir(rooms))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rooms.nothing  # noqa: B018


def test_the_room_brings_neither_torch_nor_onnx():
    code = "import sys, edge_kernels.quantize; print({'onnx', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_other_wrong_input():
    x, _ = windows(20, 1)
    with pytest.raises(ValueError, match="calibration windows of <U"):
        quantize(classifier(), ["a window"], quantizer="rtn")
    with pytest.raises(ValueError, match=r"bits is 8\.0; a whole number"):
        quantize(classifier(), x, quantizer="rtn", bits=8.0)
    with pytest.raises(ValueError, match="not list"):
        quantize([], x, quantizer="rtn")
    with pytest.raises(ValueError, match="weights of 3 bits"):
        quantize(classifier(), x, quantizer="rtn", bits=3)
    with pytest.raises(ValueError, match="not an ONNX model"):
        quantize(b"nothing", x)


def test_a_plain_session_refuses_the_edge_graph(quantized):
    with pytest.raises(Exception, match=r"flwr\.edge"):
        onnxruntime.InferenceSession(
            to_edge(quantized).SerializeToString(), providers=["CPUExecutionProvider"]
        )


@pytest.mark.parametrize(
    ("export", "bits", "names"),
    [
        (to_edge, 8, ("int.x", "int.input.scale")),
        (to_edge, 8, ("int.quantizelinear0", "int.y.0")),
        (to_qdq, 8, ("int.quantizelinear0", "int.step0.bias")),
        (to_lookup, 4, ("lut.lutconv1d0", "lut.step0.bias")),
    ],
)
def test_names_of_the_float_part_may_be_those_of_an_export(export, bits, names):
    between, term = names
    nodes = [
        ("Sub", ["x", term], [between], {}),
        ("Conv", [between, "w"], ["h"], {}),
        ("Softmax", ["h"], ["y"], {"axis": 1}),
    ]
    model = build(nodes, {"w": normal(4, 5, 3), term: normal(5, 1)}, (5, 12), "y")
    x = normal(64, 5, 12)
    made = quantize(model, x, quantizer="rtn", bits=bits, settings={"ends": bits})
    found, right = edge_output(export(made), x), run(model, x)
    assert np.linalg.norm(found - right) < 0.02 * (8 / bits) ** 4 * np.linalg.norm(right)


def test_what_follows_a_quantized_part_is_quantized():
    x = normal(64, 5, 12)
    nodes = [("Conv", ["x", "w"], ["h"], {}), ("Relu", ["h"], ["y"], {})]
    model = to_qdq(quantize(build(nodes, {"w": normal(4, 5, 3)}, (5, 12), "y"), x, quantizer="rtn"))
    after = build(
        [("Flatten", ["y"], ["f"], {}), ("Gemm", ["f", "v"], ["z"], {})],
        {"v": normal(40, 3)},
        (5, 12),
        "z",
    )
    for node in after.graph.node:
        node.name = f"after.{node.name}"
    for held in ("node", "initializer"):
        getattr(model.graph, held).extend(getattr(after.graph, held))
    model.graph.output[0].CopyFrom(after.graph.output[0])
    right = run(model, x)
    made = quantize(model, x, quantizer="rtn")
    for export in (to_edge, to_qdq):
        found = edge_output(export(made), x)
        assert np.linalg.norm(found - right) < 0.02 * np.linalg.norm(right)


@pytest.mark.parametrize("ends", [2.5, "4", None])
def test_ends_that_are_no_whole_number_are_refused(ends):
    with pytest.raises(ValueError, match=r"ends is .*; a whole number is needed"):
        quantize(classifier(), windows(64, 5)[0], quantizer="rtn", bits=2, settings={"ends": ends})


@pytest.mark.parametrize("batch", [1, "b", None])
def test_results_have_the_batch_that_the_model_has(batch):
    x, _ = windows(64, 5)
    given = copy.deepcopy(classifier())
    dims = given.graph.input[0].type.tensor_type.shape.dim
    dims[0].Clear()
    if batch is not None:
        setattr(dims[0], "dim_value" if batch == 1 else "dim_param", batch)
    eight = quantize(given, x, quantizer="rtn")
    four = quantize(given, x, quantizer="rtn", bits=4, settings={"ends": 4})
    for made in (to_edge(eight), to_qdq(eight), to_lookup(four)):
        first = made.graph.output[0].type.tensor_type.shape.dim[0]
        assert (first.dim_value or first.dim_param) == (batch or "batch")
        assert edge_output(made, x[:1]).shape == (1, 4)
