"""The oracle against Python's own integers, one number at a time."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_kernels.integer import oracle
from edge_kernels.integer.net import (
    EXPONENTIAL,
    FREE,
    NORM_BITS,
    VANISHED,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
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
)
from edge_kernels.integer.recurrent import Recurrent
from edge_kernels.integer.scales import (
    add_scales,
    affine_scales,
    attention_scales,
    fixed_point,
    mean_scale,
    norm_scales,
)
from tests.edge_kernels.integer.slow_cells import slow_recurrent


def requantized(numerator, shift, levels, relu=False):
    q = (numerator + 2 ** (shift - 1)) // 2**shift + levels.zero
    return min(max(q, levels.zero if relu else 0), levels.top)


def slow(net, x):
    """Run one sample; a value is a dict from index to a Python integer."""
    made = [{i: int(x[i]) for i in np.ndindex(*x.shape)}]
    shapes = [tuple(len(x) if n == FREE else n for n in shape) for shape in net.shapes]
    for at, step in enumerate(net.steps):
        if isinstance(step, Recurrent):
            made.append(slow_recurrent(net, at, step, made[step.x], shapes[step.x][0]))
            continue
        indices = np.ndindex(*shapes[at + 1])
        made.append({i: slow_element(net, at, step, made, i, shapes) for i in indices})
    out = np.empty(shapes[net.output], object)
    for i, q in made[net.output].items():
        out[i] = q
    return out


def slow_element(net, at, step, made, i, shapes):  # noqa: C901 (a case a step)
    to = net.levels[at + 1]
    if isinstance(step, Add):
        m_x, m_y, s = add_scales(net, at, step)
        x, y = (made[v][i] - net.levels[v].zero for v in (step.x, step.y))
        return requantized(x * m_x + y * m_y, s, to, step.relu)
    if isinstance(step, Multiply):
        m, s = fixed_point(net.levels[step.x].scale * net.levels[step.y].scale / to.scale, 30)
        x, y = (
            made[v][tuple(0 if n == 1 else j for j, n in zip(i, shapes[v], strict=True))]
            - net.levels[v].zero
            for v in (step.x, step.y)
        )
        return requantized(x * y * m, s, to, step.relu)
    if isinstance(step, Constant):
        return min(max(round(float(step.values[i]) / to.scale) + to.zero, 0), to.top)
    if isinstance(step, Concat):
        place = list(i)
        for v in step.xs:
            if place[step.axis] < shapes[v][step.axis]:
                return made[v][tuple(place)]
            place[step.axis] -= shapes[v][step.axis]
    values, zero, shape = made[step.x], net.levels[step.x].zero, shapes[step.x]
    if isinstance(step, Slice):
        return values[tuple(j + step.start * (axis == step.axis) for axis, j in enumerate(i))]
    if isinstance(step, Product):
        return slow_product(net, at, step, values, zero, shape, i)
    if isinstance(step, Affine):
        m, t, s = affine_scales(net, at, step)
        return requantized((values[i] - zero) * m[i[0]] + t[i[0]], s, to, step.relu)
    if isinstance(step, Attention):
        return slow_attention(net, at, step, made, i, shapes)
    if isinstance(step, Norm):
        line = [values[(*i[:-1], c)] - zero for c in range(shape[-1])]
        return slow_norm(net, at, step, line, i[-1])
    if isinstance(step, Rescale):
        m, s = fixed_point(net.levels[step.x].scale / to.scale)
        return requantized((values[i] - zero) * m, s, to)
    if isinstance(step, Table):
        return int(step.values[values[i]])
    if isinstance(step, Relu):
        return max(values[i], zero)
    if isinstance(step, Reshape):
        order = list(np.ndindex(*step.shape)).index(i)
        return values[list(np.ndindex(*shape))[order]]
    if isinstance(step, Pool):
        begin = i[1] * step.stride - step.pad_begin
        places = range(max(begin, 0), min(begin + step.kernel, shape[1]))
        inside = [values[i[0], place] for place in places]
        return slow_mean(net, at, step, inside, step.kernel if step.count_padding else len(inside))
    if isinstance(step, Reduce):
        rest = i[0] if len(shape) == 2 else None
        if step.keep and len(shape) == 2:
            rest = i[1 - step.axis]
        line = [values[j] for j in np.ndindex(*shape) if rest is None or j[1 - step.axis] == rest]
        return slow_mean(net, at, step, line, len(line))
    return values[i[1], i[0]]  # Transpose


def slow_mean(net, at, step, numbers, count):
    if not step.mean:
        return max(numbers)
    m, s = mean_scale(net, at, step, count)
    total = sum(q - net.levels[step.x].zero for q in numbers)
    return requantized(total * m, s, net.levels[at + 1])


def slow_product(net, at, step, values, zero, shape, i):
    row = i[-1] if step.linear else i[0]
    acc = int(step.bias[row])
    _, kernel, channels = step.weight.shape
    for tap, c in product(range(kernel), range(channels)):
        if step.linear:
            place = (*i[:-1], c)
        else:
            place = (c, i[1] * step.stride - step.pad_begin + tap * step.dilation)
            if not 0 <= place[1] < shape[1]:
                continue
        acc += (values[place] - zero) * int(step.weight[row, tap, c])
    to = net.levels[at + 1]
    if to is None:
        return max(acc, 0) if step.relu else acc
    m, s = fixed_point(net.levels[step.x].scale * float(step.weight_scale[row]) / to.scale)
    return requantized(acc * m, s, to, step.relu)


def slow_norm(net, at, step, line, place):
    m, t, s, epsilon = norm_scales(net, at, step)
    count, total = len(line), 0 if step.rms else sum(line)
    w = count * sum(c * c for c in line) - total**2 + epsilon
    e = (62 - w.bit_length()) // 2
    r = (2**61 - 1) // math.isqrt(w * 4**e) if w else 0
    down = 61 - NORM_BITS - e
    n = ((count * line[place] - total) * r + 2 ** (down - 1)) // 2**down
    return requantized(n * m[place] + t[place], s, net.levels[at + 1])


def slow_attention(net, at, step, made, i, shapes):
    m, s, m_v, s_v = attention_scales(net, at, step)
    x, k, v = (
        {j: q - net.levels[each].zero for j, q in made[each].items()}
        for each in (step.x, step.k, step.v)
    )
    seen, width = shapes[step.k][0], shapes[step.k][1] // step.heads
    begin = i[1] // (shapes[step.v][1] // step.heads) * width
    parts = range(begin, begin + width)
    scores = [sum(x[i[0], d] * k[j, d] for d in parts) for j in range(seen)]
    p = [slow_exponential(((max(scores) - each) * m) >> s) for each in scores]
    total = sum(p)
    g = total.bit_length()
    h = max(g - 23, 0)
    a = sum(p[j] * v[j, i[1]] for j in range(seen)) >> h
    return requantized(a * ((m_v << (g - 1)) // total), s_v + g - 1 - h, net.levels[at + 1])


def slow_exponential(u):
    n, f = divmod(min(u, VANISHED << 16), 1 << 16)
    c0, c1, c2, c3 = EXPONENTIAL
    w = c0 - ((f * (c1 - ((f * (c2 - ((f * c3) >> 16))) >> 16))) >> 16)
    return (w + 2**n // 2) >> n


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([0, 1, 4]), st.booleans())
def test_sequences_are_exact(random_sequence, seed, steps, length, sixteen):
    """At a free length, and at a fixed one where it is 0."""
    made = random_sequence(seed, steps, free=length > 0, bits=16 if sixteen else 8)
    x = made.batch(1, length)
    y = oracle.run(made.net, x)
    assert y.dtype == {8: np.uint8, 16: np.uint16}[made.net.levels[made.net.output].bits]
    assert (y[0] == slow(made.net, x[0])).all()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("sharp", [0.1, 4.0, 100.0])
@pytest.mark.parametrize("length", [3, 300])
def test_attention_is_near_that_of_floats(new_net, sharp, length):
    made = new_net((length, 24), seed=length)
    x, k, v = (made.product(0, 24, linear=True) for _ in "xkv")
    made.attention(x, k, v, 3, bits=16, sharp=sharp)
    values = oracle.values(made.net, made.batch(1))
    reals = [lv.scale * (q[0] - lv.zero) for q, lv in zip(values, made.net.levels, strict=True)]
    heads = [np.stack(np.split(each, 3, -1)) for each in reals[1:4]]
    p = softmax(heads[0] @ heads[1].swapaxes(1, 2) * made.net.steps[-1].scale)
    right = np.concatenate(list(p @ heads[2]), -1)
    to = made.net.levels[4]
    right = np.clip(right, -to.scale * to.zero, to.scale * (65535 - to.zero))
    assert np.abs(reals[4] - right).max() < 1e-3 * made.reach(v)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("count", [2, 384])
def test_a_norm_is_within_a_step_of_floats(new_net, rms, count):
    made = new_net((50, count), seed=count, bits=16)
    made.norm(0, rms=rms, epsilon=1e-3)
    q = made.batch(1)
    q[0, 0] = 12345  # nothing to norm
    q[0, 1] = 12345 + np.arange(count) // 2 % 3
    step, (x_levels, y_levels) = made.net.steps[0], made.net.levels
    x = x_levels.scale * (q[0].astype(float) - x_levels.zero)
    x = x if rms else x - x.mean(-1, keepdims=True)
    right = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3) * step.factor + step.term
    right = np.clip(right / y_levels.scale + y_levels.zero, 0, 65535)
    assert np.abs(oracle.run(made.net, q)[0] - right).max() < 0.6


@pytest.mark.parametrize("bits", [8, 16])
def test_a_table_is_the_nearest_level(new_net, bits):
    made = new_net((256,))
    made.table(0, bits, function=lambda x: x * np.tanh(x))
    x, y = made.net.levels
    q = np.arange(256, dtype=np.uint8)[None]
    real = x.scale * (np.arange(256) - x.zero)
    right = np.clip(real * np.tanh(real) / y.scale + y.zero, 0, y.top)
    assert np.abs(oracle.run(made.net, q)[0] - right).max() <= 0.5001


def test_a_length_beyond_the_longest_is_refused(new_net):
    made = new_net((FREE, 5))
    made.net.longest = 9
    assert oracle.run(made.net, made.batch(2, 9)).shape == (2, 9, 5)
    for length in (0, 10):
        with pytest.raises(ValueError, match=r"must be uint8 of shape \(batch, 1…9, 5\)"):
            oracle.run(made.net, made.batch(2, length))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([8, 8, 16]))
def test_the_oracle_is_exact(random_net, seed, steps, bits):
    made = random_net(seed, steps, bits)
    x = made.batch(2)
    y = oracle.run(made.net, x)
    kind = {8: np.uint8, 16: np.uint16}[bits]
    assert y.dtype == (np.int32 if made.net.levels[made.net.output] is None else kind)
    for sample, got in zip(x, y, strict=True):
        assert (got == slow(made.net, sample)).all()


def test_sums_at_the_edge_of_64_bits_are_exact(new_net):
    made = new_net((1, 1), bits=16)
    made.product(0, 1)
    step = made.net.steps[0]
    step.weight[...] = -127
    step.bias[...] = -(2**31) + 1 + 127 * 65535
    made.net.levels[0] = type(made.net.levels[0])(1.0, 0, 16)
    # m = 2^31 − 1 nearly: −(2^31 − 1) · m is the largest product that can be.
    step.weight_scale[...] = 1 - 2.0**-31
    made.net.levels[1] = type(made.net.levels[1])(2.0**31, 40000, 16)
    x = np.full((1, 1, 1), 65535, np.uint16)
    assert oracle.run(made.net, x)[0, 0, 0] == slow(made.net, x[0])[0, 0] == 39999


@pytest.mark.parametrize("ends", [(0, 0), (0, 65535), (65535, 65535)])
def test_products_of_16_bits_at_the_edge_of_64_are_exact(new_net, ends):
    made = new_net((1, 2), bits=16)
    made.net.levels[0] = Levels(1.0, 65535 - ends[0], 16)
    made.multiply(0, 0, bits=16)
    made.net.levels[1] = Levels(2.0**17, ends[1] // 2, 16)  # m is 2^30, the largest
    x = np.array([[ends]], np.uint16)
    assert (oracle.run(made.net, x)[0] == slow(made.net, x[0])).all()


def test_an_empty_batch_and_the_input_itself(new_net):
    made = new_net((3, 5))
    assert oracle.run(made.net, made.batch(0)).shape == (0, 3, 5)
    x = made.batch(2)
    assert (oracle.run(made.net, x) == x).all()


def test_an_input_of_another_type_or_shape_is_refused(new_net):
    net = new_net((3, 5)).net
    with pytest.raises(ValueError, match=r"x is int8 .*must be uint8 of shape \(batch, 3, 5\)"):
        oracle.run(net, np.zeros((1, 3, 5), np.int8))
    with pytest.raises(ValueError, match=r"\(1, 5, 3\)"):
        oracle.run(net, np.zeros((1, 5, 3), np.uint8))
