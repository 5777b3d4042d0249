"""A network in integers as plain ONNX: QuantizeLinear and DequantizeLinear around float operators.

Any ONNX Runtime runs it, and the tools of NPUs read it. What it gives may differ by a step from
the integers' own: it rounds halves to even, and its ratios of scales are float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.integer.check import check
from edge_kernels.integer.net import (
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    IntNet,
    Ints,
    Levels,
    Multiply,
    Norm,
    Pool,
    Product,
    Reals,
    Reduce,
    Relu,
    Rescale,
    Reshape,
    Slice,
    Step,
    Table,
    Transpose,
)
from edge_kernels.integer.qdq_recurrent import recurrent, within
from edge_kernels.integer.recurrent import Recurrent

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Parts = tuple[list["NodeProto"], list["TensorProto"]]
_AXES_AS_INPUT: Final = 18
UINT16: Final = 21
_LAYER_NORM: Final = 17
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
        made = _WRITERS[kind](writer, at, step)
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

    def rows(self, name: str, weight: Ints, scale: Reals) -> str:
        """Append weights (rows, inputs) with a scale a row; return the name of what they mean."""
        levels = [
            self.constant(f"{name}.scale", scale.astype(np.float32)),
            self.constant(f"{name}.zero", np.zeros(len(scale), np.int8)),
        ]
        return self.make("DequantizeLinear", [self.constant(name, weight), *levels], axis=0)

    def recurrent(self, at: int, step: Recurrent) -> str:
        """Append an LSTM or a GRU; return its output's name."""
        return recurrent(self, at, step)

    def product(self, at: int, step: Product) -> str:
        """Append a layer; return its output's name."""
        return _product(self, at, step)

    def table(self, at: int, step: Table) -> str:
        """Append a function of one number, looked up; return its output's name."""
        place = self.make("Cast", [f"{self.prefix}value{step.x}"], to=_INT64)
        values = self.constant(f"step{at}.values", step.values)
        levels = self.levels(f"step{at}", self.net.known(at + 1))
        return self.make("DequantizeLinear", [self.make("Gather", [values, place]), *levels])


def _product(writer: Writer, at: int, step: Product) -> str:
    # Zero points, though all are 0: where int8 weights are made uint8 (`exact_int8`), ONNX Runtime
    # fails on weights that have none.
    levels = [
        writer.constant(f"step{at}.scale", step.weight_scale.astype(np.float32)),
        writer.constant(f"step{at}.zero", np.zeros(len(step.weight_scale), np.int8)),
    ]
    bias_scale = writer.net.known(step.x).scale * step.weight_scale
    both = writer.constant(f"step{at}.bias_scale", bias_scale.astype(np.float32))
    held = writer.constant(f"step{at}.bias", step.bias)
    bias = writer.make("DequantizeLinear", [held, both], axis=0)
    weight = step.weight.transpose(0, 2, 1)  # (rows, channels, kernel)
    x = writer.read(step.x)
    if not step.linear:
        groups, weight = _grouped(weight)
        given: dict[str, Any] = {"group": groups} if groups > 1 else {}
        codes = writer.constant(f"step{at}.weight", weight)
        floats = writer.make("DequantizeLinear", [codes, *levels], axis=0)
        out = writer.make(
            "Conv",
            [x, floats, bias],
            strides=[step.stride],
            dilations=[step.dilation],
            pads=[step.pad_begin, step.pad_end],
            kernel_shape=[step.weight.shape[1]],
            **given,
        )
    elif len(writer.net.shapes[step.x]) == 1:
        codes = writer.constant(f"step{at}.weight", weight[:, :, 0])
        floats = writer.make("DequantizeLinear", [codes, *levels], axis=0)
        out = writer.make("Gemm", [x, floats, bias], transB=1)
    else:
        codes = writer.constant(f"step{at}.weight", weight[:, :, 0].T)
        floats = writer.make("DequantizeLinear", [codes, *levels], axis=1)
        out = writer.make("Add", [writer.make("MatMul", [x, floats]), bias])
    return writer.relu(out, wanted=step.relu)


def _grouped(weight: Ints) -> tuple[int, Ints]:
    """The most groups that a convolution has, and its weights (rows, channels of a group, kernel).

    A network in integers has none: it holds zeros between them, which a Conv need not.
    """
    rows, channels, kernel = weight.shape
    used = np.any(weight, axis=2)
    both = gcd(rows, channels)
    for groups in (each for each in range(both, 1, -1) if both % each == 0):
        shape = (groups, rows // groups, groups, channels // groups)
        apart = ~np.eye(groups, dtype=bool)
        if not np.any(np.any(used.reshape(shape), axis=(1, 3)), where=apart):
            parts = weight.reshape(*shape, kernel)
            own = [parts[at, :, at] for at in range(groups)]
            return groups, np.concatenate(own)
    return 1, weight


def _add(writer: Writer, at: int, step: Add) -> str:
    del at
    total = writer.make("Add", [writer.read(step.x), writer.read(step.y)])
    return writer.relu(total, wanted=step.relu)


def _pool(writer: Writer, at: int, step: Pool) -> str:
    del at
    given: dict[str, Any] = {"kernel_shape": [step.kernel], "strides": [step.stride]}
    given["pads"] = [step.pad_begin, step.pad_end]
    if step.mean:
        given["count_include_pad"] = int(step.count_padding)
    return writer.make("AveragePool" if step.mean else "MaxPool", [writer.read(step.x)], **given)


def _reduce(writer: Writer, at: int, step: Reduce) -> str:
    op, x = "ReduceMean" if step.mean else "ReduceMax", writer.read(step.x)
    keep = step.keep or len(writer.net.shapes[step.x]) == 1
    return _reduced(writer, at, op, x, [step.axis + 1], keep=keep)


def _reduced(writer: Writer, at: int, op: str, x: str, axes: list[int], *, keep: bool) -> str:
    if writer.opset < _AXES_AS_INPUT:
        return writer.make(op, [x], axes=axes, keepdims=int(keep))
    held = writer.constant(f"step{at}.axes", np.array(axes, np.int64))
    return writer.make(op, [x, held], keepdims=int(keep))


def _affine(writer: Writer, at: int, step: Affine) -> str:
    shape = (-1,) + (1,) * (len(writer.net.shapes[step.x]) - 1)
    factor = writer.constant(f"step{at}.factor", step.factor.astype(np.float32).reshape(shape))
    term = writer.constant(f"step{at}.term", step.term.astype(np.float32).reshape(shape))
    out = writer.make("Add", [writer.make("Mul", [writer.read(step.x), factor]), term])
    return writer.relu(out, wanted=step.relu)


def _norm(writer: Writer, at: int, step: Norm) -> str:
    x = writer.read(step.x)
    factor = writer.constant(f"step{at}.factor", step.factor.astype(np.float32))
    term = writer.constant(f"step{at}.term", step.term.astype(np.float32))
    if not step.rms:
        if writer.opset < _LAYER_NORM:
            raise ValueError(f"a norm needs opset {_LAYER_NORM}; the model's is {writer.opset}")
        given: dict[str, Any] = {"axis": -1, "epsilon": step.epsilon}
        return writer.make("LayerNormalization", [x, factor, term], **given)
    squares = writer.make("Mul", [x, x])
    if writer.opset < _AXES_AS_INPUT:
        mean = writer.make("ReduceMean", [squares], axes=[-1], keepdims=1)
    else:
        axes = writer.constant(f"step{at}.axes", np.array([-1], np.int64))
        mean = writer.make("ReduceMean", [squares, axes], keepdims=1)
    epsilon = writer.constant(f"step{at}.epsilon", np.float32(step.epsilon).reshape(()))
    root = writer.make("Sqrt", [writer.make("Add", [mean, epsilon])])
    normed = writer.make("Mul", [writer.make("Div", [x, root]), factor])
    return writer.make("Add", [normed, term])


def _attention(writer: Writer, at: int, step: Attention) -> str:
    def split(value: int, order: list[int]) -> str:
        width = writer.net.shapes[value][1] // step.heads
        shape = np.array([0, 0, step.heads, width], np.int64)
        held = writer.constant(f"step{at}.shape{len(writer.nodes)}", shape)
        parts = writer.make("Reshape", [writer.read(value), held])
        return writer.make("Transpose", [parts], perm=order)

    queries, values = split(step.x, [0, 2, 1, 3]), split(step.v, [0, 2, 1, 3])
    scale = writer.constant(f"step{at}.scale", np.float32(step.scale).reshape(()))
    scores = writer.make("MatMul", [queries, split(step.k, [0, 2, 3, 1])])
    shares = writer.make("Softmax", [writer.make("Mul", [scores, scale])], axis=-1)
    mixed = writer.make("Transpose", [writer.make("MatMul", [shares, values])], perm=[0, 2, 1, 3])
    shape = np.array([0, 0, writer.net.shapes[at + 1][1]], np.int64)
    return writer.make("Reshape", [mixed, writer.constant(f"step{at}.shape", shape)])


def _reshape(writer: Writer, at: int, step: Reshape) -> str:
    shape = writer.constant(f"step{at}.shape", np.array([0, *step.shape], np.int64))
    return writer.make("Reshape", [writer.read(step.x), shape])


def _multiply(writer: Writer, at: int, step: Multiply) -> str:
    del at
    product = writer.make("Mul", [writer.read(step.x), writer.read(step.y)])
    return writer.relu(product, wanted=step.relu)


def _slice(writer: Writer, at: int, step: Slice) -> str:
    bounds = {"start": step.start, "end": step.start + step.count, "axis": step.axis + 1}
    held = [
        writer.constant(f"step{at}.{name}", np.array([number], np.int64))
        for name, number in bounds.items()
    ]
    return writer.make("Slice", [writer.read(step.x), *held])


def _constant(writer: Writer, at: int, step: Constant) -> str:
    """A constant for each sample. Expand would do, but no bundle may hold one: 0 · the input is."""
    rank = len(writer.net.shapes[0])
    largest = _reduced(writer, at, "ReduceMax", writer.read(0), list(range(1, rank + 1)), keep=True)
    nothing = writer.make("Mul", [largest, writer.constant(f"step{at}.nothing", np.float32(0))])
    if step.values.ndim != rank:
        shape = np.array([0] + [1] * step.values.ndim, np.int64)
        nothing = writer.make("Reshape", [nothing, writer.constant(f"step{at}.shape", shape)])
    held = writer.constant(f"step{at}.values", step.values.astype(np.float32)[None])
    return writer.make("Add", [nothing, held])


def _concat(writer: Writer, at: int, step: Concat) -> str:
    del at
    return writer.make("Concat", [writer.read(x) for x in step.xs], axis=step.axis + 1)


_WRITERS: Final[dict[type[Step], Callable[[Writer, int, Any], str]]] = {
    Product: lambda writer, at, step: writer.product(at, step),
    Recurrent: lambda writer, at, step: writer.recurrent(at, step),
    Add: _add,
    Pool: _pool,
    Reduce: _reduce,
    Affine: _affine,
    Relu: lambda writer, _, step: writer.make("Relu", [writer.read(step.x)]),
    Concat: _concat,
    Reshape: _reshape,
    Rescale: lambda writer, _, step: writer.read(step.x),
    Table: lambda writer, at, step: writer.table(at, step),
    Norm: _norm,
    Attention: _attention,
    Multiply: _multiply,
    Slice: _slice,
    Constant: _constant,
    Transpose: lambda writer, _, step: writer.make(
        "Transpose", [writer.read(step.x)], perm=[0, 2, 1]
    ),
}
