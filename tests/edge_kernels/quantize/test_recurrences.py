"""LSTM and GRU, from torch's module to operator; and what is refused by name."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from client.bundle.checks import LIMITS
from edge_kernels.integer.net import FREE, Product
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.quantize import calibrate, evaluate
from edge_kernels.quantize.floats import FloatNet
from edge_kernels.quantize.integer_rounding import integers, states_rounded
from edge_kernels.quantize.learner import Learner
from edge_kernels.quantize.quantizer import inputs, quantize, to_edge, to_lookup, to_qdq
from edge_kernels.quantize.reader import read
from edge_kernels.quantize.scaling import classes, scaled
from tests.edge_kernels.integer.instruction_sets import SETS, codes, keep, same
from tests.edge_kernels.integer.test_edge import model_of
from tests.edge_kernels.quantize.gated import exported, seeded
from tests.edge_kernels.quantize.recurring import NETS, SHAPE, WIDTH
from tests.edge_kernels.quantize.test_gates import FEW, integer_output, served, windows
from tests.edge_kernels.quantize.test_range_graph import check_counts
from tests.edge_kernels.quantize.test_transformers import difference, run


@cache
def model(name):
    return exported(seeded(NETS[name]))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_it_reads_as_the_float_model(name, dynamo):
    # torch.export walks through every position, some milliseconds each: few of them show its form.
    shape = (SHAPE[0], 16) if dynamo else SHAPE
    whole, x = exported(seeded(NETS[name]), shape, dynamo=dynamo), windows(7, shape=shape)
    split = read(whole)
    net, right = split.net, run(whole, x)
    np.testing.assert_allclose(evaluate.run(net, inputs(split, x)), right, rtol=1e-4, atol=2e-5)
    kinds = {node.op_type for node in split.prologue.graph.node}
    assert not kinds & {"LSTM", "GRU", "MatMul", "Conv"}
    layers = 2 if name.startswith(("deep", "ends", "last")) else 1
    found = [step for step in net.steps if isinstance(step, Recurrent)]
    assert len(found) == layers
    assert all(isinstance(net.steps[step.x - 1], Product) for step in found)


def integers_of(name, bits=8, quantizer="rtn", settings=None):
    """In plain ONNX states are not rounded between positions."""
    return served(model(name), bits, quantizer, settings=settings, apart=0.01)


@pytest.mark.parametrize("name", NETS)
def test_8_and_4_bits(name):
    made, error = integers_of(name)
    assert error < 0.03
    assert integers_of(name, 4)[1] < 0.15
    step, value = next(
        (step, at) for at, step in enumerate(made.net.steps, 1) if isinstance(step, Recurrent)
    )
    assert [made.net.levels[v].bits for v in (step.x, value)] == [16, 8]


@pytest.mark.parametrize("name", ["deepconvlstm", "ends of grus"])
@pytest.mark.parametrize("quantizer", ["smoothquant", "mobilequant", "distilled", "blockwise"])
def test_every_quantizer_learns_through_states(name, quantizer):
    settings = None if quantizer == "smoothquant" else FEW
    assert integers_of(name, 8, quantizer, settings)[1] < 0.03


def test_learning_wins_some_back():
    _, nearest = integers_of("deepconvgru", 4)
    few = {"steps": 60, "batch": 16, "windows": 64}
    assert integers_of("deepconvgru", 4, "distilled", few)[1] < nearest


@pytest.mark.parametrize("name", ["deepconvlstm", "deepconvgru", "between"])
def test_scaling_changes_nothing(name):
    net = read(model(name)).net
    x = inputs(read(model(name)), windows(6))
    scaling = classes(net)
    factors = np.exp(np.random.default_rng(1).standard_normal(scaling.count))
    factors[0] = 1.0
    other = scaled(net, scaling, factors)
    np.testing.assert_allclose(evaluate.run(other, x), evaluate.run(net, x), rtol=1e-6, atol=1e-7)
    assert scaling.count > 1


@pytest.mark.parametrize("name", ["deepconvlstm", "ends of grus", "between"])
def test_the_learner_computes_what_the_integers_do(name):
    split = read(model(name))
    net, x = split.net, inputs(split, windows(64))
    learner = Learner(net, calibrate.ranges(net, x), 8)
    with torch.no_grad():
        found = learner(torch.from_numpy(x))[net.output].numpy()
    # A state is rounded where it is read by later steps, not between positions.
    assert difference(found, integer_output(integers(learner.choice()), x)) < 0.01


def test_the_learner_has_the_codes_of_states():
    """A state of the learner's, of the sums that it has itself, is that of the codes' weights."""
    split = read(model("time first, gru"))
    net, x = split.net, inputs(split, windows(64))
    learner = Learner(net, calibrate.ranges(net, x), 8)
    ways = integers(learner.choice()).steps[1].directions
    coded = [way.hidden_weight * way.hidden_scale[:, None] for way in ways]
    step = states_rounded(net).steps[1]
    np.testing.assert_allclose([way.hidden_weight for way in step.directions], coded, rtol=1e-12)
    with torch.no_grad():
        found = learner.values(torch.from_numpy(x), cut=False, levelled=False)
    alone = FloatNet(net.shapes[1:3], [replace(step, x=0)], ["states"], 1)
    sums = found[1].numpy().astype(np.float64)
    np.testing.assert_allclose(found[2].numpy(), evaluate.run(alone, sums), atol=2e-6)


@pytest.mark.parametrize("name", ["deepconvlstm", "time first, gru", "between"])
def test_devices_count_the_same_ranges(name):
    check_counts(model(name), windows(5))


def test_plain_onnx_needs_no_16_bits_and_no_layer_twice():
    made = quantize(model("deepconvlstm"), windows(64, 1), quantizer="rtn")
    whole = to_qdq(made)
    assert whole.opset_import[0].version == 17
    kinds = [node.op_type for node in whole.graph.node]
    assert (kinds.count("LSTM"), kinds.count("MatMul")) == (2, 0)
    held = sum(len(each.raw_data) for each in whole.graph.initializer)
    floats = sum(numpy_helper.to_array(t).nbytes for t in model("deepconvlstm").graph.initializer)
    assert held < floats / 2


def test_bundles_take_both_exports():
    made = quantize(model("ends of lstms"), windows(64, 1), quantizer="rtn")
    for export in (to_qdq, to_edge):
        kinds = {node.op_type for node in export(made).graph.node}
        assert kinds <= LIMITS.operators["ai.onnx"] | LIMITS.operators["flwr.edge"]


def test_a_layer_at_any_length():
    """The time axis is free: one graph for all lengths."""
    made = exported(seeded(NETS["time first, gru"]))
    for value in made.graph.input:
        value.type.tensor_type.shape.dim[2].dim_param = "length"
    (source,) = (v for v in made.graph.input)
    turned = helper.make_node("Transpose", ["x"], ["x.turned"], perm=[0, 2, 1])
    for node in made.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = "x.turned" if name == "x" else name
    nodes = [turned, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    dims = source.type.tensor_type.shape.dim
    dims[1].ClearField("dim_value")
    dims[1].dim_param, dims[2].dim_value = "length", SHAPE[0]
    del made.graph.value_info[:]
    split = read(made)
    assert split.net.shapes[0] == (FREE, SHAPE[0])
    calibration = windows(64, 1).transpose(0, 2, 1)
    whole = to_edge(quantize(made, calibration, quantizer="rtn"))
    for length in (3, 32, 50):
        x = windows(4, length, (length, SHAPE[0]))
        assert difference(run_edge(whole, x), run(made, x)) < 0.05


def run_edge(whole, x):
    from edge_kernels import session

    return session(whole.SerializeToString()).run(None, {"x": x})[0]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    nets = [
        quantize(model(name), windows(64, 1), quantizer="rtn").net
        for name in ("deepconvlstm", "ends of lstms", "time first, gru")
    ]
    cases = [(net, codes(net, at)) for at, net in enumerate(nets)]
    return keep(tmp_path_factory.mktemp("recurrences") / "answers.npz", cases, model_of)


@pytest.mark.parametrize("isa", SETS)
def test_every_instruction_set(isa, answers):
    same(isa, answers)


def altered(kind="LSTM", inputs=(), outputs=("all",), linear_before_reset=1, **given):
    """A linear layer, a node with something unusual, the mean over time, and a linear layer."""
    gates = 3 if kind == "GRU" else 4
    if kind == "GRU":
        given["linear_before_reset"] = linear_before_reset
    random = np.random.default_rng(0)
    held = {
        "e": random.standard_normal((SHAPE[0], 6)),
        "w": random.standard_normal((1, gates * 4, 6)),
        "r": random.standard_normal((1, gates * 4, 4)),
        "p": random.standard_normal((1, 12)),
        "ones": np.ones((1, 1, 4)),
        "f": random.standard_normal((4, 5)),
    }
    tensors = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in held.items()]
    for name, number in {"two": 2, "four": 4}.items():
        tensors.append(numpy_helper.from_array(np.array([number]), name))
    tensors.append(numpy_helper.from_array(np.array([0]), "first"))
    tensors.append(numpy_helper.from_array(np.array([1]), "second"))
    tensors.append(numpy_helper.from_array(np.array([SHAPE[1]], np.int32), "lengths"))
    read_more = list(inputs)
    make = helper.make_node
    ends = list(outputs)
    nodes = [
        make("MatMul", ["x", "e"], ["embedded"]),
        make("Transpose", ["embedded"], ["turned"], perm=[1, 0, 2]),
        make("Slice", ["turned", "first", "second", "first"], ["position"]),
        make("Slice", ["position", "first", "four", "two"], ["made"]),  # of what is read
        make(kind, ["turned", "w", "r", *read_more], ends, name="odd", hidden_size=4, **given),
    ]
    if ends[0]:
        nodes += [
            make("Squeeze", ["all", "second"], ["states"]),
            make("ReduceMean", ["states"], ["mean"], axes=[0], keepdims=0),
        ]
    else:
        nodes.append(make("Squeeze", [ends[-1], "first"], ["mean"]))
    nodes.append(make("MatMul", ["mean", "f"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, SHAPE[1], SHAPE[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_usual_one_is_read():
    for kind in ("LSTM", "GRU"):
        made, x = altered(kind), windows(1, 0, SHAPE[::-1])
        split = read(made)
        assert any(isinstance(step, Recurrent) for step in split.net.steps)
        np.testing.assert_allclose(evaluate.run(split.net, x), run(made, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"activations": ["Relu", "Tanh", "Tanh"]}, r"activations are \[b'Relu'"),
        ({"clip": 3.0}, "it has clip = 3.0"),
        ({"input_forget": 1}, "it has input_forget = 1"),
        ({"inputs": ["", "lengths"]}, "it has lengths of sequences"),
        ({"inputs": ["", "", "ones"]}, "its initial state 'ones' is not 0"),
        ({"inputs": ["", "", "made"]}, "its initial state 'made' is not 0"),
        ({"inputs": ["", "", "", "ones"]}, "its initial cell state 'ones' is not 0"),
        ({"inputs": ["", "", "", "", "p"]}, "it has peepholes"),
        ({"outputs": ["", "", "cell"]}, "its last cell state is read"),
        ({"kind": "GRU", "linear_before_reset": 0}, "linear_before_reset = 1 is served"),
    ],
)
def test_what_is_refused_names_the_node_and_why(odd, message):
    with pytest.raises(ValueError, match=rf"node 'odd' \((LSTM|GRU)\).*{message}"):
        read(altered(**odd))


def test_weights_that_are_not_finite_are_refused():
    made = altered()
    for each in made.graph.initializer:
        if each.name == "r":
            bad = numpy_helper.to_array(each).copy()
            bad[0, 0, 0] = np.nan
            each.CopyFrom(numpy_helper.from_array(bad, "r"))
    with pytest.raises(ValueError, match=r"'odd'.*'r' are not all finite"):
        read(made)


def test_lookup_kernels_refuse_it_by_name():
    made = quantize(
        model("deepconvlstm"), windows(64, 1), quantizer="rtn", bits=4, settings={"ends": 4}
    )
    with pytest.raises(ValueError, match=r"a recurrent layer \(LSTM\); to_edge and to_qdq serve"):
        to_lookup(made)


def test_a_gate_that_never_moves():
    """Rows of zeros have a scale, too; a state that is always 0 has levels."""

    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.GRU(SHAPE[0], WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, 5)
            for each in self.layers.parameters():
                nn.init.zeros_(each)

        def forward(self, x):
            return self.head(self.layers(x.transpose(1, 2))[0].mean(1))

    _, error = served(exported(seeded(Still)))
    assert error < 0.01
