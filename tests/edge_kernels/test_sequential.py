import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_kernels import layout, library_path, session
from edge_kernels.quantize import rtn
from edge_kernels.sequential import Fusion, fold, fuse

library_path()  # where it is not built these tests fail, and do not pass by skipping

WIDTHS = [
    {"bits": 1},
    {"bits": 2, "ternary": True},
    {"bits": 2},
    {"bits": 3, "group": 32},
    {"bits": 4},
    {"bits": 4, "symmetric": False},
    {"bits": 4, "group": 128},
    {"bits": 3, "group": 0},
    {"bits": 2, "group": 0, "symmetric": False},
]


def model_of(nodes, constants, inputs, outputs, opset=20):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("flwr.edge", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Net:
    """Writes a random float network, node by node."""

    def __init__(self, seed, opset=20):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.opset = [], {}, opset

    def floats(self, *shape):
        name = f"c{len(self.constants)}"
        value = self.rng.standard_normal(shape, dtype=np.float32)
        self.constants[name] = value / np.float32(np.sqrt(max(1, np.prod(shape[1:]))))
        return name

    def ints(self, *numbers):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(numbers, np.int64)
        return name

    def add(self, op, *inputs, outputs=1, **given):
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **given))
        return names[0]

    def conv(self, x, channels, n, kernel, stride=1, dilation=1, pads=(0, 0), bias=True):
        inputs = [x, self.floats(n, channels, kernel)] + ([self.floats(n)] if bias else [])
        given = {"strides": [stride], "dilations": [dilation], "pads": list(pads)}
        return self.add("Conv", *inputs, **given)

    def gemm(self, x, k, n):
        return self.add("Gemm", x, self.floats(n, k), self.floats(n), transB=1)

    def model(self, shape, *outputs):
        inputs = {"x": ["batch", *shape]}
        return model_of(self.nodes, self.constants, inputs, outputs, self.opset)


def encoder(name="opt", head=False):
    """Made as the simulations' encoder is exported: (8, 100) → (64,)."""
    net = Net(0)
    x, channels = "x", 8
    for n, kernel in ((32, 9), (64, 5), (64, 5)):
        x = net.conv(x, channels, n, kernel, stride=2, pads=(kernel // 2, kernel // 2), bias=False)
        scale, shift = net.floats(n, 1), net.floats(n, 1)
        x = net.add("Relu", net.add("Add", net.add("Mul", x, scale), shift))
        channels = n
    axis = net.ints(-1)
    mean = net.add("ReduceMean", x, axis, keepdims=0)
    pooled = net.add("Concat", mean, net.add("ReduceMax", x, axis, keepdims=0), axis=1)
    x = net.add("Relu", net.gemm(pooled, 128, 64))
    return net.model((8, 100), net.gemm(x, 64, 8) if head else x)


def ran(model, x, **options):
    return session(model.SerializeToString(), **options).run(None, {"x": x})


def both(model, x, whole=True, **how):
    """Outputs of the low-bit network, as a node a layer and fused."""
    low = rtn(fold(model), gain=0, **{"bits": 4, **how})
    report = Fusion()
    fused = fuse(low, report=report)
    if whole:
        assert [node.op_type for node in fused.graph.node] == ["LutSequential"], report
    return ran(low, x), ran(fused, x)


def check(model, x, **how):
    for apart, fused in zip(*both(model, x, **how), strict=True):
        assert fused.shape == apart.shape
        # The same bits but for sums of ONNX's own pooling, and what a sum's last bit does to the
        # rounding of an activation further on.
        slack = 2e-3 * np.abs(apart).max(initial=0)
        np.testing.assert_allclose(fused, apart, rtol=1e-4, atol=slack)


@pytest.mark.parametrize("how", WIDTHS, ids=str)
def test_encoder_as_a_node_a_layer(how):
    x = np.random.default_rng(1).standard_normal((3, 8, 100), dtype=np.float32)
    check(encoder(head=True), x, **how)


@pytest.mark.parametrize("batch", [0, 1, 3, 32])
def test_batches(batch):
    x = np.random.default_rng(1).standard_normal((batch, 8, 100), dtype=np.float32)
    check(encoder(), x)
    if batch > 1:
        fused = fuse(rtn(encoder(), bits=2, gain=0))
        alone = [ran(fused, x[i : i + 1])[0] for i in range(batch)]
        for threads in (1, 2):
            np.testing.assert_array_equal(ran(fused, x, threads=threads)[0], np.concatenate(alone))


def test_four_bits_are_near_the_float_network():
    x = np.random.default_rng(1).standard_normal((8, 8, 100), dtype=np.float32)
    exact = onnxruntime.InferenceSession(encoder().SerializeToString()).run(None, {"x": x})[0]
    fused = both(encoder(), x, bits=4, group=32)[1][0]
    assert np.linalg.norm(fused - exact) < 0.1 * np.linalg.norm(exact)


@pytest.mark.parametrize("optimize", [True, False])
def test_torch_export(optimize):
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from hypernet.networks.encoder import ConvEncoder
    from hypernet.networks.inputs import InputSpec

    torch.manual_seed(0)
    network = ConvEncoder(InputSpec(100, 6, ((0, 1, 2), (3, 4, 5)))).eval()
    x = torch.randn(4, 8, 100)
    exported = torch.onnx.export(
        network,
        (x,),
        dynamo=True,
        optimize=optimize,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    ).model_proto
    check(exported, x.numpy())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_networks(data):  # noqa: C901
    draw = data.draw
    net = Net(draw(st.integers(0, 999)), draw(st.sampled_from([18, 20, 21, 23])))
    channels, length = draw(st.integers(1, 20)), draw(st.integers(4, 40))
    shape, x = (channels, length), "x"
    if draw(st.booleans()):
        shape, x = (length, channels), net.add("Transpose", "x", perm=[0, 2, 1])
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "residual", "pool", "affine", "relu", "branches"]))
        if kind in ("conv", "branches"):
            kernel = draw(st.integers(1, min(5, length)))
            dilation = draw(st.integers(1, 2))
            pads = tuple(draw(st.integers(0, (kernel - 1) * dilation)) for _ in range(2))
            stride, n = draw(st.integers(1, 3)), draw(st.integers(1, 40))
            room = length + sum(pads) - (kernel - 1) * dilation - 1
            if room < 0:
                continue
            given_ = {"stride": stride, "dilation": dilation, "pads": pads}
            before, x = x, net.conv(x, channels, n, kernel, bias=draw(st.booleans()), **given_)
            if kind == "branches":
                x = net.add("Concat", x, net.conv(before, channels, 3, kernel, **given_), axis=1)
            channels, length = n + 3 * (kind == "branches"), room // stride + 1
        elif kind == "residual":
            y = net.add("Relu", net.conv(x, channels, channels, 3, pads=(1, 1)))
            x = net.add("Add", y, x)
        elif kind == "pool" and length > 3:
            op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
            pads = [draw(st.integers(0, 1)), 1]
            extra = {"count_include_pad": draw(st.integers(0, 1))} if op == "AveragePool" else {}
            x = net.add(op, x, kernel_shape=[3], strides=[2], pads=pads, **extra)
            length = (length + sum(pads) - 3) // 2 + 1
        elif kind == "affine":
            parts = [net.floats(channels, 1) for _ in range(2)]
            x = net.add("Add", net.add("Mul", x, parts[0]), parts[1])
        elif kind == "relu":
            x = net.add("Relu", x)
    end = draw(st.sampled_from(["flatten", "global", "time", "steps"]))
    if end == "flatten":
        x = net.gemm(net.add("Flatten", x, axis=1), channels * length, 5)
    elif end == "global":
        x = net.add("Flatten", net.add("GlobalMaxPool", x), axis=1)
        x = net.gemm(x, channels, 5)
    elif end == "time":
        x = net.gemm(net.add("ReduceMean", x, net.ints(2), keepdims=0), channels, 70)
        x = net.add("Relu", x)
    else:
        x = net.add("MatMul", net.add("Transpose", x, perm=[0, 2, 1]), net.floats(channels, 6))
    how = draw(st.sampled_from(WIDTHS))
    batch = draw(st.sampled_from([0, 1, 3]))
    check(net.model(shape, x), net.rng.standard_normal((batch, *shape), dtype=np.float32), **how)


def test_splits_of_one_input_become_layers():
    net = Net(3)
    a, b = net.add("Relu", net.gemm("x", 70, 5)), net.add("Relu", net.gemm("x", 70, 9))
    x = np.random.default_rng(0).standard_normal((3, 70), dtype=np.float32)
    c = net.add("Concat", a, b, axis=1)
    check(net.model((70,), a, b, c), x, bits=3)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_differences_and_sums_over_an_axis(keepdims):
    net = Net(6)
    a, b = (net.conv("x", 3, 8, 3) for _ in range(2))
    x = net.add("Relu", net.add("Sub", a, net.add("Relu", b)))
    x = net.add("ReduceSum", x, net.ints(-1), keepdims=keepdims)
    x = net.gemm(net.add("Flatten", x), 8, 5)
    given_x = np.random.default_rng(0).standard_normal((3, 3, 20), dtype=np.float32)
    check(net.model((3, 20), x), given_x)


def bent(op, shape=None, **given):
    """A function between two layers; its operand has a shape, or stands for itself."""
    net = Net(7)
    x = net.conv("x", 3, 8, 3)
    if op == "Clip":
        net.constants |= {"low": np.float32(0), "high": np.float32(0.7)}
        x = net.add("Clip", x, "low", "high")
    else:
        x = net.add(op, x, *([] if shape is None else [net.floats(*shape)]), **given)
    x = net.add("GlobalAveragePool", net.conv(x, 8, 4, 3))
    return net.model((3, 20), net.gemm(net.add("Flatten", x), 4, 5))


BENT = {
    "ReLU6": bent("Clip"),
    "LeakyReLU": bent("LeakyRelu", alpha=0.2),
    "one slope": bent("PRelu", (1, 1)),
    "a channel's slope": bent("PRelu", (8, 1)),
}


@pytest.mark.parametrize("size", [1, 1e6])
@pytest.mark.parametrize("name", BENT)
def test_functions_that_bend_at_few_places(name, size):
    x = np.random.default_rng(0).standard_normal((3, 3, 20), dtype=np.float32)
    check(BENT[name], x * np.float32(size))


def test_what_cannot_be_fused_stays_and_is_reported():
    net = Net(4)
    x = net.add("Relu", net.gemm("x", 64, 64))
    x = net.gemm(net.add("Sigmoid", x), 64, 8)
    given_x = np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)
    report = Fusion()
    model = rtn(net.model((64,), x), bits=4, gain=0)
    fused = fuse(model, report=report)
    assert "Sigmoid" in [node.op_type for node in fused.graph.node]
    assert "no instruction for Sigmoid" in " ".join(report.left.values())
    np.testing.assert_array_equal(ran(fused, given_x)[0], ran(model, given_x)[0])


def reshaped(sizes, batch="batch", shape=(4, 6), **given):
    """What became of a reshape between two layers."""
    net = Net(5)
    x = net.add("Reshape", net.conv("x", 3, 4, 3, pads=(1, 1)), net.ints(*sizes), **given)
    x = net.add("Reshape", x, net.ints(-1, 24))
    model = net.model((3, 6), net.gemm(x, 24, 5))
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    if isinstance(batch, int):
        dim.dim_value = batch
    report = Fusion()
    fused = fuse(rtn(model, bits=4, gain=0), report=report)
    return model, fused, report


@pytest.mark.parametrize(
    ("sizes", "batch", "given"),
    [
        ([-1, 24], "batch", {"allowzero": 1}),
        ([-1, 24], "batch", {}),
        ([0, 24], "batch", {}),
        ([0, -1], "batch", {}),
        ([1, 24], 1, {"allowzero": 1}),
        ([1, -1], 1, {"allowzero": 1}),
        ([3, 2, -1], 3, {}),
        ([3, 24], 3, {}),
        ([1, 24], "batch", {}),  # no other batch than 1 has so many elements
    ],
)
def test_reshapes_that_keep_the_batch(sizes, batch, given):
    model, fused, report = reshaped(sizes, batch, **given)
    assert [node.op_type for node in fused.graph.node] == ["LutSequential"], report.left
    x = np.random.default_rng(0).standard_normal((3 if batch == 3 else 1, 3, 6), dtype=np.float32)
    right = ran(rtn(model, bits=4, gain=0), x)[0]
    np.testing.assert_allclose(ran(fused, x)[0], right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "batch", "given", "says"),
    [
        ([0, 24], "batch", {"allowzero": 1}, "[0, 24], where allowzero makes the 0 an axis"),
        ([1, -1], "batch", {}, "[1, -1]: not a sample at a time"),
        ([2, -1], 4, {}, "[2, -1]: not a sample at a time"),
        ([12, -1], "batch", {}, "[12, -1]: not a sample at a time"),
    ],
)
def test_reshapes_that_may_mix_samples_are_left(sizes, batch, given, says):
    _, _, report = reshaped(sizes, batch, **given)
    assert says in " ".join(report.left.values())


def test_a_shape_that_is_computed_is_left_and_called_so():
    net = Net(5)
    wanted = net.add("Concat", net.add("Shape", "x", start=0, end=1), net.ints(24), axis=0)
    wanted = net.add("Mod", wanted, net.ints(99))  # what the inference of shapes cannot compute
    x = net.add("Reshape", net.conv("x", 3, 4, 3, pads=(1, 1)), wanted)
    report = Fusion()
    fuse(rtn(net.model((3, 6), net.gemm(x, 24, 5)), bits=4, gain=0), report=report)
    assert "its shape is computed at run time" in report.left.values()


ALIASES = [("Identity", {}), ("Dropout", {}), ("Transpose", {"perm": [0, 1]})]


@pytest.mark.parametrize(("op", "how"), ALIASES, ids=[op for op, _ in ALIASES])
@pytest.mark.parametrize("reader", ["sum", "output", "none"])
def test_a_value_that_has_two_names_is_changed_only_where_nobody_else_reads_it(op, how, reader):
    net = Net(7)
    a = net.gemm("x", 64, 64)
    c = net.add("Relu", net.add(op, a, **how))
    ends = [net.add("Add", a, c)] if reader == "sum" else [c, a] if reader == "output" else [c]
    x = np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)
    check(net.model((64,), *ends), x)


@pytest.mark.parametrize(("op", "how"), ALIASES, ids=[op for op, _ in ALIASES])
def test_a_shift_is_added_to_its_own_value(op, how):
    net = Net(8)
    a = net.add("Mul", net.add("Relu", net.gemm("x", 64, 64)), net.floats(64))
    c = net.add("Add", net.add(op, a, **how), net.floats(64))
    x = np.random.default_rng(0).standard_normal((2, 64), dtype=np.float32)
    check(net.model((64,), net.add("Add", a, c)), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad):
    x = np.random.default_rng(1).standard_normal((3, 8, 100), dtype=np.float32)
    x[1, 3, 50] = bad
    apart, fused = both(encoder(), x)
    good = [0, 2]
    np.testing.assert_allclose(fused[0][good], apart[0][good], rtol=1e-3, atol=1e-3)
    assert not np.isfinite(fused[0][1]).all()
    assert np.isfinite(fused[0][good]).all()


def test_concurrent_runs():
    x = np.random.default_rng(1).standard_normal((64, 8, 100), dtype=np.float32)
    network = session(fuse(rtn(encoder(), bits=2, gain=0)).SerializeToString(), threads=2)
    whole = network.run(None, {"x": x})[0]

    def sample(at):
        return network.run(None, {"x": x[at : at + 1]})[0]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            np.testing.assert_array_equal(np.concatenate(list(pool.map(sample, range(64)))), whole)


@pytest.mark.parametrize("shape", [(2, 8, 99), (2, 100, 8), (2, 800)])
def test_input_of_another_shape(shape):
    fused = fuse(rtn(encoder(), bits=2, gain=0))
    del fused.graph.input[0].type.tensor_type.shape.dim[:]
    with pytest.raises(Exception, match=r"LutSequential 'sequential_0': x is of shape|rank"):
        ran(fused, np.zeros(shape, np.float32))


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni"])
def test_every_instruction_set_gives_the_same_bits(isa, tmp_path):
    x = np.random.default_rng(1).standard_normal((2, 8, 100), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    script = (
        "import sys, numpy as np, edge_kernels\n"
        "folder = sys.argv[1]\n"
        "edge_kernels.__path__.append(sys.argv[2])\n"
        "s = edge_kernels.session(folder + '/m.onnx')\n"
        "np.save(folder + '/y.npy', s.run(None, {'x': np.load(folder + '/x.npy')})[0])\n"
    )
    for how in (WIDTHS[1], WIDTHS[3], WIDTHS[5], WIDTHS[8]):
        model = fuse(rtn(encoder(head=True), gain=0, **how))
        onnx.save(model, tmp_path / "m.onnx")
        here = ran(model, x)[0]
        environment = {**os.environ, "FLWR_EDGE_ISA": isa}
        command = [sys.executable, "-c", script, str(tmp_path), str(library_path().parent)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        if "this CPU and build can run" in done.stderr:
            pytest.skip(f"no {isa} here")
        assert done.returncode == 0, done.stderr[-2000:]
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), here)


# Hostile programs

HOSTILE = [-1, 0, 1, 2, 3, 7, 64, 2**31, 2**31 - 1, 2**26, 2**32, 2**62, -(2**63), 2**63 - 1]


@pytest.fixture(scope="module")
def small():
    net = Net(5)
    x = net.add("Relu", net.conv("x", 3, 4, 3, stride=2, dilation=2, pads=(1, 2)))
    x = net.add("MaxPool", x, kernel_shape=[2], strides=[2])
    x = net.add("Concat", x, net.add("Relu", x), axis=1)
    x = net.gemm(net.add("Flatten", x, axis=1), 8 * 4, 5)
    return fuse(rtn(net.model((3, 18), x), bits=2, gain=0))


def _outcome(model):
    """Runs it, or says why not; what does not crash is well."""
    x = np.ones((2, 3, 18), np.float32)
    try:
        return ran(model, x)
    except Exception as error:  # noqa: BLE001
        return str(error)


def _numbers(model, name):
    return next(a for a in model.graph.node[0].attribute if a.name == name).ints


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    name=st.sampled_from(["program"] * 6 + ["input_shape", "results"]),
    number=st.one_of(st.sampled_from(HOSTILE), st.integers(-2, 40)),
)
def test_hostile_numbers(small, data, name, number):
    model = onnx.ModelProto.FromString(small.SerializeToString())
    ints = _numbers(model, name)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(ints) - 1))
        how = data.draw(st.sampled_from(["set", "set", "set", "drop", "insert"]))
        if how == "set":
            ints[at] = number
        elif how == "insert":
            ints.insert(at, number)
        elif len(ints) > 1:
            del ints[at]
    _outcome(model)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_blobs(small, data):
    model = onnx.ModelProto.FromString(small.SerializeToString())
    blobs = [t for t in model.graph.initializer if t.data_type == TensorProto.UINT8]
    tensor = data.draw(st.sampled_from(blobs))
    blob = numpy_helper.to_array(tensor).copy()
    if data.draw(st.booleans()):
        blob = blob[: data.draw(st.integers(0, len(blob) - 1))]
        changed = numpy_helper.from_array(blob, tensor.name)
        tensor.CopyFrom(changed)
        assert "truncated" in _outcome(model)
        return
    blob[data.draw(st.integers(0, 63))] = data.draw(st.integers(0, 255))
    tensor.CopyFrom(numpy_helper.from_array(blob, tensor.name))
    _outcome(model)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ([], "version"),
        ([2, 3, 0], "version"),
        ([1], "no instructions"),
        ([1, 99, 0], "opcode"),
        ([1, 3, 1], "operand"),
        ([1, 3], "operand"),
        ([1, 1, 0, 0, -1, 0, 4], "weights"),
        ([1, 9, 0, 55, 0], "number of elements"),
        ([1, 4, 0, 0, 2, 1, 1, 2, 0], "pad"),
        ([1, 4, 0, 0, 19, 1, 1, 0, 0], "shorter"),
    ],
)
def test_errors_say_what_is_wrong(code, cause):
    node = helper.make_node(
        "LutSequential",
        ["x"],
        ["y"],
        name="wearable",
        domain="flwr.edge",
        program=code or [0],
        input_shape=[3, 18],
        results=[1],
    )
    model = model_of([node], {}, {"x": ["batch", 3, 18]}, ["y"])
    assert "LutSequential 'wearable'" in _outcome(model)
    assert cause in _outcome(model)


def repeated(instruction, times, size, **constants):
    """A program that says the same again and again; its values share their memory."""
    node = helper.make_node(
        "LutSequential",
        ["x", *constants],
        ["y"],
        name="wearable",
        domain="flwr.edge",
        program=[1, *instruction * times],
        input_shape=[size],
        results=[times],
    )
    return model_of([node], constants, {"x": ["batch", size]}, ["y"])


def test_layers_that_share_weights_take_memory_each():
    """A blob of 2 MB unpacks to 16 MB."""
    size = 4096
    codes, scales = np.zeros((size, size), np.uint8), np.ones((size, 1), np.float32)
    blob = layout.pack(codes, scales, bits=1, group=0)
    model = repeated([1, 0, 0, -1, 0, size], 40, size, blob=blob)
    with pytest.raises(Exception, match=r"'wearable': program, instruction \d+: .* than 512 MB"):
        session(model.SerializeToString())


def test_factors_of_one_number_take_memory_each():
    size = 1 << 22
    model = repeated([8, 0, 0, 0, 0, 0], 40, size, one=np.ones(1, np.float32))
    with pytest.raises(Exception, match=r"'wearable': program, instruction \d+: .* than 512 MB"):
        session(model.SerializeToString())


def test_a_model_is_fused_twice():
    rng = np.random.default_rng(0)
    net = Net(0)
    x = net.add("Relu", net.add("MatMul", "x", net.floats(64, 32)))
    x = net.add("Sin", net.add("Mul", x, net.floats(32)))
    x = net.add("Relu", net.add("MatMul", x, net.floats(32, 32)))
    net.add("Mul", x, net.floats(32))
    y = net.nodes[-1].output[0]
    model = model_of(net.nodes, net.constants, {"x": ["batch", 64]}, [y])
    middle = net.nodes[3].output[0]
    known = helper.make_tensor_value_info(middle, TensorProto.FLOAT, ["batch", 32])
    model.graph.value_info.append(known)
    once = fuse(rtn(model, bits=4, gain=0, skip=[net.nodes[4].output[0]]))
    twice = fuse(rtn(once, bits=4, gain=0))
    found = [(node.op_type, node.name) for node in twice.graph.node]
    assert found == [
        ("LutSequential", "sequential_0"),
        ("Sin", ""),
        ("LutSequential", "sequential_1"),
    ]
    windows = rng.standard_normal((7, 64), dtype=np.float32)
    whole = rtn(model, bits=4, gain=0)
    (right,), (got,) = (session(each).run(None, {"x": windows}) for each in (whole, twice))
    np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("training", [False, True])
def test_a_dropout_that_drops_stays(training):
    net = Net(0)
    x = net.add("MatMul", "x", net.floats(64, 32))
    net.constants |= {"ratio": np.array(0.5, np.float32), "training": np.array(training)}
    x = net.add("Dropout", x, "ratio", "training")
    y = net.add("MatMul", x, net.floats(32, 8))
    model = model_of(net.nodes, net.constants, {"x": ["batch", 64]}, [y])
    report = Fusion()
    low = fuse(rtn(model, bits=4, gain=0), report=report)
    assert ("Dropout" in [node.op_type for node in low.graph.node]) == training
    assert any("drops at random" in why for why in report.left.values()) == training


def test_an_input_that_nobody_reads_keeps_its_default_when_fused():
    net = Net(0)
    x = net.add("Relu", net.add("MatMul", "x", net.floats(64, 32)))
    y = net.add("MatMul", x, net.floats(32, 8))
    net.constants["spare"] = np.ones(3, np.float32)
    model = model_of(net.nodes, net.constants, {"x": ["batch", 64], "spare": [3]}, [y])
    low = fuse(rtn(model, bits=4, gain=0))
    assert [node.op_type for node in low.graph.node] == ["LutSequential"]
    session(low).run(None, {"x": np.zeros((2, 64), np.float32)})


def test_a_chain_that_nobody_reads_stays():
    net = Net(0)
    x = net.add("Sin", "x")
    net.add("Relu", net.add("Relu", net.add("Relu", net.add("MatMul", x, net.floats(64, 32)))))
    y = net.add("MatMul", "x", net.floats(64, 8))
    model = model_of(net.nodes, net.constants, {"x": ["batch", 64]}, [y])
    model.graph.value_info.append(
        helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", 64])
    )
    low = fuse(rtn(model, bits=4, gain=0))
    assert "LutSequential" not in [node.op_type for node in low.graph.node]
    session(low).run(None, {"x": np.zeros((2, 64), np.float32)})
