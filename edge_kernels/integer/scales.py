"""The integers of a network's steps: multipliers, shifts and terms, from its levels' scales.

All exports and the oracle take them from here, so that they are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edge_kernels.integer.net import (
    EXPONENT_BITS,
    FREE,
    NORM_BITS,
    Add,
    Affine,
    Attention,
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
    Rescale,
)


def fixed_point(ratio: float, bits: int = 31) -> tuple[int, int]:
    """The multiplier m, 2^(bits−1) ≤ m < 2^bits, and the shift s, with ratio ≈ m / 2^s.

    Raises
    ------
    ValueError
        Where the ratio is not positive and finite, or s is not in 1…62.
    """
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"a ratio of scales of {ratio}; expected a positive number")
    fraction, exponent = math.frexp(ratio)  # 0.5 ≤ fraction < 1
    multiplier, shift = round(fraction * (1 << bits)), bits - exponent
    if multiplier == 1 << bits:
        multiplier, shift = multiplier >> 1, shift - 1
    if not 1 <= shift <= 62:
        raise ValueError(f"a ratio of scales of {ratio:.3g} does not fit a shift of 1 to 62 bits")
    return multiplier, shift


def product_scales(net: IntNet, at: int, step: Product) -> tuple[Ints, Ints]:
    """Return the multipliers and shifts (rows,) int64 of a product that is requantized."""
    x, y = net.known(step.x), net.known(at + 1)
    pairs = [fixed_point(x.scale * float(each) / y.scale) for each in step.weight_scale]
    return (
        np.array([m for m, _ in pairs], np.int64),
        np.array([s for _, s in pairs], np.int64),
    )


def mean_scale(net: IntNet, at: int, step: Pool | Reduce, count: int) -> tuple[int, int]:
    """Return the multiplier and shift of a mean of ``count`` numbers."""
    x, y = net.known(step.x), net.known(at + 1)
    if isinstance(step, Reduce) and net.shapes[step.x][step.axis] == FREE:
        return free_mean(*fixed_point(x.scale / y.scale), count)
    return fixed_point(x.scale / (count * y.scale))


def free_mean(multiplier: int, shift: int, count: int) -> tuple[int, int]:
    """Return what a sum of ``count`` numbers is multiplied and shifted by, from that of one."""
    bits = count.bit_length() - 1
    return ((multiplier << bits) + count // 2) // count, shift + bits


def add_scales(net: IntNet, at: int, step: Add) -> tuple[int, int, int]:
    """Return x's multiplier, y's multiplier and the shift of a sum."""
    out = net.known(at + 1).scale
    ratios = [net.known(each).scale / out for each in (step.x, step.y)]
    _, shift = fixed_point(max(ratios), 30)
    m_x, m_y = (round(math.ldexp(ratio, shift)) for ratio in ratios)
    return m_x, m_y, shift


def affine_scales(net: IntNet, at: int, step: Affine) -> tuple[list[int], list[int], int]:
    """Return the multipliers and terms (channels,) and the shift of factors and terms."""
    x, y = net.known(step.x), net.known(at + 1)
    ratios = [float(each) * x.scale / y.scale for each in step.factor]
    _, shift = fixed_point(max(abs(ratio) for ratio in ratios), 30)
    terms = [float(each) / y.scale for each in step.term]
    return (
        [round(math.ldexp(each, shift)) for each in ratios],
        [round(math.ldexp(each, shift)) for each in terms],
        shift,
    )


def rescale_scales(net: IntNet, at: int, step: Rescale) -> tuple[int, int]:
    """Return the multiplier and shift between two values' levels."""
    return fixed_point(net.known(step.x).scale / net.known(at + 1).scale)


def norm_scales(net: IntNet, at: int, step: Norm) -> tuple[list[int], list[int], int, int]:
    """Return the multipliers and terms (D,), the shift, and epsilon in integer units."""
    x, y = net.known(step.x), net.known(at + 1)
    ratios = [math.ldexp(float(each) / y.scale, -NORM_BITS) for each in step.factor]
    _, shift = fixed_point(max(abs(ratio) for ratio in ratios), 30)
    return (
        [round(math.ldexp(each, shift)) for each in ratios],
        [round(math.ldexp(float(each) / y.scale, shift)) for each in step.term],
        shift,
        round(step.epsilon * len(ratios) ** 2 / x.scale**2),
    )


def attention_scales(net: IntNet, at: int, step: Attention) -> tuple[int, int, int, int]:
    """Return the multiplier and shift of exponents, then those of values."""
    x, k, v = (net.known(each).scale for each in (step.x, step.k, step.v))
    exponent = fixed_point(math.ldexp(x * k * step.scale / math.log(2), EXPONENT_BITS))
    return (*exponent, *fixed_point(v / net.known(at + 1).scale))


def multiply_scales(net: IntNet, at: int, step: Multiply) -> tuple[int, int]:
    """Return the multiplier and shift of a product of two values: with 16 bits, below 2^63."""
    x, y = net.known(step.x), net.known(step.y)
    return fixed_point(x.scale * y.scale / net.known(at + 1).scale, 30)


def constant_codes(step: Constant, levels: Levels) -> Ints:
    """Return a constant in levels: the nearest, within them, of its own shape."""
    q = np.clip(np.rint(step.values / levels.scale) + levels.zero, 0, levels.top)
    out: Ints = q.astype(np.int32)
    return out


def table_of(function: Callable[[Reals], Reals], x: Levels, y: Levels) -> Ints:
    """Return a `Table`'s values: the levels of y nearest to a function of x's 256 numbers."""
    real = function(x.scale * (np.arange(256, dtype=np.float64) - x.zero))
    q = np.clip(np.rint(real / y.scale) + y.zero, 0, y.top)
    out: Ints = q.astype(np.uint8 if y.bits == 8 else np.uint16)
    return out
