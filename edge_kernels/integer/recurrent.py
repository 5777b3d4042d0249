"""Recurrent layers of a network in integers: LSTM and GRU, with the gates and the order of ONNX's.

What a layer makes of its input is a `Product` before it, of 8 or 16 bits: (L, D · G · H), for each
of D directions the rows of G gates, H each. This step makes of it and of its own last hidden state
h, for each position in the direction's order, with z = q − zero:

    b = Σ z_h · hidden_weight + hidden_bias                 int32, one a row
    g = clamp((z_x · m_x + b · m_h + half) >> s, ±(2^30 − 1))     a gate's sum in units of 2^−12

σ and tanh of such a sum, in units of 2^−15, by the table t of `logistic`:

    u = min(|g|, 2^16 − 1);  i = u >> 8;  v = t_i + (((t_(i+1) − t_i) · (u mod 2^8) + 2^7) >> 8)
    σ(g) = v where g ≥ 0, else 2^15 − v;  tanh(g) = 2 σ(2 g) − 2^15

LSTM (gates i, o, f, c), its cell state C in units of 2^−15, 0 at first:

    C = clamp((σ(g_f) · C + σ(g_i) · tanh(g_c) + 2^14) >> 15, ±2^30)
    o = σ(g_o) · (2 σ((C + 2) >> 2) − 2^15)                 in units of 2^−30
    q_h = clamp(((o · m + 2^(s_h−1)) >> s_h) + zero)

GRU (gates z, r, n; ONNX's linear_before_reset is 1), its state H in units of 2^−15, 0 at first. The
two sums of n are taken apart:

    p = clamp((z_x · m_x + half) >> s, ±(2^30 − 1));  k = clamp((b · m_h + half) >> s, ±(2^30 − 1))
    n = tanh(clamp(p + ((σ(g_r) · k + 2^14) >> 15), ±(2^30 − 1)))
    H = (σ(g_z) · H + (2^15 − σ(g_z)) · n + 2^14) >> 15
    q_h = clamp(((H · m + 2^(s_h−1)) >> s_h) + zero)

The hidden state has the levels of the result, 8 bits, and begins as its zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]
Reals = NDArray[np.float64]

GATE_BITS: Final = 12  # of a gate's sum's fraction
STATE_BITS: Final = 15  # of σ's, tanh's and states' fractions
ONE: Final = 1 << STATE_BITS
MOST_GATE: Final = (1 << 30) - 1
MOST_CELL: Final = 1 << 30
_ENTRIES: Final = 257  # of the table: σ of 0, 1/16 … 16


@dataclass(frozen=True)
class Direction:
    """What one direction multiplies its hidden state by; rows are the gates', one after another.

    Attributes
    ----------
    hidden_weight : (G · H, H) int8
    hidden_bias : (G · H,) int32
    hidden_scale : (G · H,) float64
    reverse : bool
        From the last position to the first.
    """

    hidden_weight: Ints
    hidden_bias: Ints
    hidden_scale: Reals
    reverse: bool = False


@dataclass(frozen=True)
class Recurrent:
    """An LSTM or a GRU: (L, D · G · H) → (L, D · H), of one or two directions; see above."""

    x: int
    gru: bool
    directions: tuple[Direction, ...]

    @property
    def gates(self) -> int:
        """G: of an LSTM 4, of a GRU 3."""
        return 3 if self.gru else 4

    @property
    def width(self) -> int:
        """H, the numbers of a hidden state."""
        return int(self.directions[0].hidden_weight.shape[-1])


def logistic() -> Ints:
    """Return the table: σ of 0, 1/16 … 16 in units of 2^−15, int32.

    By lines between its entries σ is within 7e-5, tanh within 1.4e-4 (measured).
    """
    made: Ints = np.rint(ONE / (1 + np.exp(-np.arange(_ENTRIES) / 16))).astype(np.int32)
    return made
