"""Packed weights and one-node models for the operators' tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_kernels import layout

Blob = NDArray[np.uint8]

KINDS = [
    (1, "symmetric"),
    (2, "symmetric"),
    (2, "ternary"),
    (3, "symmetric"),
    (4, "symmetric"),
    (1, "zero_points"),
    (2, "zero_points"),
    (3, "zero_points"),
    (4, "zero_points"),
]


def _blob(
    n: int, k: int, bits: int = 2, group: int = 64, values: Any = "symmetric", seed: int = 0
) -> Blob:
    rng = np.random.default_rng(seed)
    top = 3 if values == "ternary" else 2**bits
    groups = -(-k // group) if group else 1
    codes = rng.integers(0, top, (n, k)).astype(np.uint8)
    scales = rng.uniform(0.01, 0.1, (n, groups)).astype(np.float32)
    zeros = None
    if values == "zero_points":
        zeros = rng.uniform(0, top - 1, (n, groups)).astype(np.float32)
    return layout.pack(codes, scales, bits=bits, group=group, values=values, zeros=zeros)


def _described(blob: Blob) -> dict[str, Any]:
    packed = layout.unpack(blob)
    return {"bits": packed.bits, "group": packed.group, "values": packed.values}


def _model(op: str, blob: Any, bias: Any, shape: Any, outputs: int, attributes: Any) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    float_type = attributes.pop("x_type", TensorProto.FLOAT)
    constant = attributes.pop("constant", True)
    names = ["x", "w"] if bias is None else ["x", "w", "b"]
    given = [numpy_helper.from_array(blob, "w")]
    if bias is not None:
        given.append(numpy_helper.from_array(np.asarray(bias, np.float32), "b"))
    ys = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, ys, domain="flwr.edge", name="layer1", **attributes)
    inputs = [helper.make_tensor_value_info("x", float_type, shape)]
    if not constant:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.UINT8, blob.shape))
        given = given[1:]
    graph = helper.make_graph(
        [node],
        "graph",
        inputs,
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None) for y in ys],
        given,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("flwr.edge", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def blob() -> Callable[..., Blob]:
    """Pack random weights: ``blob(n, k, bits=2, group=64, values="symmetric", seed=0)``."""
    return _blob


@pytest.fixture(scope="session")
def matmul_model() -> Callable[..., bytes]:
    """Make a model of one LutMatMul from a blob; keyword arguments replace attributes."""

    def make(blob: Blob, bias: Any = None, shape: Any = None, **changes: Any) -> bytes:
        n, k = layout.unpack(blob).codes.shape
        attributes = {**_described(blob), "n": n, "k": k, **changes}
        shape = ["M", k] if shape is None else shape
        return _model("LutMatMul", blob, bias, shape, len(changes.get("splits", [n])), attributes)

    return make


@pytest.fixture(scope="session")
def conv1d_model() -> Callable[..., bytes]:
    """Make a model of one LutConv1d from a blob; keyword arguments replace attributes."""

    def make(
        blob: Blob, channels: int, bias: Any = None, shape: Any = None, **changes: Any
    ) -> bytes:
        n, k = layout.unpack(blob).codes.shape
        attributes = {
            **_described(blob),
            "n": n,
            "channels": channels,
            "kernel": k // channels,
            **changes,
        }
        shape = ["B", channels, "L"] if shape is None else shape
        return _model("LutConv1d", blob, bias, shape, 1, attributes)

    return make


@pytest.fixture(scope="session")
def kinds() -> list[tuple[int, str]]:
    """Every pair of bit width and kind of values."""
    return KINDS
