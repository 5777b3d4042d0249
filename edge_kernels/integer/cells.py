"""Recurrent steps: their constants, what they must satisfy, and what they mean in numpy."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.net import IntNet, Shape
from edge_kernels.integer.recurrent import (
    GATE_BITS,
    MOST_CELL,
    MOST_GATE,
    ONE,
    STATE_BITS,
    Direction,
    Recurrent,
    logistic,
)
from edge_kernels.integer.scales import fixed_point

Ints = NDArray[Any]
_MOST_SUM: Final = (1 << 31) - 1
_WAYS: Final = ([False], [True], [False, True])


def gate_scales(net: IntNet, at: int, step: Recurrent) -> tuple[int, list[Ints], int]:
    """Return the multiplier of x, those of each direction's rows (G · H,), and their shift."""
    x, h = math.ldexp(net.known(step.x).scale, GATE_BITS), net.known(at + 1).scale
    rows = [[math.ldexp(h * float(each), GATE_BITS) for each in way.hidden_scale]
            for way in step.directions]  # fmt: skip
    _, shift = fixed_point(max(x, *(max(each) for each in rows)), 30)

    def whole(ratio: float) -> int:
        return round(math.ldexp(ratio, shift))

    return whole(x), [np.array([whole(r) for r in each], np.int64) for each in rows], shift


def state_scale(net: IntNet, at: int, step: Recurrent) -> tuple[int, int]:
    """Return the multiplier and shift from states to the result's levels."""
    unit = STATE_BITS if step.gru else 2 * STATE_BITS
    return fixed_point(math.ldexp(1 / net.known(at + 1).scale, -unit))


def shape(step: Recurrent, xs: list[Shape]) -> Shape:
    """Return the shape of a step's value; errors as `edge_kernels.integer.shapes.shape_of`'s."""
    (x,) = xs
    ways = [way.reverse for way in step.directions]
    if ways not in _WAYS:
        raise ValueError(f"directions {ways}; forward, reverse, or forward and then reverse")
    rows = step.gates * step.width
    for way in step.directions:
        wanted = {"hidden_weight": (rows, step.width), "hidden_bias": (rows,)}
        for name, each in {**wanted, "hidden_scale": (rows,)}.items():
            given = getattr(way, name).shape
            if given != each or min(each) < 1:
                raise ValueError(f"its {name} is of shape {given}, not {each}")
    if len(x) != 2 or x[1] != len(ways) * rows:
        raise ValueError(f"it reads a value of shape {x}; (positions, {len(ways) * rows}) is right")
    return (x[0], len(ways) * step.width)


def check(net: IntNet, at: int, step: Recurrent) -> None:
    """Refuse a step that is not consistent; its shapes are known to be.

    Raises
    ------
    ValueError
    """
    if net.known(at + 1).bits != 8:
        raise ValueError(f"a result of {net.known(at + 1).bits} bits; 8 are needed")
    for way in step.directions:
        _check_sums(net, at, way)
        if not (np.isfinite(way.hidden_scale).all() and (way.hidden_scale > 0).all()):
            raise ValueError("its hidden_scale is not positive and finite everywhere")
    gate_scales(net, at, step)
    state_scale(net, at, step)


def _check_sums(net: IntNet, at: int, way: Direction) -> None:
    weight, bias = way.hidden_weight, way.hidden_bias
    if weight.dtype != np.int8 or bias.dtype != np.int32:
        raise ValueError(f"weights {weight.dtype} and biases {bias.dtype}, not int8 and int32")
    h, wide = net.known(at + 1), weight.astype(np.int64)
    up, down = np.maximum(wide, 0).sum(1), np.maximum(-wide, 0).sum(1)
    high = up * (h.top - h.zero) + down * h.zero + bias
    low = -(up * h.zero + down * (h.top - h.zero)) + bias
    most = max(int(high.max()), -int(low.min()))
    if most > _MOST_SUM:
        raise ValueError(f"its sums may reach {most}, beyond {_MOST_SUM}")


def run(net: IntNet, at: int, step: Recurrent, x: Ints) -> Ints:
    """Return the step's value of x, centred int64 (batch, L, D · G · H)."""
    own = np.split(x, len(step.directions), axis=-1)
    made = [_direction(net, at, step, d, own[d]) for d in range(len(own))]
    return np.concatenate(made, axis=-1)


def _direction(net: IntNet, at: int, step: Recurrent, number: int, x: Ints) -> Ints:
    """Every hidden state of one direction (batch, L, H)."""
    way, levels, (m, s) = step.directions[number], net.known(at + 1), state_scale(net, at, step)
    m_x, m_h, shift = gate_scales(net, at, step)
    advance = _gru if step.gru else _lstm
    batch, length, _ = x.shape
    state = np.zeros((batch, step.width), np.int64)
    q, made = np.full_like(state, levels.zero), np.empty((batch, length, step.width), np.int64)
    for t in range(length - 1, -1, -1) if way.reverse else range(length):
        hidden = (q - levels.zero) @ way.hidden_weight.astype(np.int64).T + way.hidden_bias
        state, out = advance(x[:, t] * m_x, hidden * m_h[number], shift, state)
        q = np.clip(((out * m + (1 << (s - 1))) >> s) + levels.zero, 0, levels.top)
        made[:, t] = q
    return made


def _lstm(own: Ints, hidden: Ints, shift: int, cell: Ints) -> tuple[Ints, Ints]:
    """Return the cell state, and the hidden state in units of 2^−30."""
    i, o, f, c = np.split(_gate(own + hidden, shift), 4, axis=-1)
    moved = sigmoid(f) * cell + sigmoid(i) * tanh(c)
    cell = np.clip((moved + ONE // 2) >> STATE_BITS, -MOST_CELL, MOST_CELL)
    return cell, sigmoid(o) * (2 * sigmoid((cell + 2) >> 2) - ONE)


def _gru(own: Ints, hidden: Ints, shift: int, state: Ints) -> tuple[Ints, Ints]:
    """Return the state, twice."""
    p, k = (np.split(each, 3, axis=-1) for each in (own, hidden))
    z, r = (sigmoid(_gate(p[gate] + k[gate], shift)) for gate in (0, 1))
    reset = (r * _gate(k[2], shift) + ONE // 2) >> STATE_BITS
    n = tanh(np.clip(_gate(p[2], shift) + reset, -MOST_GATE, MOST_GATE))
    state = (z * state + (ONE - z) * n + ONE // 2) >> STATE_BITS
    return state, state


def _gate(total: Ints, shift: int) -> Ints:
    out: Ints = np.clip((total + (1 << (shift - 1))) >> shift, -MOST_GATE, MOST_GATE)
    return out


_TABLE: Final = logistic().astype(np.int64)


def sigmoid(g: Ints) -> Ints:
    """σ of numbers in units of 2^−12, in units of 2^−15."""
    u = np.minimum(np.abs(g), (1 << 16) - 1)
    i, f = u >> 8, u & 255
    v = _TABLE[i] + (((_TABLE[i + 1] - _TABLE[i]) * f + 128) >> 8)
    out: Ints = np.where(g >= 0, v, ONE - v)
    return out


def tanh(g: Ints) -> Ints:
    """As `sigmoid`."""
    return 2 * sigmoid(2 * g) - ONE
