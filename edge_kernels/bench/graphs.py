"""ONNX graphs of one product each: ours, and ONNX Runtime's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_kernels.layout import Shape
from schemas.base import ConfigError

DOMAIN = "flwr.edge"
_OPSETS = {"": 21, "com.microsoft": 1, DOMAIN: 1}
Arrays = dict[str, NDArray[Any]]


def need_onnx() -> Any:
    """Return the package ``onnx``, which a device does not have.

    Raises
    ------
    ConfigError
        One line that names the extra to install.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(
            "onnx", ["is not installed; the benchmark needs it: pip install 'flwr-edge[quantize]'"]
        ) from error
    return onnx


def serialized(
    nodes: list[Any], constants: Arrays, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]
) -> bytes:
    """Return a model of these nodes.

    Parameters
    ----------
    nodes
        Of ``onnx.helper.make_node``.
    constants
        Initializers by name.
    inputs, outputs
        Shapes of float tensors by name; a string is a symbolic dimension.
    """
    onnx = need_onnx()
    helper = onnx.helper

    def values(shapes: dict[str, list[Any]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        ]

    kept = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "bench", values(inputs), values(outputs), kept)
    used = {node.domain for node in nodes} | {""}
    opsets = [helper.make_opsetid(domain, _OPSETS[domain]) for domain in sorted(used)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def _product(op: str, constants: Arrays, size: tuple[int, int], domain: str, **known: Any) -> bytes:
    k, n = size
    node = need_onnx().helper.make_node(op, ["x", *constants], ["y"], domain=domain, **known)
    return serialized([node], constants, {"x": ["m", k]}, {"y": ["m", n]})


def lut_matmul(blob: NDArray[np.uint8], shape: Shape, *, fast: bool) -> bytes:
    """``flwr.edge.LutMatMul`` with packed weights."""
    attributes = {
        "k": shape.inputs,
        "n": shape.rows,
        "bits": shape.bits,
        "group": shape.group,
        "values": shape.values,
        "fast": int(fast),
    }
    size = (shape.inputs, shape.rows)
    return _product("LutMatMul", {"weights": blob}, size, DOMAIN, **attributes)


def float_matmul(k: int, n: int, random: np.random.Generator) -> bytes:
    """``MatMul`` with float32 weights."""
    return _product("MatMul", {"w": random.standard_normal((k, n), dtype=np.float32)}, (k, n), "")


def dynamic_quantize_matmul(k: int, n: int, random: np.random.Generator) -> bytes:
    """``com.microsoft.DynamicQuantizeMatMul`` with int8 weights and one scale."""
    weights: Arrays = {
        "w": random.integers(-127, 128, (k, n), dtype=np.int8),
        "scale": np.array(0.01, np.float32),
    }
    return _product("DynamicQuantizeMatMul", weights, (k, n), "com.microsoft")


def matmul_nbits(k: int, n: int, bits: int, block: int, random: np.random.Generator) -> bytes:
    """``com.microsoft.MatMulNBits`` with a float32 scale a block and activations of 8 bits."""
    blocks = -(-k // block)
    weights: Arrays = {
        "w": random.integers(0, 256, (n, blocks, block * bits // 8), dtype=np.uint8),
        "scales": random.uniform(0.005, 0.015, (n, blocks)).astype(np.float32),
    }
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block, "accuracy_level": 4}
    return _product("MatMulNBits", weights, (k, n), "com.microsoft", **attributes)
