"""Small networks as ONNX: a trained classifier, and graphs that have one thing or another."""

from functools import cache

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_kernels import exact_int8
from edge_kernels.integer import oracle

CLASSES, TIME, CHANNELS = 4, 40, 3


def build(nodes, constants, shape, out, opset=20) -> ModelProto:
    """A model ``x`` (batch, *shape) → ``out`` of (op, inputs, outputs, attributes) tuples."""
    made = [
        helper.make_node(op, list(read), list(write), name=f"node{at}", **given)
        for at, (op, read, write, given) in enumerate(nodes)
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(
        made,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        tensors,
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def run(model, x):
    """Run on ONNX Runtime alone."""
    options = exact_int8(onnxruntime.SessionOptions())
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def windows(count, seed):
    """Windows (count, time, channels) of classes that differ in frequency, and their labels."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, count)
    t = np.arange(TIME)[None, :, None]
    pace = 0.15 + 0.2 * y[:, None, None] * (1 + 0.08 * random.standard_normal((count, 1, CHANNELS)))
    phase = random.uniform(0, 2 * np.pi, (count, 1, CHANNELS))
    size = np.exp(0.4 * random.standard_normal((count, 1, CHANNELS)))
    x = size * np.sin(pace * t + phase) + 0.4 * random.standard_normal((count, TIME, CHANNELS))
    return (x * [1.0, 5.0, 0.2] + [0, 9.8, 0]).astype(np.float32), y


@cache
def classifier() -> ModelProto:
    """A trained one: two convolutions with batch norms, mean and maximum, two linear layers.

    Trained in float64: in float32 CPUs that sum in another order end at another network.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # others use the machine, and so small a network gains nothing
    x, y = windows(1500, 1)
    mean, deviation = x.mean((0, 1)), x.std((0, 1))
    z = torch.from_numpy((x - mean) / deviation).transpose(1, 2).double()
    labels = torch.from_numpy(y)
    conv1 = torch.nn.Conv1d(CHANNELS, 16, 5, 2, 2)
    norm = torch.nn.BatchNorm1d(16)
    conv2 = torch.nn.Conv1d(16, 24, 3, 2, 1)
    linear, head = torch.nn.Linear(48, 24), torch.nn.Linear(24, CLASSES)
    layers = torch.nn.ModuleList([conv1, norm, conv2, linear, head]).double()

    def forward(z):
        h = conv2(norm(conv1(z)).relu()).relu()
        return head(linear(torch.cat([h.mean(2), h.amax(2)], 1)).relu())

    optimizer = torch.optim.Adam(layers.parameters(), 5e-3)
    for _ in range(200):
        at = torch.randint(len(z), (64,))
        loss = torch.nn.functional.cross_entropy(forward(z[at]), labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts = {"norm.mean": norm.running_mean, "norm.var": norm.running_var}
    named = {"conv1": conv1, "conv2": conv2, "linear": linear, "head": head, "norm": norm}
    for name, layer in named.items():
        parts |= {f"{name}.w": layer.weight.detach(), f"{name}.b": layer.bias.detach()}
    constants = {name: np.ascontiguousarray(each.float().numpy()) for name, each in parts.items()}
    constants |= {"mean": mean, "deviation": deviation, "axes": np.array([2])}
    return build(
        [
            ("Sub", ["x", "mean"], ["centred"], {}),
            ("Div", ["centred", "deviation"], ["standard"], {}),
            ("Transpose", ["standard"], ["z"], {"perm": [0, 2, 1]}),
            ("Conv", ["z", "conv1.w", "conv1.b"], ["c1"], {"strides": [2], "pads": [2, 2]}),
            (
                "BatchNormalization",
                ["c1", "norm.w", "norm.b", "norm.mean", "norm.var"],
                ["n1"],
                {"epsilon": norm.eps},
            ),
            ("Relu", ["n1"], ["r1"], {}),
            ("Conv", ["r1", "conv2.w", "conv2.b"], ["c2"], {"strides": [2], "pads": [1, 1]}),
            ("Relu", ["c2"], ["r2"], {}),
            ("ReduceMean", ["r2", "axes"], ["mean2"], {"keepdims": 0}),
            ("ReduceMax", ["r2", "axes"], ["max2"], {"keepdims": 0}),
            ("Concat", ["mean2", "max2"], ["pooled"], {"axis": 1}),
            ("Gemm", ["pooled", "linear.w", "linear.b"], ["h"], {"transB": 1}),
            ("Relu", ["h"], ["r3"], {}),
            ("Gemm", ["r3", "head.w", "head.b"], ["logits"], {"transB": 1}),
        ],
        constants,
        (TIME, CHANNELS),
        "logits",
    )


def _conv(name, read, write, rows, channels, kernel=3, **given):
    return ("Conv", [read, f"{name}.w", f"{name}.b"], [write], given), {
        f"{name}.w": normal(rows, channels, kernel) / np.float32(np.sqrt(channels * kernel)),
        f"{name}.b": normal(rows, seed=1),
    }


def _several() -> dict[str, ModelProto]:
    first, c1 = _conv("a", "x", "h", 6, 5, pads=[1, 1])
    second, c2 = _conv("b", "r", "g", 6, 6, pads=[2, 0])
    constants = c1 | c2
    end = [("Flatten", ["s"], ["f"], {}), ("MatMul", ["f", "m"], ["p"], {})]
    end += [("Add", ["p", "t"], ["y"], {})]
    tail = {"m": normal(6 * 12, 3), "t": normal(3)}
    relu = ("Relu", ["h"], ["r"], {})
    made = {
        "residual": [
            first,
            relu,
            second,
            ("Add", ["g", "r"], ["sum"], {}),
            ("Relu", ["sum"], ["s"], {}),
        ],
        "slopes": [first, ("PRelu", ["h", "factor"], ["s"], {})],
        "difference": [
            first,
            relu,
            second,
            ("Sub", ["r", "g"], ["less"], {}),
            ("Relu", ["less"], ["s"], {}),
        ],
        "affine": [
            first,
            relu,
            ("Mul", ["r", "factor"], ["v"], {}),
            ("Add", ["v", "term"], ["s"], {}),
        ],
        "pools": [
            first,
            ("MaxPool", ["h"], ["v"], {"kernel_shape": [3], "pads": [1, 1]}),
            ("AveragePool", ["v"], ["s"], {"kernel_shape": [3], "pads": [1, 1]}),
        ],
        "counted": [
            first,
            relu,
            (
                "AveragePool",
                ["r"],
                ["s"],
                {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1},
            ),
        ],
        "chains": [
            first,
            ("Mul", ["h", "factor"], ["u"], {}),
            ("Sub", ["u", "term"], ["v"], {}),
            ("Div", ["v", "two"], ["w"], {}),
            ("Relu", ["w"], ["s"], {}),
        ],
    }
    more = {
        "factor": normal(6, 1, seed=2),
        "term": normal(6, 1, seed=3),
        "two": np.float32([2.0]),
    }
    models = {
        name: build(nodes + end, constants | more | tail, (5, 12), "y")
        for name, nodes in made.items()
    }
    rows = [
        ("Transpose", ["x"], ["turned"], {"perm": [0, 2, 1]}),
        ("MatMul", ["turned", "first"], ["h"], {}),
        ("Add", ["h", "bias"], ["g"], {}),
        ("Relu", ["g"], ["r"], {}),
        ("MatMul", ["r", "second"], ["v"], {}),
        ("ReduceMean", ["v", "axes"], ["y"], {"keepdims": 0}),
    ]
    held = {
        "first": normal(5, 8),
        "bias": normal(8),
        "second": normal(8, 4),
        "axes": np.array([1]),
    }
    models["rows"] = build(rows, held, (5, 12), "y")
    total = [first, relu, ("ReduceSum", ["r", "axes"], ["n"], {"keepdims": 0})]
    total += [("MatMul", ["n", "v"], ["y"], {})]
    more = {"axes": np.array([2]), "v": normal(6, 4)}
    models["total"] = build(total, c1 | more, (5, 12), "y")
    return models


GRAPHS = _several()


def integer_output(net, x):
    """What a network in integers gives for a float input: rounded, run, made float again."""
    levels = net.levels[0]
    q = np.clip(np.rint(x / np.float32(levels.scale)) + levels.zero, 0, levels.top)
    out = oracle.run(net, q.astype(np.uint8)).astype(np.float64)
    made = net.levels[net.output]
    if made is not None:
        return (out - made.zero) * made.scale
    step = net.steps[net.output - 1]
    scale = net.levels[step.x].scale * step.weight_scale
    return out * (scale if step.linear or out.ndim == 2 else scale[:, None])
