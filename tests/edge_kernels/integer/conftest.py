"""Random networks in integers."""

import numpy as np
import pytest

from edge_kernels.integer.check import shape_of
from edge_kernels.integer.net import (
    Add,
    Affine,
    Concat,
    IntNet,
    Levels,
    Pool,
    Product,
    Reduce,
    Relu,
    Reshape,
    Transpose,
)


class Net:
    """Writes a random network, step by step; scales are such that values spread over the levels."""

    def __init__(self, shape, seed=0, bits=8):
        self.rng = np.random.default_rng(seed)
        self.bits = bits
        self.net = IntNet([tuple(shape)], [self._levels()])

    def _levels(self, scale=None, relu=False):
        scale = self.rng.uniform(0.01, 0.1) if scale is None else scale
        zero = int(self.rng.integers(0, 1 << (self.bits - 2 if relu else self.bits)))
        return Levels(float(scale), zero, self.bits)

    def emit(self, step, levels):
        net = self.net
        net.shapes.append(shape_of(step, net.shapes))
        net.levels.append(levels)
        net.steps.append(step)
        net.output = len(net.steps)
        return net.output

    def shape(self, x):
        return self.net.shapes[x]

    def product(self, x, rows, kernel=1, accumulators=False, relu=False, **how):
        linear = how.get("linear", False)
        channels = self.shape(x)[-1 if linear else 0]
        weight = self.rng.integers(-127, 128, (rows, kernel, channels)).astype(np.int8)
        bias = self.rng.integers(-5000, 5000, rows).astype(np.int32)
        scales = self.rng.uniform(0.001, 0.01, rows)
        step = Product(x, weight, bias, scales, relu, **how)
        spread = 40 * 70 * np.sqrt(kernel * channels)  # deviation of a sum, roughly
        out = self.net.levels[x].scale * 0.005 * spread * 2 / (1 << (self.bits - 1))
        out *= (1 << self.bits) / 256
        return self.emit(step, None if accumulators else self._levels(out, relu))

    def add(self, x, y, relu=False):
        scale = self.net.levels[x].scale + self.net.levels[y].scale
        return self.emit(Add(x, y, relu), self._levels(scale * 0.7))

    def pool(self, x, kernel, mean, **how):
        levels = self.net.levels[x]
        if mean:
            levels = self._levels(levels.scale * 0.6)
        return self.emit(Pool(x, mean, kernel, **how), levels)

    def reduce(self, x, mean, axis, keep=False):
        levels = self.net.levels[x]
        if mean:
            levels = self._levels(levels.scale * 0.4)
        return self.emit(Reduce(x, mean, axis, keep), levels)

    def affine(self, x, relu=False):
        channels = self.shape(x)[0]
        scale = self.net.levels[x].scale
        factor = self.rng.uniform(-2, 2, channels)
        term = self.rng.uniform(-50, 50, channels) * scale
        return self.emit(Affine(x, factor, term, relu), self._levels(scale * 1.3))

    def relu(self, x):
        return self.emit(Relu(x), self.net.levels[x])

    def concat(self, xs, axis):
        return self.emit(Concat(tuple(xs), axis), self.net.levels[xs[0]])

    def reshape(self, x, *shape):
        return self.emit(Reshape(x, shape), self.net.levels[x])

    def transpose(self, x):
        return self.emit(Transpose(x), self.net.levels[x])

    def batch(self, count):
        kind = np.uint8 if self.bits == 8 else np.uint16
        return self.rng.integers(0, 1 << self.bits, (count, *self.net.shapes[0])).astype(kind)


def _random_net(seed, steps=5, bits=8):
    """A network of random steps, often ending in accumulators."""
    rng = np.random.default_rng(seed)

    def below(n):
        return int(rng.integers(0, n))

    shape = (1 + below(9),) if below(5) == 0 else (1 + below(9), 1 + below(24))
    made = Net(shape, seed, bits)
    for _ in range(steps):
        _random_step(made, below(len(made.net.shapes)), below)
    if below(2):
        _random_product(made, below(len(made.net.shapes)), below, accumulators=True)
    return made


def _random_product(made, x, below, **how):
    shape = made.shape(x)
    rows, relu = 1 + below(40), bool(below(2))
    if len(shape) == 1 or below(3) == 0:
        return made.product(x, rows, linear=True, relu=relu, **how)
    kernel, dilation = 1 + below(5), 1 + below(3)
    span = (kernel - 1) * dilation + 1
    pads = [below(span), below(span)]
    if shape[1] + sum(pads) < span:
        kernel, dilation, pads = 1, 1, [0, 0]
    window = {"stride": 1 + below(3), "dilation": dilation}
    window |= {"pad_begin": pads[0], "pad_end": pads[1]}
    return made.product(x, rows, kernel, relu=relu, **window, **how)


def _random_step(made, x, below):
    shape = made.shape(x)
    kind = below(9)
    if kind <= 1:
        return _random_product(made, x, below)
    if kind == 2:
        alike = [v for v, each in enumerate(made.net.shapes) if each == shape]
        return made.add(x, alike[below(len(alike))], relu=bool(below(2)))
    if kind in (3, 4):
        return made.affine(x, relu=bool(below(2))) if kind == 3 else made.relu(x)
    if kind == 5:
        return made.reduce(x, bool(below(2)), below(len(shape)), bool(below(2)))
    if kind == 6:
        return made.reshape(x, int(np.prod(shape))) if below(2) else made.reshape(x, *shape[::-1])
    if kind == 7:
        return _random_concat(made, x, below)
    if len(shape) == 1:
        return made.relu(x)
    return made.transpose(x) if below(2) else _random_pool(made, x, below)


def _random_concat(made, x, below):
    shape = made.shape(x)
    axis = below(len(shape))
    alike = [v for v, each in enumerate(made.net.levels) if each == made.net.levels[x]]
    rest = shape[1 - axis] if len(shape) == 2 else None
    fits = [
        v for v in alike
        if len(made.shape(v)) == len(shape)
        and (rest is None or made.shape(v)[1 - axis] == rest)
    ]  # fmt: skip
    return made.concat([x, *(fits[below(len(fits))] for _ in range(below(3)))], axis)


def _random_pool(made, x, below):
    shape = made.shape(x)
    kernel = 1 + below(4)
    pads = {"pad_begin": below(kernel), "pad_end": below(kernel)}
    if shape[1] + sum(pads.values()) < kernel:
        kernel, pads = 1, {}
    how = {"stride": 1 + below(3), "count_padding": bool(below(2)), **pads}
    return made.pool(x, kernel, bool(below(2)), **how)


@pytest.fixture(scope="session")
def new_net():
    """Begin a network: ``new_net(shape, seed=0, bits=8)``."""
    return Net


@pytest.fixture(scope="session")
def random_net():
    """Make a network of random steps: ``random_net(seed, steps=5, bits=8)``."""
    return _random_net
