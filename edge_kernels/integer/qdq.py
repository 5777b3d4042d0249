"""A network in integers as plain ONNX: QuantizeLinear and DequantizeLinear around float operators.

Any ONNX Runtime runs it, and the tools of NPUs read it. What it gives may differ by a step from
the integers' own: it rounds halves to even, and its ratios of scales are float.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.integer.check import check
from edge_kernels.integer.net import (
    IntNet,
    Ints,
    Levels,
    Product,
    Reals,
    Table,
)
from edge_kernels.integer.qdq_recurrent import recurrent, within
from edge_kernels.integer.qdq_steps import WRITERS, product
from edge_kernels.integer.recurrent import Recurrent

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Parts = tuple[list["NodeProto"], list["TensorProto"]]
UINT16: Final = 21
_FLOAT, _UINT16_TYPE, _INT64 = 1, 4, 7  # of onnx.TensorProto


def nodes(net: IntNet, source: str, output: str, *, opset: int, prefix: str = "int.") -> Parts:
    """Return nodes and initializers from a float tensor to a float tensor.

    Parameters
    ----------
    net : IntNet
    source, output : str
        Tensors' names.
    opset : int
        Of the model that they go into.
    prefix : str
        Of the names of what is in between.

    Raises
    ------
    ValueError
        If the network is not consistent, or its 16-bit levels need a newer opset.
    """
    check(net)
    check_opset(written_levels(net), opset)
    return write(Writer(net, opset, prefix), source, output)


def written_levels(net: IntNet) -> list[Levels | None]:
    """Return the levels of the values that are tensors of the export."""
    inside = within(net)
    return [levels for value, levels in enumerate(net.levels) if value not in inside]


def check_opset(levels: Iterable[Levels | None], opset: int) -> None:
    """Refuse levels that an opset's QuantizeLinear and DequantizeLinear do not know.

    Raises
    ------
    ValueError
        If there are 16-bit levels, and the opset is older than they are.
    """
    if opset < UINT16 and any(each is not None and each.bits == 16 for each in levels):
        raise ValueError(
            f"16-bit levels need opset {UINT16}; the model's is {opset}: export it with 18 or "
            "newer, or use to_edge, which serves it as it is"
        )


def write(writer: Writer, source: str, output: str) -> Parts:
    """Return what a writer makes of its network, from a float tensor to a float tensor."""
    net = writer.net
    writer.quantized(0, source)
    unwritten = writer.within()
    for at, step in enumerate(net.steps):
        if at + 1 in unwritten:
            continue
        kind = Table if isinstance(step, Table) else type(step)  # a function of one number, too
        made = WRITERS[kind](writer, at, step)
        if net.levels[at + 1] is None:
            writer.identity(made, output)
        else:
            writer.quantized(at + 1, made)
    if net.levels[net.output] is not None:
        writer.identity(writer.read(net.output), output)
    return writer.nodes, writer.tensors


def dequantized_output(
    net: IntNet, source: str, output: str, *, opset: int = UINT16, prefix: str = "int."
) -> Parts:
    """Return the node that makes the network's integer output ``source`` float, with its constants.

    Accumulators are multiplied by a number for each row, other outputs by their levels. As
    `quantized_input` for ``opset``.
    """
    writer = Writer(net, opset, prefix)
    levels = net.levels[net.output]
    if levels is not None and levels.bits == 16 and opset < UINT16:
        unit, zero, _ = _plain_levels(writer, "output", levels)
        steps = writer.make("Sub", [writer.make("Cast", [source], to=_FLOAT), zero])
        writer.make("Mul", [steps, unit], output)
        return writer.nodes, writer.tensors
    if levels is not None:
        writer.make("DequantizeLinear", [source, *writer.levels("output", levels)], output)
        return writer.nodes, writer.tensors
    step = net.steps[net.output - 1]
    assert isinstance(step, Product)
    scale = net.known(step.x).scale * step.weight_scale
    name = writer.constant("output.scale", scale.astype(np.float32))
    axis = len(net.shapes[net.output]) if step.linear else 1
    writer.make("DequantizeLinear", [source, name], output, axis=axis)
    return writer.nodes, writer.tensors


def quantized_input(
    net: IntNet, source: str, output: str, *, opset: int = UINT16, prefix: str = "int."
) -> Parts:
    """Return the nodes that make a float tensor the network's integer input.

    Where ``opset`` is too old for QuantizeLinear to 16 bits, they are its arithmetic in plain ones.
    """
    writer, levels = Writer(net, opset, prefix), net.known(0)
    if levels.bits == 16 and opset < UINT16:
        scale, zero, top = _plain_levels(writer, "input", levels)
        steps = writer.make("Round", [writer.make("Div", [source, scale])])
        least = writer.constant("input.least", np.float32(0).reshape(()))
        whole = writer.make("Clip", [writer.make("Add", [steps, zero]), least, top])
        writer.make("Cast", [whole], output, to=_UINT16_TYPE)
        return writer.nodes, writer.tensors
    writer.make("QuantizeLinear", [source, *writer.levels("input", levels)], output)
    return writer.nodes, writer.tensors


def _plain_levels(writer: Writer, name: str, levels: Levels) -> list[str]:
    """Scale, zero and top as float constants."""
    numbers = {"scale": levels.scale, "zero": levels.zero, "top": levels.top}
    return [
        writer.constant(f"{name}.{each}", np.float32(number).reshape(()))
        for each, number in numbers.items()
    ]


@dataclass
class Writer:
    """Makes nodes and initializers of a network's steps.

    Attributes
    ----------
    net : IntNet
    opset : int
    prefix : str
        Of names.
    """

    net: IntNet
    opset: int
    prefix: str
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def make(self, op: str, read: list[str], output: str = "", **given: Any) -> str:
        """Append a node; return its output's name."""
        from onnx import helper

        output = output or f"{self.prefix}{op.lower()}{len(self.nodes)}"
        name = f"{self.prefix}node{len(self.nodes)}.{op}"
        self.nodes.append(helper.make_node(op, read, [output], name=name, **given))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Append an initializer; return its whole name."""
        from onnx import numpy_helper

        whole = f"{self.prefix}{name}"
        self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), whole))
        return whole

    def levels(self, name: str, levels: Levels) -> list[str]:
        """Append scale and zero; return their names."""
        kind = np.uint8 if levels.bits == 8 else np.uint16
        return [
            self.constant(f"{name}.scale", np.float32(levels.scale).reshape(())),
            self.constant(f"{name}.zero", kind(levels.zero).reshape(())),
        ]

    def quantized(self, value: int, source: str) -> None:
        """Round a float tensor to a value's levels, and make that float again for who reads it."""
        levels = self.levels(f"value{value}", self.net.known(value))
        rounded = self.make("QuantizeLinear", [source, *levels], f"{self.prefix}value{value}")
        self.make("DequantizeLinear", [rounded, *levels], self.read(value))

    def read(self, value: int) -> str:
        """Return the name of a value in float."""
        return f"{self.prefix}value{value}.float"

    def identity(self, source: str, output: str) -> None:
        """Give a tensor another name."""
        self.make("Identity", [source], output)

    def relu(self, x: str, *, wanted: bool) -> str:
        """Append a ReLU where one is wanted."""
        return self.make("Relu", [x]) if wanted else x

    def within(self) -> set[int]:
        """Return the values of which no tensor is made."""
        return within(self.net)

    def rows(self, name: str, weight: Ints, scale: Reals, axis: int = 0) -> str:
        """Append weights with a scale a row, rows along an axis; return the name of what they mean.

        Zero points, though all are 0: where int8 weights are made uint8 (`exact_int8`), ONNX
        Runtime fails on weights that have none.
        """
        levels = [
            self.constant(f"{name}.scale", scale.astype(np.float32)),
            self.constant(f"{name}.zero", np.zeros(len(scale), np.int8)),
        ]
        return self.make("DequantizeLinear", [self.constant(name, weight), *levels], axis=axis)

    def recurrent(self, at: int, step: Recurrent) -> str:
        """Append an LSTM or a GRU; return its output's name."""
        return recurrent(self, at, step)

    def product(self, at: int, step: Product) -> str:
        """Append a layer; return its output's name."""
        return product(self, at, step)

    def table(self, at: int, step: Table) -> str:
        """Append a function of one number, looked up; return its output's name."""
        place = self.make("Cast", [f"{self.prefix}value{step.x}"], to=_INT64)
        values = self.constant(f"step{at}.values", step.values)
        levels = self.levels(f"step{at}", self.net.known(at + 1))
        return self.make("DequantizeLinear", [self.make("Gather", [values, place]), *levels])
