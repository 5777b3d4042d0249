"""The meaning of a network in integers, in numpy: what every export must equal, to the bit.

Sums and products fit int64, as `check` refuses networks whose do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from edge_kernels.integer import cells
from edge_kernels.integer.check import check
from edge_kernels.integer.net import (
    EXPONENT_BITS,
    EXPONENTIAL,
    FREE,
    NORM_BITS,
    VANISHED,
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
from edge_kernels.integer.recurrent import Recurrent
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
from edge_kernels.integer.shapes import pool_counts, positions, reads

__all__ = ["check", "run", "values"]


def run(net: IntNet, x: Ints) -> Ints:
    r"""Return the output of a batch.

    Parameters
    ----------
    net : IntNet
    x : uint8 or uint16 (batch, \*shape)
        As the input's levels say.

    Returns
    -------
    int32 (batch, \*shape) where the output is accumulators, else uint8 or uint16

    Raises
    ------
    ValueError
        Where the network is not consistent, or x is not of its input's type and shape.
    """
    out = values(net, x)[net.output]
    levels = net.levels[net.output]
    return out.astype(np.int32 if levels is None else _unsigned(levels))


def values(net: IntNet, x: Ints) -> list[Ints]:
    r"""Return every value of a batch, int64 (batch, \*shape); errors as `run`'s."""
    check(net)
    wanted = _unsigned(net.known(0))
    if x.dtype != wanted or not _fits(net, x.shape):
        sizes = [f"1…{net.longest}" if each == FREE else str(each) for each in net.shapes[0]]
        raise ValueError(
            f"x is {x.dtype} of shape {x.shape}; it must be {wanted.__name__} of shape "
            f"(batch, {', '.join(sizes)})"
        )
    made: list[Ints] = [x.astype(np.int64)]
    for at, step in enumerate(net.steps):
        made.append(_RUNS[type(step)](net, at, step, made))
    return made


def _fits(net: IntNet, shape: tuple[int, ...]) -> bool:
    wanted = net.shapes[0]
    return len(shape) == len(wanted) + 1 and all(
        1 <= size <= net.longest if each == FREE else size == each
        for size, each in zip(shape[1:], wanted, strict=True)
    )


def _unsigned(levels: Levels) -> type[np.uint8 | np.uint16]:
    return np.uint8 if levels.bits == 8 else np.uint16


def _shifted(numerator: Ints, shift: Ints | int, levels: Levels, *, relu: bool = False) -> Ints:
    """((numerator + 2^(shift − 1)) >> shift) + zero, within the levels."""
    half = np.left_shift(np.int64(1), np.asarray(shift, np.int64) - 1)
    q = ((numerator + half) >> shift) + levels.zero
    out: Ints = np.clip(q, levels.zero if relu else 0, levels.top)
    return out


def _centred(net: IntNet, made: list[Ints], value: int) -> Ints:
    out: Ints = made[value] - net.known(value).zero
    return out


def _product(net: IntNet, at: int, step: Product, made: list[Ints]) -> Ints:
    x = _centred(net, made, step.x)
    acc = _linear(step, x) if step.linear else _conv(step, x)
    if net.levels[at + 1] is None:
        return np.maximum(acc, 0) if step.relu else acc
    m, s = product_scales(net, at, step)
    if not step.linear:
        m, s = m[:, None], s[:, None]
    return _shifted(acc * m, s, net.known(at + 1), relu=step.relu)


def _dot(x: Ints, weight: Ints) -> Ints:
    """(…, K) by (rows, K) → (…, rows). In float64 for its speed: partial sums are below 2^53."""
    return (x.astype(np.float64) @ weight.astype(np.float64).T).astype(np.int64)


def _linear(step: Product, x: Ints) -> Ints:
    out: Ints = _dot(x, step.weight[:, 0]) + step.bias
    return out


def _conv(step: Product, x: Ints) -> Ints:
    padded = np.pad(x, ((0, 0), (0, 0), (step.pad_begin, step.pad_end)))
    _, kernel, _ = step.weight.shape
    count = positions(step, x.shape[2])
    acc = np.zeros((len(x), count, len(step.weight)), np.int64) + step.bias
    for tap in range(kernel):
        begin = tap * step.dilation
        column = padded[:, :, begin : begin + (count - 1) * step.stride + 1 : step.stride]
        acc += _dot(column.transpose(0, 2, 1), step.weight[:, tap])
    return acc.transpose(0, 2, 1)


def _add(net: IntNet, at: int, step: Add, made: list[Ints]) -> Ints:
    m_x, m_y, shift = add_scales(net, at, step)
    total = _centred(net, made, step.x) * m_x + _centred(net, made, step.y) * m_y
    return _shifted(total, shift, net.known(at + 1), relu=step.relu)


def _pool(net: IntNet, at: int, step: Pool, made: list[Ints]) -> Ints:
    x = _centred(net, made, step.x) if step.mean else made[step.x]
    padded = np.pad(x, ((0, 0), (0, 0), (step.pad_begin, step.pad_end)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, step.kernel, axis=2)
    windows = windows[:, :, :: step.stride]
    if not step.mean:
        out: Ints = windows.max(-1)
        return out
    pairs = [mean_scale(net, at, step, count) for count in pool_counts(step, x.shape[2])]
    m, s = (np.array(each, np.int64) for each in zip(*pairs, strict=True))
    return _shifted(windows.sum(-1) * m, s, net.known(at + 1))


def _reduce(net: IntNet, at: int, step: Reduce, made: list[Ints]) -> Ints:
    axis = step.axis + 1
    keep = step.keep or made[step.x].ndim == 2
    if not step.mean:
        largest: Ints = made[step.x].max(axis, keepdims=keep)
        return largest
    x = _centred(net, made, step.x)
    m, s = mean_scale(net, at, step, x.shape[axis])
    return _shifted(x.sum(axis, keepdims=keep) * m, s, net.known(at + 1))


def _affine(net: IntNet, at: int, step: Affine, made: list[Ints]) -> Ints:
    factors, terms, shift = affine_scales(net, at, step)
    shape = (-1,) + (1,) * (len(net.shapes[step.x]) - 1)
    m, t = (np.array(each, np.int64).reshape(shape) for each in (factors, terms))
    total = _centred(net, made, step.x) * m + t
    return _shifted(total, shift, net.known(at + 1), relu=step.relu)


def _relu(net: IntNet, at: int, step: Relu, made: list[Ints]) -> Ints:
    del at
    return np.maximum(made[step.x], net.known(step.x).zero)


def _concat(net: IntNet, at: int, step: Concat, made: list[Ints]) -> Ints:
    del net, at
    return np.concatenate([made[x] for x in step.xs], axis=step.axis + 1)


def _reshape(net: IntNet, at: int, step: Reshape, made: list[Ints]) -> Ints:
    del net, at
    return made[step.x].reshape(len(made[step.x]), *step.shape)


def _transpose(net: IntNet, at: int, step: Transpose, made: list[Ints]) -> Ints:
    del net, at
    return made[step.x].transpose(0, 2, 1)


def _rescale(net: IntNet, at: int, step: Rescale, made: list[Ints]) -> Ints:
    m, s = rescale_scales(net, at, step)
    return _shifted(_centred(net, made, step.x) * m, s, net.known(at + 1))


def _table(net: IntNet, at: int, step: Table, made: list[Ints]) -> Ints:
    del net, at
    return step.values.astype(np.int64)[made[step.x]]


def _norm(net: IntNet, at: int, step: Norm, made: list[Ints]) -> Ints:
    m, t, s, epsilon = norm_scales(net, at, step)
    c = _centred(net, made, step.x)
    count = c.shape[-1]
    total = np.zeros_like(c[..., :1]) if step.rms else c.sum(-1, keepdims=True)
    r, e = _inverse_root(count * (c * c).sum(-1, keepdims=True) - total * total + epsilon)
    shift = 61 - NORM_BITS - e
    n = ((count * c - total) * r + (np.int64(1) << (shift - 1))) >> shift
    return _shifted(n * np.array(m, np.int64) + np.array(t, np.int64), s, net.known(at + 1))


def _inverse_root(w: Ints) -> tuple[Ints, Ints]:
    """Return r and e with 1 / √w ≈ r · 2^(e − 61), of w in 0 … 2^62 − 1."""
    bits = np.zeros_like(w)
    for step in (32, 16, 8, 4, 2, 1):
        bits += step * ((w >> (bits + step)) > 0)
    e = (61 - bits) // 2  # bits is one less than w has
    wide = w << (2 * e)
    root = np.sqrt(wide.astype(np.float64)).astype(np.int64)
    root -= root * root > wide
    root += (root + 1) * (root + 1) <= wide
    return np.where(w > 0, ((1 << 61) - 1) // np.maximum(root, 1), 0), e


def _attention(net: IntNet, at: int, step: Attention, made: list[Ints]) -> Ints:
    m, s, m_v, s_v = attention_scales(net, at, step)
    x, k, v = (_heads(_centred(net, made, each), step.heads) for each in reads(step))
    scores = _matrix_product(x, k.swapaxes(-1, -2))
    p = _exponential((scores.max(-1, keepdims=True) - scores) * m >> s)
    total = p.sum(-1, keepdims=True)
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    less = np.maximum(bits - 23, 0)
    acc = _matrix_product(p, v) >> less
    by = (m_v << (bits - 1)) // total
    out = _shifted(acc * by, s_v + bits - 1 - less, net.known(at + 1))
    batch, heads, length, width = out.shape
    return out.transpose(0, 2, 1, 3).reshape(batch, length, heads * width)


def _multiply(net: IntNet, at: int, step: Multiply, made: list[Ints]) -> Ints:
    m, s = multiply_scales(net, at, step)
    product = _centred(net, made, step.x) * _centred(net, made, step.y)
    return _shifted(product * m, s, net.known(at + 1), relu=step.relu)


def _slice(net: IntNet, at: int, step: Slice, made: list[Ints]) -> Ints:
    del net, at
    return np.take(made[step.x], np.arange(step.start, step.start + step.count), step.axis + 1)


def _constant(net: IntNet, at: int, step: Constant, made: list[Ints]) -> Ints:
    codes = constant_codes(step, net.known(at + 1)).astype(np.int64)
    return np.broadcast_to(codes, (len(made[0]), *codes.shape))


def _heads(x: Ints, heads: int) -> Ints:
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def _matrix_product(x: Ints, y: Ints) -> Ints:
    """Of integers, in float64 for its speed: sums are below 2^53."""
    return (x.astype(np.float64) @ y.astype(np.float64)).astype(np.int64)


def _exponential(u: Ints) -> Ints:
    """2^(−u / 2^16) in units of 2^−15."""
    u = np.minimum(u, VANISHED << EXPONENT_BITS)
    f, n = u & ((1 << EXPONENT_BITS) - 1), u >> EXPONENT_BITS
    c0, c1, c2, c3 = EXPONENTIAL
    w = c0 - ((f * (c1 - ((f * (c2 - ((f * c3) >> 16))) >> 16))) >> 16)
    out: Ints = (w + ((np.int64(1) << n) >> 1)) >> n
    return out


_RUNS: Final[dict[type, Callable[[IntNet, int, Any, list[Ints]], Ints]]] = {
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
    Recurrent: lambda net, at, step, made: cells.run(net, at, step, _centred(net, made, step.x)),
}
