"""Small classifiers of windows, and bundles of them: no torch, milliseconds."""

import functools
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from schemas.bundle import Card, Input

TIME, CHANNELS, CLASSES = 40, 3, ("rest", "walk", "run", "sit")


def floats(seed=0, time=TIME, channels=CHANNELS, classes=4, width=16, batch="batch", made=None):
    """A convolution, ReLU, the mean over time and a linear layer; made: the batch of its output."""
    random = np.random.default_rng(seed)
    constants = {
        "conv.w": random.standard_normal((width, channels, 5)) * 0.3,
        "conv.b": random.standard_normal(width) * 0.1,
        "linear.w": random.standard_normal((classes, width)),
        "linear.b": random.standard_normal(classes) * 0.1,
    }
    kept = [numpy_helper.from_array(x.astype(np.float32), name) for name, x in constants.items()]
    make = helper.make_node
    kept.append(numpy_helper.from_array(np.array([2]), "axes"))
    nodes = [
        make("Transpose", ["windows"], ["turned"], perm=[0, 2, 1]),
        make("Conv", ["turned", "conv.w", "conv.b"], ["conv"], strides=[2], pads=[2, 2]),
        make("Relu", ["conv"], ["relu"]),
        make("ReduceMean", ["relu", "axes"], ["mean"], keepdims=0),
        make("Gemm", ["mean", "linear.w", "linear.b"], ["logits"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("windows", TensorProto.FLOAT, [batch, time, channels])],
        [value("logits", TensorProto.FLOAT, [batch if made is None else made, classes])],
        kept,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def renamed(**names):
    """The same, by other names of its input and output."""
    model = floats()
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for held in (node.input, node.output):
            held[:] = [names.get(name, name) for name in held]
    return model.SerializeToString()


def ending(*nodes, **constants):
    """The same, but what was its output, ``h``, is the input of nodes that make ``logits``."""
    model = floats()
    model.graph.node[-1].output[0] = "h"
    made = [helper.make_node(op, read, write, **given) for op, read, write, given in nodes]
    model.graph.node.extend(made)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return model


def recurrent(kind, seed=0):
    """A GRU or an LSTM of the states that torch writes, its last position, and a linear layer."""
    random, gates = np.random.default_rng(seed), {"GRU": 3, "LSTM": 4}[kind]
    constants = {
        "w": random.standard_normal((1, gates * 16, CHANNELS)).astype(np.float32),
        "r": random.standard_normal((1, gates * 16, 16)).astype(np.float32) / 4,
        "linear.w": random.standard_normal((4, 16)).astype(np.float32),
        "one": np.array([1]),
        "hidden": np.array([16]),
        "last": np.array(-1),
    }
    make = helper.make_node
    states = ["state"] * (1 if kind == "GRU" else 2)
    nodes = [
        make("Shape", ["windows"], ["samples"], start=0, end=1),
        make("Concat", ["one", "samples", "hidden"], ["sizes"], axis=0),
        make("ConstantOfShape", ["sizes"], ["state"]),
        make("Transpose", ["windows"], ["turned"], perm=[1, 0, 2]),
        make(kind, ["turned", "w", "r", "", "", *states], ["all"], hidden_size=16),
        make("Squeeze", ["all", "one"], ["o"]),
        make("Gather", ["o", "last"], ["end"], axis=0),
        make("Gemm", ["end", "linear.w"], ["logits"], transB=1),
    ]
    value, kept = helper.make_tensor_value_info, constants.items()
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [value("windows", TensorProto.FLOAT, ["batch", TIME, CHANNELS])],
        [value("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(x, name) for name, x in kept],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@functools.cache
def lut(seed=0, fused=True):
    """The same at two bits: one LutSequential, or a LutConv1d and a LutMatMul."""
    from edge_kernels.quantize import rtn
    from edge_kernels.sequential import fuse

    low = rtn(floats(seed), bits=2, group=64, gain=0)
    return (fuse(low) if fused else low).SerializeToString()


@functools.cache
def qdq(seed=0):
    """The same in 8 bits by ONNX Runtime's own tool."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    class Reader:
        def __init__(self):
            self.rest = iter(windows(8))

        def get_next(self):
            window = next(self.rest, None)
            return None if window is None else {"windows": window[None]}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "qdq.onnx"
        logging.disable(logging.WARNING)
        try:
            quantize_static(floats(seed), path, Reader(), quant_format=QuantFormat.QDQ)
        finally:
            logging.disable(logging.NOTSET)
        return path.read_bytes()


@functools.cache
def integers(form="edge"):
    """The same in 8-bit integers, rounded to nearest: one IntSequential, or its twin in QDQ."""
    from edge_kernels.quantize import quantizer

    quantized = quantizer.quantize(floats(), windows(32), quantizer="rtn", bits=8)
    write = quantizer.to_edge if form == "edge" else quantizer.to_qdq
    return write(quantized).SerializeToString()


def codes(seed=0, width=64, spread=None):
    """A model of int8 weights behind DequantizeLinear; ``spread``: a person near ``seed``'s."""
    model = floats(0, width=width)
    random = np.random.default_rng(seed)
    weight = random.integers(-100, 100, (width, CHANNELS, 5)).astype(np.int8)
    if spread is not None:
        weight += np.random.default_rng(spread).integers(-2, 3, weight.shape).astype(np.int8)
    graph = model.graph
    graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "conv.codes"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "scale"))
    node = helper.make_node("DequantizeLinear", ["conv.codes", "scale"], ["conv.w"])
    graph.node.insert(0, node)
    return model.SerializeToString()


def card(**changed):
    said = {
        "name": "ann",
        "task": "activity",
        "classes": CLASSES,
        "input": Input(time=TIME, channels=CHANNELS, hz=20.0),
        "bits": 32,
        "form": "qdq",
    }
    return Card(**{**said, **changed})


def windows(count=5, seed=3):
    random = np.random.default_rng(seed)
    return random.standard_normal((count, TIME, CHANNELS)).astype(np.float32)


def logits_of(model, x):
    """By ONNX's own evaluator."""
    from onnx.reference import ReferenceEvaluator

    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else model
    return ReferenceEvaluator(loaded).run(None, {"windows": x})[0]
