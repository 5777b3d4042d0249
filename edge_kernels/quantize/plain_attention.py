"""Attention of plain layers, in the form that `attention_forms` reads, as ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Floats = NDArray[np.float32]
TURNED: Final = [1, 0, 2]


@dataclass
class Linear:
    """A layer of each position: weights (inputs, outputs), and what it reads and makes."""

    source: str
    output: str
    weight: Floats
    bias: Floats


@dataclass
class Operand:
    """Queries, keys or values: the tensor (3 axes) that they are made of, and how."""

    source: str
    turned: bool
    weight: Floats
    bias: Floats
    heads: int
    factor: float


@dataclass
class End:
    """What attention's result becomes: a layer of it, maybe none, and the tensor's order."""

    output: str
    turned: bool
    layer: Linear | None


def written(
    operands: list[Operand], scale: float, end: End
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes of attention of such operands, and their constants."""
    from onnx import helper, numpy_helper

    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    name = f"{end.output}.unpacked"

    def constant(value: Any) -> str:
        tensors.append(
            numpy_helper.from_array(np.ascontiguousarray(value), f"{name}.c{len(tensors)}")
        )
        return f"{name}.c{len(tensors) - 1}"

    def add(op: str, *read: str, output: str = "", **given: Any) -> str:
        output = output or f"{name}.{len(nodes)}"
        nodes.append(helper.make_node(op, read, [output], name=f"{name}.{op}{len(nodes)}", **given))
        return output

    def layer(x: str, weight: Floats, bias: Floats, output: str = "") -> str:
        return add("Add", add("MatMul", x, constant(weight)), constant(bias), output=output)

    heads = []
    for each, order in zip(operands, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        x = add("Transpose", each.source, perm=TURNED) if each.turned else each.source
        shape = np.array([0, 0, each.heads, len(each.bias) // each.heads], np.int64)
        parts = add("Reshape", layer(x, each.weight, each.bias), constant(shape))
        heads.append(add("Transpose", parts, perm=order))
    q, k, v = heads
    scores = add("Mul", add("MatMul", q, k), constant(np.float32(scale)))
    mixed = add("MatMul", add("Softmax", scores, axis=-1), v)
    width = np.array([0, 0, len(operands[2].bias)], np.int64)
    output = "" if end.turned or end.layer is not None else end.output
    merged = add(
        "Reshape", add("Transpose", mixed, perm=[0, 2, 1, 3]), constant(width), output=output
    )
    if end.layer is not None:
        output = "" if end.turned else end.output
        merged = layer(merged, end.layer.weight, end.layer.bias, output)
    if end.turned:
        add("Transpose", merged, perm=TURNED, output=end.output)
    return nodes, tensors
