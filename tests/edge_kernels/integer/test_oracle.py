"""The oracle against Python's own integers, one number at a time."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_kernels.integer import oracle
from edge_kernels.integer.net import (
    Add,
    Affine,
    Concat,
    Pool,
    Product,
    Reduce,
    Relu,
    Reshape,
    add_scales,
    affine_scales,
    fixed_point,
    mean_scale,
)


def requantized(numerator, shift, levels, relu=False):
    q = (numerator + 2 ** (shift - 1)) // 2**shift + levels.zero
    return min(max(q, levels.zero if relu else 0), levels.top)


def slow(net, x):
    """Run one sample; a value is a dict from index to a Python integer."""
    made = [{i: int(x[i]) for i in np.ndindex(*net.shapes[0])}]
    for at, step in enumerate(net.steps):
        made.append(
            {i: slow_element(net, at, step, made, i) for i in np.ndindex(*net.shapes[at + 1])}
        )
    out = np.empty(net.shapes[net.output], object)
    for i, q in made[net.output].items():
        out[i] = q
    return out


def slow_element(net, at, step, made, i):  # noqa: C901 (a case a step)
    to = net.levels[at + 1]
    if isinstance(step, Add):
        m_x, m_y, s = add_scales(net, at, step)
        x, y = (made[v][i] - net.levels[v].zero for v in (step.x, step.y))
        return requantized(x * m_x + y * m_y, s, to, step.relu)
    if isinstance(step, Concat):
        place = list(i)
        for v in step.xs:
            if place[step.axis] < net.shapes[v][step.axis]:
                return made[v][tuple(place)]
            place[step.axis] -= net.shapes[v][step.axis]
    values, zero, shape = made[step.x], net.levels[step.x].zero, net.shapes[step.x]
    if isinstance(step, Product):
        return slow_product(net, at, step, values, zero, shape, i)
    if isinstance(step, Affine):
        m, t, s = affine_scales(net, at, step)
        return requantized((values[i] - zero) * m[i[0]] + t[i[0]], s, to, step.relu)
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
