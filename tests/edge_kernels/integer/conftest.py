"""Random networks in integers."""

import numpy as np
import pytest

from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    IntNet,
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
from edge_kernels.integer.recurrent import Direction, Recurrent
from edge_kernels.integer.scales import table_of
from edge_kernels.integer.shapes import shape_of


class Net:
    """Writes a random network, step by step; scales are such that values spread over the levels."""

    def __init__(self, shape, seed=0, bits=8):
        self.rng = np.random.default_rng(seed)
        self.bits = bits
        self.net = IntNet([tuple(shape)], [self._levels()])

    def _levels(self, scale=None, relu=False, bits=None):
        bits = bits or self.bits
        scale = self.rng.uniform(0.01, 0.1) if scale is None else scale
        zero = int(self.rng.integers(0, 1 << (bits - 2 if relu else bits)))
        return Levels(float(scale), zero, bits)

    def spread(self, real, bits=None):
        """Levels for numbers within ±real, nearly symmetric."""
        bits = bits or self.bits
        half = 1 << (bits - 1)
        zero = half + int(self.rng.integers(-half // 4, half // 4 + 1))
        return Levels(float(real) / half, zero, bits)

    def reach(self, x):
        """The real number that half of a value's levels span."""
        levels = self.net.levels[x]
        return levels.scale * (1 << (levels.bits - 1))

    def emit(self, step, levels):
        net = self.net
        net.shapes.append(shape_of(step, net.shapes))
        net.levels.append(levels)
        net.steps.append(step)
        net.output = len(net.steps)
        return net.output

    def shape(self, x):
        return self.net.shapes[x]

    def product(self, x, rows, kernel=1, accumulators=False, relu=False, bits=None, **how):
        linear = how.get("linear", False)
        channels = self.shape(x)[-1 if linear else 0]
        weight = self.rng.integers(-127, 128, (rows, kernel, channels)).astype(np.int8)
        bias = self.rng.integers(-5000, 5000, rows).astype(np.int32)
        scales = self.rng.uniform(0.001, 0.01, rows)
        step = Product(x, weight, bias, scales, relu, **how)
        spread = 40 * 70 * np.sqrt(kernel * channels)  # deviation of a sum, roughly
        out = self.reach(x) / 128 * 0.005 * spread * 2 / (1 << ((bits or self.bits) - 1))
        return self.emit(step, None if accumulators else self._levels(out, relu, bits))

    def add(self, x, y, relu=False, bits=None):
        if bits:
            return self.emit(Add(x, y, relu), self.spread(self.reach(x) + self.reach(y), bits))
        scale = self.net.levels[x].scale + self.net.levels[y].scale
        return self.emit(Add(x, y, relu), self._levels(scale * 0.7))

    def multiply(self, x, y, relu=False, bits=None):
        return self.emit(Multiply(x, y, relu), self.spread(self.reach(x) * self.reach(y) / 2, bits))

    def slice(self, x, axis, start, count):
        return self.emit(Slice(x, axis, start, count), self.net.levels[x])

    def constant(self, *shape, bits=None):
        levels = self.spread(1.0, bits)
        return self.emit(Constant(self.rng.uniform(-1.2, 1.2, shape)), levels)

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

    def rescale(self, x, bits):
        return self.emit(Rescale(x), self.spread(self.reach(x), bits))

    def table(self, x, bits=None, function=None):
        levels, reach = self.spread(1.0, bits), self.reach(x)
        function = function or (lambda real: np.tanh(3 * real / reach))
        return self.emit(Table(x, table_of(function, self.net.levels[x], levels)), levels)

    def norm(self, x, bits=None, rms=False, epsilon=1e-5):
        count = self.shape(x)[-1]
        factor, term = self.rng.uniform(-2, 2, count), self.rng.uniform(-1, 1, count)
        return self.emit(Norm(x, factor, term, epsilon, rms), self.spread(4.0, bits))

    def attention(self, x, k, v, heads, bits=None, sharp=4.0):
        width = self.shape(x)[-1] // heads
        scale = sharp / (self.reach(x) * self.reach(k) * np.sqrt(width))
        return self.emit(Attention(x, k, v, heads, scale), self.spread(self.reach(v), bits))

    def recurrent(self, x, width, gru=False, ways=(False,), bits=16):
        """Gates' sums of some 2 by what is read, and as many by the state."""
        gates = 3 if gru else 4
        rows, channels = len(ways) * gates * width, self.shape(x)[-1]
        weight = self.rng.integers(-127, 128, (rows, 1, channels)).astype(np.int8)
        unit = 2 / (self.net.levels[x].scale * 70 * 70 * np.sqrt(channels))
        bias = self.rng.integers(-9000, 9000, rows).astype(np.int32)
        scales = self.rng.uniform(0.2, 1, rows) * unit
        x = self.emit(Product(x, weight, bias, scales, linear=True), self.spread(8.0, bits))
        levels = self.spread(1.0, 8)
        unit = 2 / (levels.scale * 70 * 70 * np.sqrt(width))
        directions = tuple(
            Direction(
                self.rng.integers(-127, 128, (gates * width, width)).astype(np.int8),
                self.rng.integers(-9000, 9000, gates * width).astype(np.int32),
                self.rng.uniform(0.2, 1, gates * width) * unit,
                reverse,
            )
            for reverse in ways
        )
        return self.emit(Recurrent(x, gru, directions), levels)

    def encoder_layer(self, x, heads, hidden, bits=16):
        """As BERT's: x of ``bits`` → the same shape and bits."""
        width = self.shape(x)[-1]
        low = self.rescale(x, 8)
        mixed = self.attention(*(self.product(low, width, linear=True) for _ in "qkv"), heads)
        mixed = self.product(mixed, width, linear=True, bits=bits)
        x = self.norm(self.add(x, mixed, bits=bits), bits)
        low = self.product(self.rescale(x, 8), hidden, linear=True)
        low = self.product(self.table(low), width, linear=True, bits=bits)
        return self.norm(self.add(x, low, bits=bits), bits)

    def batch(self, count, length=7):
        bits = self.net.levels[0].bits
        shape = [length if each == FREE else each for each in self.net.shapes[0]]
        kind = np.uint8 if bits == 8 else np.uint16
        return self.rng.integers(0, 1 << bits, (count, *shape)).astype(kind)


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
    kind = below(12)
    if kind >= 9:
        return _random_gate(made, x, below)
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


def _random_gate(made, x, below, bits=None):
    """A product of two values, a part of one, or a constant."""
    shape = made.shape(x)
    free = shape[0] == FREE
    if below(4) == 0:
        axis = 1 if free else below(len(shape))
        start = below(shape[axis])
        return made.slice(x, axis, start, 1 + below(shape[axis] - start))
    if below(3) == 0:
        wide = [1 if below(2) or size == FREE else size for size in shape]
        return made.multiply(x, made.constant(*wide, bits=bits), bool(below(2)), bits)
    fits = [
        v for v, each in enumerate(made.net.shapes)
        if len(each) == len(shape)
        and all(a == b or 1 in (a, b) for a, b in zip(each, shape, strict=True))
        and (v == x or np.prod(np.abs(each)) * np.prod(np.abs(shape)) < 1 << 20)
    ]  # fmt: skip
    return made.multiply(x, fits[below(len(fits))], bool(below(2)), bits)


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


def _random_sequence(seed, steps=5, free=False, bits=8):
    """A network over (L, D), of steps of transformers among others, of 8 and 16 bits."""
    rng = np.random.default_rng(seed)

    def below(n):
        return int(rng.integers(0, n))

    made = Net((FREE if free else 1 + below(20), 1 + below(40)), seed, 8)
    made.net.levels[0] = made._levels(bits=bits)
    for _ in range(steps):
        _random_sequence_step(made, below)
    if below(3) == 0:
        x = made.net.output
        if below(2):
            x = made.slice(x, 0, 0, 1)
        made.reduce(x, bool(below(2)), 0)
    return made


def _random_sequence_step(made, below):
    bits, kind = (8, 16)[below(2)], below(8)
    x = below(len(made.net.shapes))
    if kind >= 6:
        return _random_gate(made, x, below, bits)
    if kind == 0:
        return made.norm(x, bits, bool(below(2)), (0.0, 1e-12, 0.1)[below(3)])
    if kind == 1:
        alike = [v for v, each in enumerate(made.net.shapes) if each == made.shape(x)]
        return made.add(x, alike[below(len(alike))], bool(below(2)), bits)
    eight = [v for v, each in enumerate(made.net.levels) if each.bits == 8]
    if kind == 2 or not eight:
        return made.rescale(x, 8 if not eight else bits)
    x = eight[below(len(eight))]
    if kind == 3:
        return made.table(x, bits)
    if kind == 4:
        return made.product(x, 1 + below(40), linear=True, relu=bool(below(2)), bits=bits)
    if kind == 5 and below(2):
        ways = ((False,), (True,), (False, True))[below(3)]
        return made.recurrent(x, 1 + below(20), bool(below(2)), ways, bits)
    heads, width = 1 + below(3), 1 + below(12)
    k = made.product(x, heads * width, linear=True)
    q = made.product(eight[below(len(eight))], heads * width, linear=True)
    v = made.product(x, heads * (1 + below(20)), linear=True)
    return made.attention(q, k, v, heads, bits, 10.0 ** (below(4) - 1))


@pytest.fixture(scope="session")
def random_sequence():
    """Make one: ``random_sequence(seed, steps=5, free=False, bits=8)``, bits the input's."""
    return _random_sequence


@pytest.fixture(scope="session")
def new_net():
    """Begin a network: ``new_net(shape, seed=0, bits=8)``."""
    return Net


@pytest.fixture(scope="session")
def random_net():
    """Make a network of random steps: ``random_net(seed, steps=5, bits=8)``."""
    return _random_net
