"""IntSequential inside ONNX Runtime against the oracle, to the bit."""

import concurrent.futures

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_kernels import library_path, session
from edge_kernels.integer import oracle
from edge_kernels.integer.edge import node, program
from edge_kernels.integer.net import FREE, Levels

onnx = pytest.importorskip("onnx")
library_path()  # where it is not built these tests fail, and do not pass by skipping

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.edge_kernels.integer.instruction_sets import SETS, keep, same  # noqa: E402


def kind_of(levels):
    if levels is None:
        return TensorProto.INT32
    return TensorProto.UINT8 if levels.bits == 8 else TensorProto.UINT16


def model_of(net):
    whole, constants = node(net, "x", "y", name="person")
    kind = kind_of(net.levels[net.output])
    shape = ["length" if each == FREE else each for each in net.shapes[0]]
    graph = helper.make_graph(
        [whole],
        "net",
        [helper.make_tensor_value_info("x", kind_of(net.levels[0]), ["batch", *shape])],
        [helper.make_tensor_value_info("y", kind, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("flwr.edge", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def opened(model, **how):
    return session(model.SerializeToString(), **how)


def ran(net, x, **how):
    return opened(model_of(net), **how).run(None, {"x": x})[0]


def compare(made, batch, length=7, **how):
    x = made.batch(batch, length)
    right, got = oracle.run(made.net, x), ran(made.net, x, **how)
    assert (got.dtype, got.shape) == (right.dtype, right.shape)
    assert (got == right).all()


def encoder(new_net, classes=8):
    """Made as the simulations' encoder with a head: (8, 100) → (classes,)."""
    made = new_net((8, 100), seed=1)
    x = 0
    for rows, kernel in ((32, 9), (64, 5), (64, 5)):
        pad = kernel // 2
        x = made.product(x, rows, kernel, relu=True, stride=2, pad_begin=pad, pad_end=pad)
    largest = made.reduce(x, False, 1)
    mean = made.reduce(x, True, 1)
    made.net.levels[mean] = made.net.levels[largest]
    x = made.product(made.concat([mean, largest], 0), 64, linear=True, relu=True)
    made.product(x, classes, linear=True, accumulators=True)
    return made


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8), st.sampled_from([0, 1, 3]))
def test_random_networks(random_net, seed, steps, batch):
    compare(random_net(seed, steps), batch)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0, 1, 3, 40]), st.booleans()
)  # fmt: skip
def test_random_sequences(random_sequence, seed, steps, length, sixteen):
    made = random_sequence(seed, steps, free=length > 0, bits=16 if sixteen else 8)
    compare(made, 2, length)


@pytest.mark.parametrize("heads", [1, 12])
def test_a_transformer_at_any_length(new_net, heads):
    """One session; more lengths than it keeps plans of."""
    made = transformer(new_net, heads, layers=2)
    run = opened(model_of(made.net), threads=2)
    for length in (*range(1, 20), 33, 64, 3):
        x = made.batch(2, length)
        assert (run.run(None, {"x": x})[0] == oracle.run(made.net, x)).all()
    spread = [len(np.unique(each)) for each in oracle.values(made.net, made.batch(1, 30))]
    assert min(spread[:-1]) > 32  # it does compute something


def test_attention_over_many_positions(new_net):
    """Weights whose sums need more than 23 bits."""
    made = new_net((700, 6))
    made.attention(*(made.product(0, 6, linear=True) for _ in "xkv"), 2, bits=16, sharp=0.01)
    compare(made, 1)


def transformer(new_net, heads=2, layers=1, width=24):
    made = new_net((FREE, width), seed=heads)
    made.net.levels[0] = made.spread(3.0, 16)
    x = 0
    for _ in range(layers):
        x = made.encoder_layer(x, heads, 4 * width)
    made.reduce(x, True, 0)
    return made


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 20), st.integers(1, 9), st.integers(1, 4),
    st.integers(1, 3), st.integers(0, 40), st.booleans(), st.booleans(),
)  # fmt: skip
@example(64, 32, 5, 2, 1, 0, True, False)
def test_convolutions(new_net, rows, channels, kernel, stride, dilation, more, relu, accumulators):
    span = (kernel - 1) * dilation + 1
    made = new_net((channels, 1 + more), seed=rows * 97 + more)
    pads = {"pad_begin": min(span - 1, 3), "pad_end": span - 1}
    how = {"stride": stride, "dilation": dilation, "relu": relu, "accumulators": accumulators}
    if 1 + more + sum(pads.values()) >= span:
        made.product(0, rows, kernel, **how, **pads)
    compare(made, 2)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 33, 48, 64, 80, 130])
@pytest.mark.parametrize("inputs", [1, 3, 4, 5, 64, 129])
def test_linear_layers_of_every_tail(new_net, rows, inputs):
    for shape in ((inputs,), (7, inputs)):
        made = new_net(shape, seed=rows)
        made.product(0, rows, linear=True)
        compare(made, 1)


def test_the_encoder(new_net):
    made = encoder(new_net)
    spread = [len(np.unique(each)) for each in oracle.values(made.net, made.batch(4))]
    assert min(spread[:6]) > 32  # it does compute something
    for batch in (0, 1, 3, 40):
        compare(made, batch, threads=2)


def test_products_do_not_saturate(new_net):
    made = new_net((1, 64))
    made.net.levels[0] = Levels(0.1, 0)
    made.product(0, 17, 9, accumulators=True)
    made.net.steps[0].weight[...] = -128
    x = np.full((1, 1, 64), 255, np.uint8)
    assert (ran(made.net, x) == oracle.run(made.net, x)).all()
    assert ran(made.net, x).min() < -9 * 128 * 255 + 6000


@pytest.mark.parametrize("ratio", [2.0**-20, 0.4999, 0.5, 0.9, 1.0, 3.7, 2.0**29])
def test_every_size_of_ratio(new_net, ratio):
    """Shifts below 32 have a path of their own."""
    made = new_net((5, 30), seed=3)
    made.product(0, 20, 3, relu=False)
    step = made.net.steps[0]
    step.weight_scale[...] = ratio * made.net.levels[1].scale / made.net.levels[0].scale
    step.weight[:] = made.rng.integers(-1, 2, step.weight.shape) if ratio > 0.1 else step.weight
    step.bias[:] = made.rng.integers(-200, 200, 20)
    made.net.levels[1] = Levels(made.net.levels[1].scale, 128)
    compare(made, 3)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, new_net, random_net, random_sequence):
    """Models, inputs and the oracle's outputs."""
    nets = [encoder(new_net), *(random_net(seed, 4) for seed in range(60))]
    nets += [transformer(new_net), *(random_sequence(seed, 5) for seed in range(60))]
    for rows in (1, 9, 16, 40, 65):
        for channels, dilation in ((1, 1), (3, 2), (8, 1)):
            made = new_net((channels, 29), seed=rows)
            window = {"dilation": dilation, "pad_begin": 2, "pad_end": 1, "stride": 2}
            made.product(0, rows, 5, **window)
            made.product(1, rows, 3, accumulators=True)
            nets.append(made)
    cases = [(made.net, made.batch(2)) for made in nets]
    return keep(tmp_path_factory.mktemp("answers") / "answers.npz", cases, model_of)


@pytest.mark.parametrize("isa", SETS)
def test_every_instruction_set(answers, isa):
    same(isa, answers)


def test_concurrent_runs_and_sessions(new_net):
    made = encoder(new_net)
    x = made.batch(9)
    right = oracle.run(made.net, x)
    model = model_of(made.net)
    sessions = [opened(model), opened(model, threads=2)]

    def once(at):
        return (sessions[at % 2].run(None, {"x": x})[0] == right).all()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(once, range(80)))


def test_an_input_of_another_shape_is_refused(new_net):
    run = opened(model_of(encoder(new_net).net))
    with pytest.raises(Exception, match=r"(?i)invalid dimensions|IntSequential 'person': x is of"):
        run.run(None, {"x": np.zeros((1, 8, 99), np.uint8)})


@pytest.mark.parametrize("shape", [(1, 0, 24), (1, 513, 24), (1, 5, 23)])
def test_an_input_of_no_possible_length_is_refused(new_net, shape):
    run = opened(model_of(transformer(new_net).net))
    with pytest.raises(Exception, match=r"(?i)invalid dimensions|IntSequential 'person': x is of"):
        run.run(None, {"x": np.zeros(shape, np.uint16)})


def test_an_input_of_another_type_is_refused(new_net):
    model = model_of(transformer(new_net).net)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    with pytest.raises(Exception, match="IntSequential 'person': x must be uint16"):
        opened(model).run(None, {"x": np.zeros((1, 3, 24), np.uint8)})


def test_products_of_16_bits_are_refused(new_net):
    made = new_net((3, 4), bits=16)
    made.product(0, 5, linear=True)
    with pytest.raises(ValueError, match=r"step 0 \(Product\): it reads 16 bits; IntSequential's"):
        program(made.net)


def test_runs_of_several_lengths_at_once(new_net):
    made = transformer(new_net)
    run = opened(model_of(made.net))
    inputs = [made.batch(1, length) for length in range(1, 30)]
    right = [oracle.run(made.net, x) for x in inputs]

    def once(at):
        return (run.run(None, {"x": inputs[at % 29]})[0] == right[at % 29]).all()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(once, range(120)))


def test_a_length_that_needs_more_memory_than_the_longest_is_refused(new_net):
    """At the longest, `free` does not fit the gap that `first` leaves, and `third` does."""
    made = new_net((FREE, 1))
    made.net.longest = 101
    rows = made.concat([0] * 1000, 1)
    one = made.reduce(0, False, 0)
    many = made.concat([one] * 1000, 0)
    wide = made.concat([many] * 1000, 0)
    first = made.reduce(made.concat([wide] * 100, 0), False, 0)
    free = made.concat([rows] * 1000, 1)
    second = made.concat([wide] * 100, 0)
    made.reduce(free, False, 0)
    made.concat([wide] * 101, 0)  # the third
    made.concat([first, made.reduce(second, False, 0), one, many], 0)
    run = opened(model_of(made.net))
    for _ in range(2):  # what failed is not kept
        with pytest.raises(Exception, match="a length of 100: program: its values take more than"):
            run.run(None, {"x": np.zeros((1, 100, 1), np.uint8)})


@pytest.fixture(scope="module")
def small(new_net):
    """A model with every instruction and constant."""
    made = new_net((3, 12), seed=5)
    x = made.product(0, 4, 3, pad_begin=1, pad_end=1, relu=True)
    x = made.pool(made.affine(made.add(x, x)), 3, True, pad_begin=1, pad_end=1)
    x = made.relu(made.pool(x, 2, False))
    x = made.transpose(made.concat([x, x], 1))
    made.product(made.reshape(made.reduce(x, True, 0, True), 4), 5, linear=True, accumulators=True)
    return model_of(made.net)


@pytest.fixture(scope="module")
def sequence(new_net):
    """A model with every instruction of transformers, at a free length."""
    made = transformer(new_net)
    made.net.longest = 40
    return model_of(made.net)


def attribute(model, name):
    return next(each for each in model.graph.node[0].attribute if each.name == name)


def changed(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def with_numbers(model, wrong):
    model = changed(model)
    for name, (at, number) in wrong.items():
        if at is None:
            attribute(model, name).i = number
        else:
            attribute(model, name).ints[at] = number
    return model


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"program": (0, 2)}, "instruction 0: its version is not 1"),
        ({"program": (1, 256)}, "the input's zero is not in 0 to 255"),
        ({"program": (2, 99)}, "instruction 0: an opcode is unknown"),
        ({"program": (3, 1)}, "instruction 0: an operand is missing or out of its range"),
        ({"program": (9, -1)}, "instruction 0: an operand"),
        ({"program": (4, 1)}, "instruction 0: its weight is not among .* int8 inputs of 36"),
        ({"program": (15, 3)}, "instruction 0: a pad is as long as the kernel"),
        ({"result": (None, 99)}, "result is value 99, which the program does not make"),
        ({"result": (None, 1)}, "its result is uint8: its only output must be the second"),
        ({"input_shape": (0, 4)}, "instruction 0: its weight is not among"),
        ({"input_shape": (0, 1 << 40)}, "input_shape must be one or two positive sizes"),
    ],
)
def test_wrong_programs_name_instruction_and_cause(small, wrong, message):
    model = with_numbers(small, wrong)
    with pytest.raises(Exception, match=f"IntSequential 'person': .*{message}"):
        opened(model)


# Of `sequence`: 0 version, 1 zero, 2 rescale, 7, 16, 25 three products, 34 attention.
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"longest": (None, 0)}, "input_shape must be one or two positive sizes"),
        ({"longest": (None, 65536)}, "a free axis of more than 65535 is not possible"),
        ({"input_shape": (1, -1)}, "input_shape must be one or two positive sizes"),
        ({"program": (6, 1 << 16)}, "instruction 1: it reads a value of 16 bits; 8 are needed"),
        ({"program": (35, 5)}, "instruction 4: an operand is missing or out of its range"),
        ({"program": (35, 0)}, "instruction 4: it reads a value of 16 bits; 8 are needed"),
        ({"program": (37, 5)}, "instruction 4: an operand"),
        ({"program": (38, 5)}, "instruction 4: its heads are not of equal size"),
        ({"program": (38, 0)}, "instruction 4: an operand"),
        ({"program": (42, 41)}, "instruction 4: an operand"),
        ({"result": (None, 6)}, "its result is uint16: its only output must be the third"),
    ],
)
def test_wrong_sequences_name_instruction_and_cause(sequence, wrong, message):
    model = with_numbers(sequence, wrong)
    with pytest.raises(Exception, match=f"IntSequential 'person': .*{message}"):
        opened(model)


@pytest.fixture(scope="module")
def gates(new_net):
    """A model of a constant, a part, and products: program 2 constant, 7 slice, 12 and 19."""
    made = new_net((3, 12), seed=5)
    made.slice(made.constant(3, 14), 1, 1, 12)
    made.multiply(made.multiply(0, 2), made.reduce(0, True, 1, keep=True))
    return model_of(made.net)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"program": (3, 9)}, "instruction 0: its table is not among the node's int32 inputs"),
        (
            {"program": (5, 15)},
            "instruction 0: its table is not among the node's int32 .* of 45",
        ),
        ({"program": (4, 0)}, "instruction 0: an operand is missing or out of its range"),
        ({"program": (9, 2)}, "instruction 1: an operand"),
        ({"program": (9, 0)}, "instruction 1: slice reaches beyond its value"),
        ({"program": (10, 3)}, "instruction 1: slice reaches beyond its value"),
        ({"program": (11, 1 << 28)}, "instruction 1: slice reaches beyond its value"),
        ({"program": (10, -1)}, "instruction 1: an operand"),
        ({"program": (14, 1)}, "instruction 2: multiply's shapes do not fit"),
        ({"program": (15, (1 << 30) + 1)}, "instruction 2: an operand"),
        ({"program": (15, -1)}, "instruction 2: an operand"),
        ({"program": (16, 63)}, "instruction 2: an operand"),
        ({"program": (18, 2)}, "instruction 2: an operand"),
        ({"input_shape": (1, 13)}, "instruction 2: multiply's shapes do not fit"),
    ],
)
def test_wrong_gates_name_instruction_and_cause(gates, wrong, message):
    model = with_numbers(gates, wrong)
    with pytest.raises(Exception, match=f"IntSequential 'person': .*{message}"):
        opened(model)


def test_a_free_axis_is_multiplied_by_none_of_another_length(new_net):
    """Even where the longest is as long, or the free axis is 1 at that length."""
    made = new_net((FREE, 4))
    made.multiply(0, made.constant(1, 4))
    made.net.longest = 3
    model = model_of(made.net)
    x = made.batch(2, 3)
    assert (ran(made.net, x) == oracle.run(made.net, x)).all()
    numbers = attribute(model, "program").ints
    numbers[4] = 3  # of the constant's (1, 4)
    tensor = numpy_helper.to_array(model.graph.initializer[0])
    wide = numpy_helper.from_array(np.repeat(tensor, 3, 0), "person.0")
    model.graph.initializer[0].CopyFrom(wide)
    for longest in (3, 1):
        attribute(model, "longest").i = longest
        with pytest.raises(Exception, match="instruction 1: multiply's shapes do not fit"):
            opened(model)


def test_a_wrong_table_names_its_entry(new_net):
    made = new_net((3, 5))
    made.table(0)
    model = model_of(made.net)
    numbers = numpy_helper.to_array(model.graph.initializer[0]).copy()
    numbers[7] = 256
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(numbers, "person.0"))
    with pytest.raises(Exception, match="entry 7 of its table is 256; 0 to 255 are possible"):
        opened(model)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (3, 0, "row 0 has multiplier .* and shift 0; 0 to 2.31 - 1 and 1 to 62 are possible"),
        (3, 63, "row 0 has multiplier .* and shift 63"),
        (2, -1, "row 0 has multiplier -1"),
        (1, (1 << 31) - 1, "the sums of row 0 may not fit 32 bits"),
        (5, 1 << 62, "channel 0 has a multiplier beyond 2.30 or a term beyond 2.61"),
    ],
)
def test_wrong_constants_name_instruction_and_cause(small, at, value, message):
    model = changed(small)
    tensor = model.graph.initializer[at]
    numbers = numpy_helper.to_array(tensor).copy()
    numbers.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    with pytest.raises(Exception, match=rf"IntSequential 'person': program, .*{message}"):
        opened(model)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), number=st.sampled_from([-(2**63), -2, -1, 0, 1, 3, 2**31, 2**62, 2**63 - 1]))
def test_hostile_numbers(small, sequence, gates, data, number):
    """A changed program runs or is refused, by name."""
    model = changed(data.draw(st.sampled_from([small, sequence, gates])))
    numbers = attribute(model, data.draw(st.sampled_from(["program", "input_shape"]))).ints
    numbers[data.draw(st.integers(0, len(numbers) - 1))] = number
    try:
        run = opened(model)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's own types)
        assert "IntSequential 'person': " in str(error)  # noqa: PT017
        return
    x = run.get_inputs()[0]
    shape = [each if isinstance(each, int) else 2 for each in x.shape]
    try:
        run.run(None, {"x": np.full(shape, 200, np.uint8 if "uint8" in x.type else np.uint16)})
    except Exception as error:  # noqa: BLE001
        assert "IntSequential 'person': x " in str(error)  # noqa: PT017
