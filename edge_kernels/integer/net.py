"""A network in integers: the form between a quantizer and its exports.

Value 0 is the input; step i makes value i + 1 and reads earlier ones. A value has, for each sample,
the shape (C, L) or (N,), and levels: real = scale · (q − zero). The first axis of (C, L) may be
`FREE`: as long as each input's, up to ``longest``. Every step is integer arithmetic:

    requantize(acc, m, s, zero) = clamp(((acc · m + 2^(s−1)) >> s) + zero)

with acc and the product in 64 bits, >> towards minus infinity, and the clamp to the levels' range.
m and s come from real ratios by `scales.fixed_point`, the same everywhere. The exports (`edge`: one
operator; `qdq`: plain ONNX) and the oracle read this form and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_kernels.integer.recurrent import Recurrent

Shape = tuple[int, ...]
Ints = NDArray[Any]
Reals = NDArray[np.float64]

FREE: Final = -1  # in a shape, an axis that the input decides
NORM_BITS: Final = 20  # of a normed number's fraction
EXPONENT_BITS: Final = 16  # of an exponent's fraction
# 2^−f ≈ c0 − f (c1 − f (c2 − f c3)), 0 ≤ f < 1, in units of 2^−15: within 1.6e-4 of it.
EXPONENTIAL: Final = (32768, 22663, 7575, 1298)
VANISHED: Final = 17  # 2^−17 is nothing beside a largest of 2^15


@dataclass(frozen=True)
class Levels:
    """What an integer means: real = scale · (q − zero), q unsigned in ``bits`` bits (8 or 16)."""

    scale: float
    zero: int
    bits: int = 8

    @property
    def top(self) -> int:
        """The largest q; the smallest is 0."""
        return (1 << self.bits) - 1


@dataclass(frozen=True)
class Product:
    """A convolution, or a linear layer (kernel 1 over (K,), or over the last axis of (L, K)).

    acc = Σ (q_x − zero_x) · weight + bias; padding holds zero_x. Requantized a row, with the ratio
    scale_x · weight_scale / scale_y; then, where ``relu``, not below zero_y. Where it is the
    network's output, ``IntNet.levels`` of its value may be None: acc itself is returned, int32, not
    below 0 where ``relu``; real = acc · scale_x · weight_scale.

    Attributes
    ----------
    weight : (rows, kernel, channels) int8
    bias : (rows,) int32
    weight_scale : (rows,) float64
    """

    x: int
    weight: Ints
    bias: Ints
    weight_scale: Reals
    relu: bool = False
    linear: bool = False
    stride: int = 1
    dilation: int = 1
    pad_begin: int = 0
    pad_end: int = 0
    weight_bits: int = 8


@dataclass(frozen=True)
class Add:
    """x + y of equal shapes: ((q_x − zero_x) · m_x + (q_y − zero_y) · m_y + half) >> s, + zero.

    The three may have 8 or 16 bits each.

    One shift for both: s of ``fixed_point(larger ratio, 30)``, m = round(ratio · 2^s).
    """

    x: int
    y: int
    relu: bool = False


@dataclass(frozen=True)
class Pool:
    """Over the last axis of (C, L). Largest: levels stay. Mean: Σ (q − zero) requantized.

    The ratio of a mean is scale_x / (count · scale_y); count is the positions inside, or the kernel
    where padding counts. A pad is shorter than the kernel; for the largest it holds 0.
    """

    x: int
    mean: bool
    kernel: int
    stride: int = 1
    pad_begin: int = 0
    pad_end: int = 0
    count_padding: bool = False


@dataclass(frozen=True)
class Reduce:
    """Largest or mean over one axis of (C, L), 0 or 1; (N,) stays one number. As ``Pool``'s.

    A mean over a free axis of n: m, s of ``fixed_point(scale_x / scale_y)``, b = ⌊log2 n⌋, then
    multiplier (m · 2^b + n // 2) // n and shift s + b.
    """

    x: int
    mean: bool
    axis: int
    keep: bool = False


@dataclass(frozen=True)
class Affine:
    """x · factor + term a channel (axis 0): ((q − zero) · m + t + half) >> s, + zero.

    One shift for all: s of ``fixed_point(largest |factor| · scale_x / scale_y, 30)``;
    m = round(factor · scale_x / scale_y · 2^s), t = round(term / scale_y · 2^s), both signed.
    """

    x: int
    factor: Reals
    term: Reals
    relu: bool = False


@dataclass(frozen=True)
class Relu:
    """max(q, zero); levels stay."""

    x: int


@dataclass(frozen=True)
class Concat:
    """Along an axis; levels are equal."""

    xs: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Reshape:
    """The elements in order, in another shape; levels stay."""

    x: int
    shape: Shape


@dataclass(frozen=True)
class Transpose:
    """(C, L) → (L, C); levels stay."""

    x: int


@dataclass(frozen=True)
class Rescale:
    """The same numbers in other levels: ((q − zero_x) · m + half) >> s, + zero.

    m, s of ``fixed_point(scale_x / scale_y)``.
    """

    x: int


@dataclass(frozen=True)
class Table:
    """Any function of one number: q = values[q_x], x of 8 bits.

    Attributes
    ----------
    values : (256,) uint8 or uint16
        As the result has 8 or 16 bits; `table_of` makes them.
    """

    x: int
    values: Ints


@dataclass(frozen=True)
class Norm:
    """Layer or root-mean-square norm over the last axis of (L, D) or (D,), a factor and term each.

    c = q − zero_x; S = Σ c, or 0 where ``rms``; d = D · c − S; W = D · Σ c² − S² + E, with E =
    round(epsilon · D² / scale_x²). Then d / √W is the normed number:

        e = (62 − bits of W) // 2;  r = (2^61 − 1) // ⌊√(W · 4^e)⌋, or 0 where W is 0
        n = (d · r + half) >> (61 − NORM_BITS − e)
        q = ((n · m + t + half) >> s) + zero_y

    One shift s for all: of ``fixed_point(largest |factor| / scale_y / 2^NORM_BITS, 30)``; m =
    round(factor / scale_y / 2^NORM_BITS · 2^s), t = round(term / scale_y · 2^s). D ≤ 2^14.
    """

    x: int
    factor: Reals
    term: Reals
    epsilon: float
    rms: bool = False


@dataclass(frozen=True)
class Attention:
    """Softmax(scale · x kᵀ) v a head: x (L, D), k (M, D), v (M, V), all of 8 bits → (L, V).

    Head h has the h-th of ``heads`` equal parts of the last axes. For each row of x and each head:

        s_j = Σ (x − zero_x) (k_j − zero_k);  δ_j = largest s − s_j
        u = min((δ · m) >> s, VANISHED · 2^16);  f = u mod 2^16;  n = u >> 16
        w = c0 − ((f · (c1 − ((f · (c2 − ((f · c3) >> 16))) >> 16))) >> 16)     (2^−f)
        p = (w + ⌊2^n / 2⌋) >> n                                          (0 … 2^15)
        P = Σ p;  g = bits of P;  h = max(g − 23, 0);  a = (Σ p_j (v_j − zero_v)) >> h
        q = ((a · ((m_v · 2^(g−1)) // P) + half) >> (s_v + g − 1 − h)) + zero_y

    m, s of ``fixed_point(scale_x · scale_k · scale / ln 2 · 2^16)``, m_v, s_v of
    ``fixed_point(scale_v / scale_y)``. The division is after the product, so that no probability
    is rounded to fewer bits because there are many.
    """

    x: int
    k: int
    v: int
    heads: int
    scale: float


@dataclass(frozen=True)
class Multiply:
    """x · y: ((q_x − zero_x) · (q_y − zero_y) · m + half) >> s, + zero.

    Shapes are equal, or have 1 in place of an axis of the other; the result has the longer axes.
    The three may have 8 or 16 bits each. m, s of ``fixed_point(scale_x · scale_y / scale, 30)``.
    """

    x: int
    y: int
    relu: bool = False


@dataclass(frozen=True)
class Slice:
    """``count`` elements along an axis from ``start``; levels stay. Of a free axis the first."""

    x: int
    axis: int
    start: int
    count: int


@dataclass(frozen=True)
class Constant:
    """The same for all samples: q of `constant_codes`.

    Attributes
    ----------
    values : (C, L) or (N,) float64
    """

    values: Reals


Step = (
    Product
    | Add
    | Pool
    | Reduce
    | Affine
    | Relu
    | Concat
    | Reshape
    | Transpose
    | Rescale
    | Table
    | Norm
    | Attention
    | Multiply
    | Slice
    | Constant
    | Recurrent
)


@dataclass
class IntNet:
    """The network.

    Attributes
    ----------
    shapes : list of tuple
        Of each value, without the batch.
    levels : list of Levels or None
        Of each value; None for an output of accumulators.
    steps : list of Step
    output : int
        The value returned.
    longest : int
        What a free axis may be at most.
    """

    shapes: list[Shape]
    levels: list[Levels | None]
    steps: list[Step] = field(default_factory=list)
    output: int = 0
    longest: int = 512

    def known(self, value: int) -> Levels:
        """Return a value's levels.

        Raises
        ------
        ValueError
            Where the value is accumulators.
        """
        levels = self.levels[value]
        if levels is None:
            raise ValueError(f"value {value} is accumulators, which have no levels")
        return levels
