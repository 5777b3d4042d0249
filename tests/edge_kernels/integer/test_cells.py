"""Recurrent steps: the oracle against torch, every instruction set against the oracle."""

import io
from dataclasses import replace

import numpy as np
import pytest

from edge_kernels.integer import cells, oracle
from edge_kernels.integer.net import FREE, IntNet, Levels
from edge_kernels.integer.recurrent import MOST_GATE, ONE, Direction, Recurrent
from tests.edge_kernels.integer.instruction_sets import SETS, codes, keep, same
from tests.edge_kernels.integer.slow_cells import slow_recurrent
from tests.edge_kernels.integer.test_edge import compare, model_of, opened

torch = pytest.importorskip("torch")

WAYS = [(False,), (True,), (False, True)]
_ORDER = {False: [0, 3, 1, 2], True: [1, 0, 2]}  # of torch's gates: ONNX's


def test_sigmoid_and_tanh_are_close_everywhere():
    g = np.concatenate([np.arange(-1 << 17, 1 << 17), [-MOST_GATE, MOST_GATE]])
    real = g / 4096
    with np.errstate(over="ignore"):
        right = 1 / (1 + np.exp(-real))
    assert np.abs(cells.sigmoid(g) / ONE - right).max() < 7e-5
    assert np.abs(cells.tanh(g) / ONE - np.tanh(real)).max() < 1.4e-4
    assert (np.diff(cells.sigmoid(np.sort(g))) >= 0).all()


def rounded(weight):
    scale = np.maximum(np.abs(weight).max(1), 1e-9) / 127
    return np.rint(weight / scale[:, None]), scale


def of_torch(gru, ways, bits=16, length=30, inputs=5, width=16):
    """A layer of torch's in integers, of its gates' sums in so many bits; and what torch makes."""
    torch.manual_seed(len(ways))
    kind = torch.nn.GRU if gru else torch.nn.LSTM
    layer = kind(inputs, width, batch_first=True, bidirectional=True).double()
    for each in layer.parameters():
        each.data *= 2
    half = 1 << (bits - 1)
    h, unit = Levels(1 / 128, 128), 8 / half
    directions, owns = [], []
    for reverse in ways:
        end = "_l0_reverse" if reverse else "_l0"
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        given = (getattr(layer, name + end).detach().numpy() for name in names)
        split = [np.split(each, len(_ORDER[gru])) for each in given]
        w, r, b, own = (np.concatenate([each[i] for i in _ORDER[gru]]) for each in split)
        apart = 2 * width if gru else 4 * width
        b[:apart] += own[:apart]
        own[:apart] = 0
        weight, scale = rounded(r)
        bias = np.rint(own / (scale * h.scale)).astype(np.int32)
        directions.append(Direction(weight.astype(np.int8), bias, scale, reverse))
        owns.append((w, b))
    rows = (3 if gru else 4) * width * len(ways)
    net = IntNet([(length, rows), (length, width * len(ways))], [Levels(unit, half, bits), h])
    net.steps, net.output = [Recurrent(0, gru, tuple(directions))], 1
    x = np.random.default_rng(0).normal(size=(4, length, inputs))
    sums = np.concatenate([x @ w.T + b for w, b in owns], -1)
    with torch.no_grad():
        both = layer(torch.from_numpy(x))[0].numpy()
    halves = np.split(both, 2, -1)
    right = np.concatenate([halves[int(reverse)] for reverse in ways], -1)
    x = np.clip(np.rint(sums / unit) + half, 0, 2 * half - 1)
    return net, x.astype(np.uint16 if bits == 16 else np.uint8), right


def apart(q, right):
    """Relative RMS error of states."""
    got = (q.astype(float) - 128) / 128
    return np.sqrt(((got - right) ** 2).mean() / (right**2).mean())


@pytest.mark.parametrize("gru", [False, True], ids=["lstm", "gru"])
@pytest.mark.parametrize("ways", WAYS, ids=["forward", "reverse", "both"])
def test_as_torch_has_them(gru, ways):
    net, x, right = of_torch(gru, ways)
    error = apart(oracle.run(net, x), right)
    assert error < 0.015
    assert 2 * error < apart(oracle.run(*of_torch(gru, ways, bits=8)[:2]), right)  # worth 16 bits
    assert (opened(model_of(net)).run(None, {"x": x})[0] == oracle.run(net, x)).all()


@pytest.mark.parametrize("gru", [False, True], ids=["lstm", "gru"])
@pytest.mark.parametrize("ways", WAYS, ids=["forward", "reverse", "both"])
@pytest.mark.parametrize("width", [1, 3, 16, 37])
def test_the_operator_is_the_oracle(new_net, gru, ways, width):
    for free in (False, True):
        made = new_net((FREE if free else 9, 6), seed=width)
        for bits in (8, 16):
            x = made.recurrent(0, width, gru, ways, bits)
            x = made.recurrent(made.transpose(made.transpose(x)) if not free else x, 5, gru, ways)
        for length in (1, 9):
            compare(made, 2, length)
    values = oracle.values(made.net, made.batch(3, 9))
    assert len(np.unique(values[made.net.output])) > 32  # it does compute something


@pytest.mark.parametrize("gru", [False, True], ids=["lstm", "gru"])
@pytest.mark.parametrize("ways", WAYS, ids=["forward", "reverse", "both"])
def test_the_oracle_is_the_description(new_net, gru, ways):
    for bits in (8, 16):
        made = new_net((7, 4), seed=bits)
        made.recurrent(0, 5, gru, ways, bits)
        x = made.batch(1)
        values = oracle.values(made.net, x)
        before = {i: int(values[1][0][i]) for i in np.ndindex(*made.shape(1))}
        right = slow_recurrent(made.net, 1, made.net.steps[1], before, 7)
        assert all(values[2][0][i] == q for i, q in right.items())


@pytest.fixture(scope="module")
def answers(new_net, tmp_path_factory):
    nets = []
    for gru in (False, True):
        for ways in WAYS:
            made = new_net((20, 7), seed=len(ways))
            made.recurrent(made.recurrent(0, 21, gru, ways, 8), 40, gru, ways)
            nets.append((made.net, codes(made.net, 5)))
    return keep(tmp_path_factory.mktemp("recurrent") / "answers.npz", nets, model_of)


@pytest.mark.parametrize("isa", SETS)
def test_every_instruction_set_is_the_oracle(answers, isa):
    same(isa, answers)


def test_numbers_at_their_ends(new_net):
    """Cell states that are clamped, gates that are, and levels whose zero is not in the middle."""
    for zero, scale in ((0, 1e-4), (255, 30.0)):
        made = new_net((12, 4), seed=zero)
        made.net.levels[0] = Levels(3e3, 128)
        made.recurrent(0, 8, ways=(False, True))
        made.recurrent(made.net.output, 8, True)
        made.net.levels[-1] = Levels(scale, zero)
        compare(made, 3)


def changed(step, **changes):
    return replace(step, directions=(replace(step.directions[0], **changes),))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda s: replace(s, directions=()), "directions"),
        (lambda s: replace(s, directions=s.directions * 2), "directions"),
        (lambda s: changed(s, hidden_bias=np.zeros(3, np.int32)), "hidden_bias is of shape"),
        (
            lambda s: changed(s, hidden_weight=np.zeros((16, 3), np.int8)),
            r"\(16, 3\), not \(12, 3\)",
        ),
        (lambda s: changed(s, hidden_weight=np.zeros((16, 4), np.int16)), "int16"),
        (lambda s: changed(s, hidden_scale=np.zeros(16)), "hidden_scale is not positive"),
        (lambda s: changed(s, hidden_scale=np.full(16, np.nan)), "hidden_scale is not positive"),
        (lambda s: changed(s, hidden_bias=np.full(16, (1 << 31) - 1, np.int32)), "beyond"),
        (lambda s: replace(s, gru=True), r"\(16, 4\), not \(12, 4\)"),
    ],
)
def test_what_is_not_consistent_is_refused_by_name(new_net, wrong, message):
    made = new_net((6, 5))
    made.recurrent(0, 4)
    made.net.steps[1] = wrong(made.net.steps[1])
    with pytest.raises(ValueError, match=message):
        oracle.check(made.net)


def test_a_result_has_eight_bits(new_net):
    made = new_net((6, 5))
    made.recurrent(0, 4)
    made.net.levels[-1] = Levels(1e-4, 5, 16)
    with pytest.raises(ValueError, match="result of 16 bits; 8 are needed"):
        oracle.check(made.net)


def test_a_program_with_other_constants_is_refused(new_net):
    """Each operand and constant of the operator: it names the instruction, and never crashes."""
    made = new_net((6, 5))
    made.recurrent(0, 4, ways=(False, True))
    model = model_of(made.net)
    (node,) = model.graph.node
    (program,) = (each for each in node.attribute if each.name == "program")
    start = 11  # behind the version, the input's zero and a linear layer
    assert program.ints[start] == 18
    for at, value in [
        (start + 1, 7), (start + 2, 5), (start + 2, 0), (start + 3, 0), (start + 3, 1),
        (start + 4, 0), (start + 5, -1), (start + 6, 0), (start + 6, 63), (start + 8, 0),
        (start + 9, 300), (start + 9, 1 << 16), (start + 10, 0), (start + 11, 0),
    ]:  # fmt: skip
        before, program.ints[at] = program.ints[at], value
        with pytest.raises(Exception, match=r"program, instruction 1: |IntSequential"):
            opened(model)
        program.ints[at] = before
    opened(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t + 1, "its table is 32769; 0 to 32768"),
        (lambda t: t[::-1], "entry 1 of its table is 32768|none below the one before"),
    ],
)
def test_a_table_that_is_none_is_refused(new_net, change, message):
    import onnx
    from onnx import numpy_helper

    made = new_net((6, 5))
    made.recurrent(0, 4)
    model = onnx.load(io.BytesIO(model_of(made.net).SerializeToString()))
    for each in model.graph.initializer:
        array = numpy_helper.to_array(each)
        if array.shape == (257,):
            each.CopyFrom(numpy_helper.from_array(change(array).copy(), each.name))
    with pytest.raises(Exception, match=message):
        opened(model)
