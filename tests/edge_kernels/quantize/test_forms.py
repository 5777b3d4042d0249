"""Transformers read from their nodes alone, in every form that exporters write."""

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_kernels import session
from edge_kernels.bench.weights import relative_rms
from edge_kernels.integer.net import Attention, Norm, Rescale
from edge_kernels.quantize import evaluate, quantize, to_edge
from edge_kernels.quantize.functions import Function
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.widths import wide
from tests.edge_kernels.quantize.blocks import (
    HEADS,
    LENGTH,
    WIDTH,
    Builder,
    activation,
    attention,
    block,
    norm,
    weights,
)


def windows(count=5, seed=0):
    return np.random.default_rng(seed).standard_normal((count, LENGTH, WIDTH)).astype(np.float32)


def agree(model, x=None):
    """Read a model, and compare with ONNX Runtime; return the network."""
    x = windows() if x is None else x
    before = model.SerializeToString()
    split = read(model)
    assert model.SerializeToString() == before
    session = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        evaluate.run(split.net, x), session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5
    )
    return split.net


def kinds(net, kind):
    return [step for step in net.steps if type(step) is kind]


@pytest.mark.parametrize("norms", ["node", "decomposed", "reciprocal", "rms"])
@pytest.mark.parametrize("pre", [True, False])
def test_every_form_of_a_norm(norms, pre):
    net = agree(block(pre=pre, norms=norms))
    found = kinds(net, Norm)
    assert {step.rms for step in found} == {norms == "rms"}
    assert len({step.x for step in found}) == (3 if pre else 2)
    assert all(step.epsilon == pytest.approx(1e-5) for step in found)


def root_mean_square(*steps, last="Div") -> ModelProto:
    """x over what (operator, number or none) steps make of the mean of its squares."""
    b = Builder()
    x = b.linear("x", WIDTH, WIDTH, seed=1)
    made = b.add("ReduceMean", b.add("Pow", x, b.scalar(2)), np.array([-1]))
    for op, *number in steps:
        made = b.add(op, made, *(b.scalar(each) for each in number))
    b.linear(b.add(last, x, made), WIDTH, WIDTH, seed=3)
    return b.model(3)


ADDED = ("Add", 0.5)


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([ADDED, ("Sqrt",)], "Div"),
        ([ADDED, ("Add", 0.25), ("Sqrt",)], "Div"),
        ([ADDED, ("Pow", 0.5)], "Div"),
        ([ADDED, ("Pow", -0.5)], "Mul"),
        ([ADDED, ("Sqrt",), ("Reciprocal",)], "Mul"),
        ([ADDED, ("Pow", 0.5), ("Reciprocal",)], "Mul"),
    ],
)
def test_every_form_of_a_root(steps, last):
    (found,) = kinds(agree(root_mean_square(*steps, last=last)), Norm)
    assert found.epsilon == pytest.approx(sum(each[1] for each in steps if each[0] == "Add"))


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ([], "Div"),
        ([ADDED], "Div"),
        ([("Sqrt",), ADDED], "Div"),
        ([ADDED, ("Sqrt",), ADDED], "Div"),
        ([ADDED, ("Sqrt",), ("Sqrt",)], "Div"),
        ([ADDED, ("Pow", 0.5), ("Pow", 0.5)], "Div"),
        ([ADDED, ("Reciprocal",)], "Mul"),
        ([("Reciprocal",), ADDED, ("Sqrt",)], "Mul"),
        ([ADDED, ("Sqrt",), ("Reciprocal",), ("Reciprocal",)], "Mul"),
        ([ADDED, ("Sqrt",), ("Reciprocal",), ADDED], "Mul"),
        ([ADDED, ("Pow", -0.5), ("Reciprocal",)], "Mul"),
        ([ADDED, ("Sqrt",), ("Pow", -0.5)], "Mul"),
    ],
)
def test_what_is_not_quite_a_norm_is_refused(steps, last):
    with pytest.raises(ValueError, match="cannot run in integers"):
        read(root_mean_square(*steps, last=last))


@pytest.mark.parametrize("form", ["node", "rms"])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_a_number_for_each_position_is_none_for_each_channel(form, op):
    """As many positions as channels."""
    b = Builder()
    x = norm(b, b.linear("x", WIDTH, WIDTH, seed=1), form)
    b.linear(b.add(op, x, weights(WIDTH, 1, seed=5)), WIDTH, WIDTH, seed=3)
    x = np.random.default_rng(0).standard_normal((5, WIDTH, WIDTH)).astype(np.float32)
    agree(b.model(3, (WIDTH, WIDTH)), x)


@pytest.mark.parametrize("view", ["Reshape", "Identity"])
def test_a_relu_leaves_alone_what_a_sum_reads_under_another_name(view):
    b = Builder()
    x = b.linear(norm(b, "x"), WIDTH, WIDTH, seed=3)
    flat, whole = [], []
    if view == "Reshape":
        flat, whole = [np.array([-1, WIDTH])], [np.array([-1, LENGTH, WIDTH])]
    part = b.add("Relu", b.add(view, x, *flat))
    part = b.add(view, b.add("MatMul", part, weights(WIDTH, WIDTH, seed=5)), *whole)
    b.add("Add", x, part)
    agree(b.model(3))


@pytest.mark.parametrize("acts", ["node", "tanh node", "erf", "tanh", "silu", "plain tanh"])
def test_every_form_of_a_function(acts):
    assert len(kinds(agree(block(acts=acts)), Function)) == 1


@pytest.mark.parametrize("heads", ["plain", "scaled", "folded"])
@pytest.mark.parametrize("positions", [True, False])
def test_every_form_of_attention(heads, positions):
    (found,) = kinds(agree(block(heads=heads, positions=positions)), Attention)
    assert found.heads == 2
    assert found.scale == pytest.approx(0.5)


def test_what_is_summed_along_the_way_has_16_bits():
    net = read(block(pre=True)).net
    broad = wide(net)
    for at, step in enumerate(net.steps):
        if isinstance(step, Norm):
            assert step.x in broad
        if isinstance(step, Attention):
            assert not broad & {step.x, step.k, step.v, at + 1}
    assert not kinds(net, Rescale)


def test_after_a_post_norm_its_result_has_16_bits_for_sums_and_8_for_layers():
    net = read(block(pre=False)).net
    twice = [step for step in kinds(net, Norm) if step.x == kinds(net, Norm)[0].x]
    assert len(twice) == 2
    values = [net.steps.index(step) + 1 for step in twice]
    values[1] = net.steps.index(twice[1], values[0]) + 1
    assert [value in wide(net) for value in values] == [True, False]
    assert len(kinds(net, Rescale)) == 1  # what the first layer gives has no norm


def test_a_network_without_norms_keeps_8_bits():
    b = Builder()
    x = b.linear("x", WIDTH, WIDTH, seed=1)
    b.add("Add", x, b.linear(x, WIDTH, WIDTH, seed=2))
    assert wide(read(b.model(3)).net) == set()


def sentence_like() -> ModelProto:
    """A norm first, a free length, and unit length at the end."""
    b = Builder()
    x = norm(b, "x")
    x = b.add("Add", x, b.linear(x, WIDTH, WIDTH, seed=3))
    mean = b.add("ReduceMean", norm(b, x), np.array([1]), keepdims=0)
    length = b.add("Sqrt", b.add("ReduceSum", b.add("Pow", mean, b.scalar(2)), np.array([1])))
    b.add("Div", mean, length)
    return b.model(2, ("length", WIDTH))


def test_a_free_length_and_an_epilogue():
    split = read(sentence_like())
    assert [node.op_type for node in split.epilogue[0]] == ["Pow", "ReduceSum", "Sqrt", "Div"]
    assert split.net.shapes[0] == (-1, WIDTH)
    assert split.source == "x"  # the norm is in the network
    session = onnxruntime.InferenceSession(sentence_like().SerializeToString())
    for length in (1, 4, 9):
        x = np.random.default_rng(length).standard_normal((2, length, WIDTH)).astype(np.float32)
        out = evaluate.run(split.net, x)
        right = session.run(None, {"x": x})[0]
        found = out / np.linalg.norm(out, axis=1, keepdims=True)
        np.testing.assert_allclose(found, right, atol=1e-5)


def scored(op, *constants, back=None, axis=-1, **given) -> ModelProto:
    """Attention with one more node before the softmax, and maybe a reshape back behind it."""
    b = Builder()
    attention(b, b.linear("x", WIDTH, WIDTH, seed=1))
    model = b.model(3)
    nodes = list(model.graph.node)
    at = next(at for at, node in enumerate(nodes) if node.op_type == "Softmax")
    softmax = model.graph.node[at]
    softmax.attribute[0].i = axis
    names = [f"more{i}" for i in range(len(constants))]
    node = helper.make_node(op, [softmax.input[0], *names], ["changed"], name="changing", **given)
    softmax.input[0] = "changed"
    if back is not None:
        names, constants = [*names, "back"], [*constants, np.array(back)]
        after = helper.make_node("Reshape", ["shares", "back"], [softmax.output[0]], name="back")
        softmax.output[0] = "shares"
        model.graph.node.insert(at + 1, after)
    model.graph.node.insert(at, node)
    tensors = [numpy_helper.from_array(each, n) for n, each in zip(names, constants, strict=True)]
    model.graph.initializer.extend(tensors)
    return model


@pytest.mark.parametrize(
    "model",
    [
        scored("Transpose", perm=[0, 1, 2, 3]),
        scored("Reshape", np.array([-1, LENGTH, LENGTH]), back=[-1, HEADS, LENGTH, LENGTH]),
    ],
)
def test_scores_may_be_seen_in_another_shape(model):
    assert len(kinds(agree(model), Attention)) == 1


def over_axis(op, **given):
    b = Builder()
    x = b.linear("x", WIDTH, WIDTH, seed=1)
    more = [np.ones((LENGTH, WIDTH), np.float32)] if op == "LayerNormalization" else []
    b.linear(b.add(op, x, *more, **given), WIDTH, WIDTH, seed=2)
    return b.model(3)


def cast(to) -> ModelProto:
    """A function with another type in its middle."""
    b = Builder()
    x = b.add("Mul", b.add("Sigmoid", b.linear("x", WIDTH, WIDTH, seed=1)), b.scalar(10))
    b.linear(b.add("Cast", b.add("Cast", x, to=to), to=TensorProto.FLOAT), WIDTH, WIDTH, seed=2)
    return b.model(3)


def test_a_function_may_be_computed_in_another_float():
    assert len(kinds(agree(cast(TensorProto.DOUBLE)), Function)) == 1


def clipped(*bounds) -> ModelProto:
    """Two layers with a Clip between them; None: a bound that is left out."""
    b = Builder()
    words = ["" if each is None else b.scalar(each) for each in bounds]
    b.linear(b.add("Clip", b.linear("x", WIDTH, WIDTH, seed=1), *words), WIDTH, WIDTH, seed=2)
    return b.model(3)


@pytest.mark.parametrize("bounds", [(0, 0.5), (None, 0.5), (-0.5, 0.5), (-0.5,), (0.25, None)])
def test_a_clip_is_a_function(bounds):
    """ReLU6 and Hardtanh are such."""
    model = clipped(*bounds)
    assert len(kinds(agree(model), Function)) == 1
    x = windows(64)
    made = quantize(model, x, bits=8, quantizer="rtn")
    y = session(to_edge(made), threads=1).run(None, {"x": x})[0]
    exact = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    assert relative_rms(y, exact) < 0.02


@pytest.mark.parametrize("bounds", [(0,), (0, None)])
def test_a_clip_at_0_alone_is_the_layer_s_relu(bounds):
    assert not kinds(agree(clipped(*bounds)), Function)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (
            scored("Add", weights(LENGTH, LENGTH, seed=9)),
            r"node 'Reshape\d+' \(Reshape\).*\(Softmax\).*a mask is not served",
        ),
        (scored("Transpose", perm=[0, 1, 3, 2]), r"\(Softmax\).*its scores are moved"),
        (
            scored(
                "Reshape",
                np.array([0, HEADS, 1, LENGTH * LENGTH]),
                back=[0, HEADS, LENGTH, LENGTH],
            ),
            r"\(Softmax\).*its scores are moved",
        ),
        (
            scored("Transpose", perm=[0, 1, 2, 3], axis=2),
            r"node 'Softmax\d+' \(Softmax\).*another axis than the last",
        ),
        (over_axis("LayerNormalization", axis=1), r"\(LayerNormalization\).*it norms from axis 1"),
        (over_axis("Round"), r"\(Round\).*no instruction"),
        (cast(TensorProto.INT32), r"\(Cast\).*no instruction"),
        (cast(TensorProto.BOOL), r"\(Cast\).*no instruction"),
    ],
)
def test_a_form_that_is_not_served_is_named_with_node_and_operator(model, wrong):
    with pytest.raises(ValueError, match=wrong):
        read(model)


def test_a_function_is_computed_in_the_middle_of_others():
    b = Builder()
    x = b.linear("x", WIDTH, WIDTH, seed=1)
    both = b.add("Add", activation(b, x, "silu"), b.add("Relu", b.linear(x, WIDTH, WIDTH, seed=5)))
    b.linear(both, WIDTH, WIDTH, seed=9)
    assert len(kinds(agree(b.model(3)), Function)) == 1


@pytest.mark.parametrize(
    ("op", "slope", "given"),
    [
        ("Celu", (), {"alpha": 0.7}),
        ("LeakyRelu", (), {"alpha": 0.2}),
        ("PRelu", (np.float32([0.3]),), {}),
        ("PRelu", (np.float32([[0.3]]),), {}),  # as torch's exporter writes it
        ("Max", (np.float32(0.2),), {}),  # and clamp(min=…)
        ("Min", (np.float32(0.2),), {}),
    ],
)
def test_functions_that_bend_at_0(op, slope, given):
    b = Builder()
    b.linear(b.add(op, b.linear("x", WIDTH, WIDTH, seed=1), *slope, **given), WIDTH, WIDTH, seed=2)
    assert len(kinds(agree(b.model(3)), Function)) == 1


def test_a_slope_for_each_number_of_a_position_is_no_function_of_one_number():
    b = Builder()
    bent = b.add("PRelu", b.linear("x", WIDTH, WIDTH, seed=1), weights(WIDTH, seed=5))
    b.linear(bent, WIDTH, WIDTH, seed=2)
    with pytest.raises(ValueError, match=r"\(PRelu\) cannot run in integers: its constant varies"):
        read(b.model(3))
