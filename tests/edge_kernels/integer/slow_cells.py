"""A recurrent step in Python's own integers, one number at a time, from its description."""

import math

from edge_kernels.integer.cells import gate_scales, state_scale

TOP = (1 << 30) - 1


def clamp(number, most):
    return min(max(number, -most), most)


def sigmoid(g):
    def entry(i):
        return round(32768 / (1 + math.exp(-i / 16)))

    u = min(abs(g), 65535)
    i, f = divmod(u, 256)
    v = entry(i) + ((entry(i + 1) - entry(i)) * f + 128) // 256
    return v if g >= 0 else 32768 - v


def tanh(g):
    return 2 * sigmoid(2 * g) - 32768


def rounded(number, shift):
    return (number + (1 << (shift - 1))) >> shift


def slow_recurrent(net, at, step, x, length):
    """``x``: a dict from (position, row) to a number; so is the result."""
    made = {}
    for number in range(len(step.directions)):
        _way(net, at, step, number, x, length, made)
    return made


def _way(net, at, step, number, x, length, made):
    way, width, to = step.directions[number], step.width, net.levels[at + 1]
    m_x, m_h, shift = gate_scales(net, at, step)
    m, s = state_scale(net, at, step)
    rows = step.gates * width
    state, q = [0] * width, [to.zero] * width
    for t in range(length)[:: -1 if way.reverse else 1]:
        own = [(x[t, number * rows + r] - net.levels[step.x].zero) * m_x for r in range(rows)]
        hidden = []
        for r in range(rows):
            total = int(way.hidden_bias[r])
            for j in range(width):
                total += (q[j] - to.zero) * int(way.hidden_weight[r, j])
            hidden.append(total * int(m_h[number][r]))
        state, out = (_gru if step.gru else _lstm)(own, hidden, shift, state, width)
        q = [min(max(rounded(each * m, s) + to.zero, 0), to.top) for each in out]
        made.update({(t, number * width + j): q[j] for j in range(width)})


def _lstm(own, hidden, shift, state, width):
    def gate(kind, j):
        r = kind * width + j
        return clamp(rounded(own[r] + hidden[r], shift), TOP)

    cells, out = [], []
    for j in range(width):
        i, o, f = (sigmoid(gate(kind, j)) for kind in range(3))
        cell = rounded(f * state[j] + i * tanh(gate(3, j)), 15)
        cells.append(clamp(cell, 1 << 30))
        out.append(o * (2 * sigmoid((cells[j] + 2) >> 2) - 32768))
    return cells, out


def _gru(own, hidden, shift, state, width):
    made = []
    for j in range(width):
        z, r = (
            sigmoid(clamp(rounded(own[k * width + j] + hidden[k * width + j], shift), TOP))
            for k in range(2)
        )
        p, k = (clamp(rounded(each[2 * width + j], shift), TOP) for each in (own, hidden))
        n = tanh(clamp(p + rounded(r * k, 15), TOP))
        made.append(rounded(z * state[j] + (32768 - z) * n, 15))
    return made, made
