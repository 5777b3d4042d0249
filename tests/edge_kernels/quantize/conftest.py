"""ONNX graphs in a few words, and ways to run them."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

import edge_kernels


def build(nodes, constants, inputs, outputs, opset=18) -> ModelProto:
    """A model of (op, inputs, outputs, attributes) tuples and (name, rank) pairs."""
    made = [
        helper.make_node(op, list(read), list(write), name=f"node{at}", **given)
        for at, (op, read, write, given) in enumerate(nodes)
    ]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in of]
        for of in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(made, "test", *values, tensors)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    checker.check_model(model)
    return model


def run(model, **feeds):
    """Run with the kernels."""
    checker.check_model(model)
    return edge_kernels.session(model.SerializeToString()).run(None, feeds)


def run_float(model, **feeds):
    """Run on ONNX Runtime alone."""
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def difference(found, right):
    """Relative RMS error."""
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


@pytest.fixture(scope="session")
def nets() -> SimpleNamespace:
    """The functions above."""
    return SimpleNamespace(
        build=build, run=run, run_float=run_float, normal=normal, difference=difference
    )


@pytest.fixture(scope="session")
def product(nets) -> Callable[..., ModelProto]:
    """A model of one product, x (2 axes) → y, and what follows it."""

    def make(op="MatMul", after=(), weights=None, given=None, more=(), **constants):
        weights = normal(128, 96) if weights is None else weights
        nodes = [(op, ["x", "w", *more], ["h0"], given or {})]
        for at, (name, *read) in enumerate(after):
            names = [f"h{at}" if each is None else each for each in read]
            nodes.append((name, names, [f"h{at + 1}"], {}))
        rank = 3 if op == "Conv" else 2
        constants["w"] = weights
        return build(nodes, constants, [("x", rank)], [(f"h{len(after)}", rank)])

    return make


@pytest.fixture(scope="session")
def mlp() -> ModelProto:
    """128–256–64–5 as Gemm, MatMul and a last layer that is too small to be packed."""
    constants = {
        "w1": normal(256, 128),
        "b1": normal(256),
        "w2": normal(256, 64),
        "b2": normal(64),
        "w3": normal(5, 64),
    }
    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["h1"], {"transB": 1}),
        ("Relu", ["h1"], ["r1"], {}),
        ("MatMul", ["r1", "w2"], ["h2"], {}),
        ("Add", ["b2", "h2"], ["a2"], {}),
        ("Relu", ["a2"], ["r2"], {}),
        ("Gemm", ["r2", "w3"], ["y"], {"transB": 1}),
    ]
    return build(nodes, constants, [("x", 2)], [("y", 2)])
