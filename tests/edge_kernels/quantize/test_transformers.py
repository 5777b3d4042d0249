"""Every quantizer on small transformers, and their two exports."""

import numpy as np
import onnxruntime
import pytest

import edge_kernels
from edge_kernels.integer import oracle
from edge_kernels.integer.net import Attention, Norm, Product, Table
from edge_kernels.quantize import evaluate
from edge_kernels.quantize.calibrate import largest
from edge_kernels.quantize.learner import Learner
from edge_kernels.quantize.mobilequant import MobileQuant
from edge_kernels.quantize.quantizer import inputs, quantize, to_edge, to_qdq
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.scaling import classes, scaled, smoothing
from tests.edge_kernels.quantize.blocks import LENGTH, WIDTH, block
from tests.edge_kernels.quantize.test_forms import sentence_like

FEW = {"steps": 6, "batch": 8, "windows": 32}
SETTINGS = {"mobilequant": FEW, "distilled": FEW, "blockwise": FEW}


def windows(count, seed=0, length=LENGTH):
    return np.random.default_rng(seed).standard_normal((count, length, WIDTH)).astype(np.float32)


def run(model, x):
    options = edge_kernels.exact_int8(onnxruntime.SessionOptions())
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]


def by_oracle(made, x):
    """What the integers are, made float."""
    net = made.net
    levels, last = net.levels[0], net.levels[net.output]
    q = np.clip(np.rint(inputs(made.split, x) / levels.scale) + levels.zero, 0, levels.top)
    out = oracle.run(net, q.astype(np.uint16 if levels.bits == 16 else np.uint8))
    if last is not None:
        return (out - float(last.zero)) * last.scale
    step = net.steps[net.output - 1]
    return out * net.levels[step.x].scale * step.weight_scale


def difference(found, right):
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


@pytest.mark.parametrize("pre", [True, False])
@pytest.mark.parametrize("name", ["rtn", "smoothquant", "mobilequant", "distilled", "blockwise"])
def test_every_quantizer_runs_and_both_exports_agree(name, pre):
    model = block(pre=pre, positions=pre)
    made = quantize(model, windows(64, 1), quantizer=name, settings=SETTINGS.get(name))
    kinds = {type(step) for step in made.net.steps}
    assert {Product, Norm, Attention, Table} <= kinds
    x = windows(40, 2)
    right = run(model, x)
    ours = by_oracle(made, x)
    plain = run(to_qdq(made), x)
    edge = edge_kernels.session(to_edge(made).SerializeToString(), threads=1)
    np.testing.assert_allclose(edge.run(None, {"x": x})[0], ours, rtol=1e-5, atol=1e-6)
    assert difference(ours, right) < 0.04
    assert difference(plain, ours) < 0.02  # a level here and there


@pytest.mark.parametrize("bits", [4, 2])
def test_fewer_bits_lose_more_and_learning_wins_some_back(bits):
    model, x = block(), windows(64, 3)
    right = run(model, x)

    def loss(name, **settings):
        made = quantize(model, windows(64, 1), quantizer=name, bits=bits, settings=settings)
        return difference(run(to_qdq(made), x), right)

    nearest = loss("rtn")
    assert nearest > 0.02
    assert loss("distilled", steps=60, batch=16, windows=64) < nearest


def test_a_free_length_runs_at_any_length_and_keeps_the_epilogue():
    model = sentence_like()
    made = quantize(model, windows(64, 1, 5), quantizer="smoothquant")
    for length in (1, 5, 11):
        x = windows(3, length, length)
        ours, plain, right = by_oracle(made, x), run(to_qdq(made), x), run(model, x)
        ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        edge = edge_kernels.session(to_edge(made).SerializeToString(), threads=1)
        np.testing.assert_allclose(edge.run(None, {"x": x})[0], ours, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, rtol=1e-5)
        assert difference(ours, right) < 0.02
        assert difference(plain, ours) < 0.01


def test_16_bit_values_raise_the_opset_and_an_old_one_is_refused():
    made = quantize(block(), windows(32), quantizer="rtn")
    assert to_qdq(made).opset_import[0].version == 21
    made.split.prologue.opset_import[0].version = 17
    assert to_qdq(made).opset_import[0].version == 21
    made.split.prologue.graph.node.add(op_type="ReduceMean")  # written in another way since 18
    with pytest.raises(ValueError, match="16-bit levels need opset 21; the model's is 17: export"):
        to_qdq(made)
    del made.split.prologue.graph.node[:]
    edge_kernels.session(to_edge(made).SerializeToString())  # at its ends it has 8 bits


@pytest.mark.parametrize("opset", [13, 17])
def test_16_bit_ends_at_an_old_opset_are_the_same_to_the_bit(opset):
    made = quantize(sentence_like(), windows(64, 1, 5), quantizer="rtn")
    x = 3 * windows(9, 2, 5)  # beyond the ranges, too
    right = edge_kernels.session(to_edge(made)).run(None, {"x": x})[0]
    made.split.prologue.opset_import[0].version = opset
    made.split.prologue.graph.node.add(  # which keeps the opset from being raised
        op_type="Flatten", input=["x"], output=["unread"]
    )
    model = to_edge(made)
    assert model.opset_import[0].version == opset
    assert "QuantizeLinear" not in [node.op_type for node in model.graph.node]
    np.testing.assert_array_equal(edge_kernels.session(model).run(None, {"x": x})[0], right)


@pytest.mark.parametrize("pre", [True, False])
def test_scales_through_norms_and_attention_change_nothing(pre):
    net, x = read(block(pre=pre)).net, windows(16)
    scaling = classes(net)
    assert scaling.count > WIDTH + 1  # norms' factors, and attention's values
    random = np.random.default_rng(0)
    factors = np.exp(random.uniform(-1, 1, scaling.count))
    factors[0] = 1
    np.testing.assert_allclose(
        evaluate.run(scaled(net, scaling, factors), x), evaluate.run(net, x), rtol=1e-6, atol=1e-9
    )
    for step, columns in zip(net.steps, scaling.columns, strict=True):
        if isinstance(step, Norm):
            assert columns is None
        if isinstance(step, Attention):
            assert not scaling.values[step.x].any()
            assert scaling.values[step.v].all()
    found = smoothing(net, scaling, largest(net, x))
    assert (found != 1).sum() > WIDTH


def test_a_learner_computes_what_its_integers_do():
    model, x = block(pre=False), windows(32)
    split = read(model)
    made = MobileQuant(steps=4, batch=8).quantize(split.net, inputs(split, x))
    assert {each.bits for each in made.levels if each is not None} == {8, 16}
    learner = Learner(split.net, [(-4.0, 4.0)] * len(split.net.shapes[:-1]), 8)
    tops = {learner._tops[place] for place in learner._place if place >= 0}
    assert tops == {255, 65535}


def test_calibration_windows_of_another_width_are_refused():
    with pytest.raises(
        ValueError, match=r"shape \(4, 6, 9\); the model's input 'x' is \(windows, any, 8\)"
    ):
        quantize(sentence_like(), np.zeros((4, 6, 9), np.float32), quantizer="rtn")
