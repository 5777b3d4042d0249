"""Nodes of a network's steps, in float between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.integer.net import (
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    Ints,
    Multiply,
    Norm,
    Pool,
    Product,
    Reduce,
    Relu,
    Rescale,
    Reshape,
    Slice,
    Step,
    Table,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent

if TYPE_CHECKING:
    from edge_kernels.integer.qdq import Writer

_AXES_AS_INPUT: Final = 18
_LAYER_NORM: Final = 17


def product(writer: Writer, at: int, step: Product) -> str:
    """Append a layer; return its output's name."""
    bias_scale = writer.net.known(step.x).scale * step.weight_scale
    both = writer.constant(f"step{at}.bias_scale", bias_scale.astype(np.float32))
    held = writer.constant(f"step{at}.bias", step.bias)
    bias = writer.make("DequantizeLinear", [held, both], axis=0)
    weight = step.weight.transpose(0, 2, 1)  # (rows, channels, kernel)
    x, name = writer.read(step.x), f"step{at}.weight"
    if not step.linear:
        groups, weight = _grouped(weight)
        given: dict[str, Any] = {"group": groups} if groups > 1 else {}
        floats = writer.rows(name, weight, step.weight_scale)
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
        floats = writer.rows(name, weight[:, :, 0], step.weight_scale)
        out = writer.make("Gemm", [x, floats, bias], transB=1)
    else:
        floats = writer.rows(name, weight[:, :, 0].T, step.weight_scale, axis=1)
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


WRITERS: Final[dict[type[Step], Callable[[Writer, int, Any], str]]] = {
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
