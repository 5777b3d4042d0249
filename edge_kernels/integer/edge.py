"""A network in integers as one operator: `IntSequential` of the domain ``flwr.edge``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_kernels.integer.cells import gate_scales, state_scale
from edge_kernels.integer.check import check
from edge_kernels.integer.net import (
    FREE,
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
    Reduce,
    Relu,
    Rescale,
    Reshape,
    Slice,
    Table,
    Transpose,
)
from edge_kernels.integer.recurrent import Recurrent, logistic
from edge_kernels.integer.scales import (
    add_scales,
    affine_scales,
    attention_scales,
    constant_codes,
    mean_scale,
    multiply_scales,
    norm_scales,
    product_scales,
    rescale_scales,
)
from edge_kernels.integer.shapes import pool_counts

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

DOMAIN: Final = "flwr.edge"
VERSION: Final = 1
_LINEAR, _CONV, _RELU, _POOL, _REDUCE, _CONCAT, _ADD, _AFFINE, _RESHAPE, _TRANSPOSE = range(1, 11)
_RESCALE, _TABLE, _NORM, _ATTENTION, _MULTIPLY, _SLICE, _CONSTANT, _LSTM, _GRU = range(11, 20)
_NONE: Final = -1  # in place of a constant's number
_WIDE: Final = 1 << 16  # added to a zero of 16-bit levels
_OUTPUTS: Final = ("accumulators", 8, 16)


@dataclass
class Program:
    """What the operator runs; its form is csrc/integer/int_program.h's.

    Attributes
    ----------
    code : list of int
        The version, the input's zero, the instructions.
    constants : list of int8, int32 or int64 arrays
        Numbered by the code.
    logistic : int
        The number of `recurrent.logistic`'s table, which all recurrent steps share; −1: none yet.
    """

    code: list[int]
    constants: list[Ints] = field(default_factory=list)
    logistic: int = -1

    def constant(self, value: Ints) -> int:
        """Keep a constant; return its number."""
        self.constants.append(value)
        return len(self.constants) - 1

    def scales(self, m: Ints, s: Ints) -> tuple[int, int]:
        """Keep multipliers and shifts."""
        return self.constant(m.astype(np.int32)), self.constant(s.astype(np.int32))


def program(net: IntNet) -> Program:
    """Write a network as the operator's program.

    Raises
    ------
    ValueError
        Where the network is not consistent, or a product reads 16 bits.
    """
    check(net)
    made = Program([VERSION, _levels(net.known(0))])
    for at, step in enumerate(net.steps):
        made.code += _WRITERS[type(step)](net, at, step, made)
    return made


def node(
    net: IntNet, input_name: str, output_name: str, name: str = ""
) -> tuple[NodeProto, list[TensorProto]]:
    """Return the network as one node, and the initializers that it reads.

    The node's input is uint8 (batch, *shape of value 0), or uint16 as its levels say; its output
    int32 (batch, *shape) where the network's output is accumulators, else uint8 or uint16. A model
    that has it imports ``flwr.edge``, 1.

    Parameters
    ----------
    net : IntNet
    input_name, output_name : str
    name : str
        The node's, and the prefix of its initializers' names; without it, the output's.

    Raises
    ------
    ValueError
        As `program`'s.
    """
    from onnx import helper, numpy_helper

    made = program(net)
    prefix = name or output_name
    names = [f"{prefix}.{at}" for at in range(len(made.constants))]
    levels = net.levels[net.output]
    place = _OUTPUTS.index("accumulators" if levels is None else levels.bits)
    free: dict[str, Any] = {"longest": net.longest} if FREE in net.shapes[0] else {}
    whole = helper.make_node(
        "IntSequential",
        [input_name, *names],
        [""] * place + [output_name],
        name=name,
        domain=DOMAIN,
        program=made.code,
        input_shape=list(net.shapes[0]),
        result=net.output,
        **free,
    )
    pairs = zip(made.constants, names, strict=True)
    return whole, [numpy_helper.from_array(np.ascontiguousarray(each), at) for each, at in pairs]


def _zero(net: IntNet, at: int) -> int:
    levels = net.levels[at + 1]
    return 0 if levels is None else _levels(levels)


def _levels(levels: Levels) -> int:
    return levels.zero if levels.bits == 8 else _WIDE + levels.zero


def _product(net: IntNet, at: int, step: Product, made: Program) -> list[int]:
    bits = net.known(step.x).bits
    if bits != 8:
        raise ValueError(f"step {at} (Product): it reads {bits} bits; IntSequential's read 8")
    weight, bias = made.constant(step.weight), made.constant(step.bias)
    m, s = _NONE, _NONE
    if net.levels[at + 1] is not None:
        m, s = made.scales(*product_scales(net, at, step))
    rows, kernel, _ = step.weight.shape
    head = [step.x, weight, bias, m, s, _zero(net, at), int(step.relu), rows]
    if step.linear:
        return [_LINEAR, *head]
    window = [kernel, step.stride, step.dilation, step.pad_begin, step.pad_end]
    return [_CONV, *head, *window]


def _mean(net: IntNet, at: int, step: Pool | Reduce, counts: list[int], made: Program) -> list[int]:
    if not step.mean:
        return [step.x, 0, _NONE, _NONE, 0]
    if len(set(counts)) == 1:
        counts = counts[:1]
    pairs = np.array([mean_scale(net, at, step, count) for count in counts], np.int64)
    return [step.x, 1, *made.scales(pairs[:, 0], pairs[:, 1]), _zero(net, at)]


def _pool(net: IntNet, at: int, step: Pool, made: Program) -> list[int]:
    head = _mean(net, at, step, pool_counts(step, net.shapes[step.x][1]), made)
    return [_POOL, *head, step.kernel, step.stride, step.pad_begin, step.pad_end]


def _reduce(net: IntNet, at: int, step: Reduce, made: Program) -> list[int]:
    count = net.shapes[step.x][step.axis]
    head = _mean(net, at, step, [1 if count == FREE else count], made)
    return [_REDUCE, *head, step.axis, int(step.keep)]


def _add(net: IntNet, at: int, step: Add, made: Program) -> list[int]:
    del made
    return [_ADD, step.x, step.y, *add_scales(net, at, step), _zero(net, at), int(step.relu)]


def _affine(net: IntNet, at: int, step: Affine, made: Program) -> list[int]:
    factors, terms, shift = affine_scales(net, at, step)
    m, t = made.constant(np.array(factors, np.int32)), made.constant(np.array(terms, np.int64))
    return [_AFFINE, step.x, m, t, shift, _zero(net, at), int(step.relu)]


def _relu(net: IntNet, at: int, step: Relu, made: Program) -> list[int]:
    del net, at, made
    return [_RELU, step.x]


def _concat(net: IntNet, at: int, step: Concat, made: Program) -> list[int]:
    del net, at, made
    return [_CONCAT, step.axis, len(step.xs), *step.xs]


def _reshape(net: IntNet, at: int, step: Reshape, made: Program) -> list[int]:
    del net, at, made
    c, length = (*step.shape, 0)[:2]
    return [_RESHAPE, step.x, c, length]


def _transpose(net: IntNet, at: int, step: Transpose, made: Program) -> list[int]:
    del net, at, made
    return [_TRANSPOSE, step.x]


def _rescale(net: IntNet, at: int, step: Rescale, made: Program) -> list[int]:
    del made
    return [_RESCALE, step.x, *rescale_scales(net, at, step), _zero(net, at)]


def _table(net: IntNet, at: int, step: Table, made: Program) -> list[int]:
    return [_TABLE, step.x, made.constant(step.values.astype(np.int32)), _zero(net, at)]


def _norm(net: IntNet, at: int, step: Norm, made: Program) -> list[int]:
    factors, terms, shift, epsilon = norm_scales(net, at, step)
    m, t = made.constant(np.array(factors, np.int32)), made.constant(np.array(terms, np.int64))
    return [_NORM, step.x, m, t, shift, epsilon, int(step.rms), _zero(net, at)]


def _attention(net: IntNet, at: int, step: Attention, made: Program) -> list[int]:
    del made
    scales = attention_scales(net, at, step)
    return [_ATTENTION, step.x, step.k, step.v, step.heads, *scales, _zero(net, at)]


def _multiply(net: IntNet, at: int, step: Multiply, made: Program) -> list[int]:
    del made
    scale = multiply_scales(net, at, step)
    return [_MULTIPLY, step.x, step.y, *scale, _zero(net, at), int(step.relu)]


def _slice(net: IntNet, at: int, step: Slice, made: Program) -> list[int]:
    del net, at, made
    return [_SLICE, step.x, step.axis, step.start, step.count]


def _constant(net: IntNet, at: int, step: Constant, made: Program) -> list[int]:
    codes = constant_codes(step, net.known(at + 1))
    c, length = (*codes.shape, 0)[:2]
    return [_CONSTANT, made.constant(codes), c, length, _zero(net, at)]


def _recurrent(net: IntNet, at: int, step: Recurrent, made: Program) -> list[int]:
    if made.logistic < 0:
        made.logistic = made.constant(logistic())
    m_x, m_h, shift = gate_scales(net, at, step)
    ways = sum(2 if way.reverse else 1 for way in step.directions)
    code = [_GRU if step.gru else _LSTM, step.x, step.width, ways, made.logistic, m_x, shift]
    code += [*state_scale(net, at, step), _zero(net, at)]
    for way, rows in zip(step.directions, m_h, strict=True):
        weight, bias = made.constant(way.hidden_weight), made.constant(way.hidden_bias)
        code += [weight, bias, made.constant(rows.astype(np.int32))]
    return code


_WRITERS: Final[dict[type, Callable[[IntNet, int, Any, Program], list[int]]]] = {
    Product: _product,
    Add: _add,
    Pool: _pool,
    Reduce: _reduce,
    Affine: _affine,
    Relu: _relu,
    Concat: _concat,
    Reshape: _reshape,
    Transpose: _transpose,
    Rescale: _rescale,
    Table: _table,
    Norm: _norm,
    Attention: _attention,
    Multiply: _multiply,
    Slice: _slice,
    Constant: _constant,
    Recurrent: _recurrent,
}
