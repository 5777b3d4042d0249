"""Histograms that stand in for windows: added over devices, clipped and with noise if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Range = tuple[float, float]
Method = Literal["minmax", "percentile", "mse"]
Noise = Literal["laplace", "gaussian"]
PERCENTILE: Final = 99.99
MOST_BINS: Final = 4096
_CERTAIN: Final = 5.0  # deviations: hundreds of bins, and Laplace's long tails
_TRIED: Final = np.linspace(0.2, 1.0, 65)  # shares of the whole range


@dataclass(frozen=True)
class Histogram:
    """How often a value fell into each of equally wide bins from ``low`` to ``high``.

    What falls outside counts in the first or last bin. The bounds are the server's (of its own
    sources' windows, widened), the same for all devices: so a device tells nothing by them.

    Attributes
    ----------
    low, high : float
    counts : float64 (bins,)
        A share of windows or elements, or a number of them; not negative but for noise.
    """

    low: float
    high: float
    counts: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise ValueError(f"a histogram from {self.low} to {self.high}; low < high is needed")
        if self.counts.ndim != 1 or not 2 <= len(self.counts) <= MOST_BINS:
            raise ValueError(
                f"counts of shape {self.counts.shape}; 2 to {MOST_BINS} bins are possible"
            )
        if not np.isfinite(self.counts).all():
            raise ValueError("a histogram's counts hold NaN or infinity")

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of the bins: (bins + 1,)."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def count(x: NDArray[Any], low: float, high: float, bins: int) -> Histogram:
    """Count a value's elements.

    Raises
    ------
    ValueError
        If an element is NaN or infinity, or the bounds and bins are no histogram's.
    """
    empty = Histogram(low, high, np.zeros(bins))
    if not np.isfinite(x).all():
        raise ValueError("a value to count is NaN or infinity")
    at = np.floor((np.ravel(x).astype(np.float64) - low) * (bins / (high - low)))
    places = np.clip(at, 0, bins - 1).astype(np.int64)
    return replace(empty, counts=np.bincount(places, minlength=bins).astype(np.float64))


def merge(histograms: Sequence[Histogram]) -> Histogram:
    """Add histograms; equal to counting everything at once.

    Raises
    ------
    ValueError
        If there is none, or bounds or bins differ.
    """
    if not histograms:
        raise ValueError("no histograms to merge")
    first = histograms[0]
    for at, each in enumerate(histograms):
        same = (each.low, each.high, len(each.counts)) == (first.low, first.high, len(first.counts))
        if not same:
            raise ValueError(
                f"histogram {at} has {len(each.counts)} bins from {each.low} to {each.high}; "
                f"the first has {len(first.counts)} from {first.low} to {first.high}"
            )
    return replace(first, counts=np.sum([each.counts for each in histograms], axis=0))


def private(
    histogram: Histogram,
    noise: float = 0.0,
    kind: Noise = "laplace",
    random: np.random.Generator | None = None,
) -> Histogram:
    """Return what a device may send: counts clipped to a sum of 1, and noise on each.

    With a sum of 1 a device changes the merged counts by at most 2 (in sum of magnitudes), so
    Laplace noise of scale 2/ε, shared out over the devices or added by each, gives ε.

    Parameters
    ----------
    histogram : Histogram
    noise : float
        Scale of Laplace's, deviation of Gauss's; 0 for none.
    kind : {"laplace", "gaussian"}
    random : Generator
        The device's own.

    Raises
    ------
    ValueError
        If the noise is negative, of another kind, or wanted without a generator.
    """
    if noise < 0 or kind not in get_args(Noise):
        raise ValueError(f"{kind!r} noise of {noise}; 'laplace' or 'gaussian' of 0 or more")
    counts = histogram.counts / max(1.0, float(np.abs(histogram.counts).sum()))
    if noise > 0:
        if random is None:
            raise ValueError("noise needs a random generator")
        draw = random.laplace if kind == "laplace" else random.normal
        counts = counts + draw(0.0, noise, len(counts))
    return replace(histogram, counts=counts)


def noise_of_sum(noise: float, kind: Noise, devices: int) -> float:
    """Return the standard deviation that so many devices' noise gives each merged count."""
    one = noise * np.sqrt(2.0) if kind == "laplace" else noise
    return float(one * np.sqrt(devices))


def denoised(histogram: Histogram, deviation: float) -> Histogram:
    """Return a merged histogram without counts that noise alone may have made.

    Parameters
    ----------
    histogram : Histogram
    deviation : float
        Of its counts, see `noise_of_sum`; 0 leaves them as they are. Below five of it a count is
        taken as 0: else a single bin of noise at an end would set the range.
    """
    if deviation == 0:
        return histogram
    counts = np.where(histogram.counts > _CERTAIN * deviation, histogram.counts, 0.0)
    return replace(histogram, counts=counts)


def range_of(histogram: Histogram, method: Method = "minmax", levels: int = 256) -> Range:
    """Return the range that a quantizer of so many levels should cover; 0 is always inside.

    Parameters
    ----------
    histogram : Histogram
        Counts below 0, which noise leaves, are taken as 0.
    method : {"minmax", "percentile", "mse"}
        The edges of what was seen; of its middle 99.99 %; or the part of that range which has the
        least squared error, rounding and clipping together.
    levels : int

    Raises
    ------
    ValueError
        If the method is another, or nothing was counted.
    """
    if method not in get_args(Method):
        raise ValueError(f"ranges by {method!r}; {', '.join(get_args(Method))} are possible")
    counts = np.maximum(histogram.counts, 0)
    below = np.cumsum(counts)
    total = below[-1]  # not `counts.sum()`, whose last bit may differ: shares are no whole numbers
    if not total > 0:
        raise ValueError("a histogram without counts has no range")
    edges = histogram.edges
    tail = total * (1 - PERCENTILE / 100) / 2 if method == "percentile" else 0.0
    first = int(np.searchsorted(below, tail, side="right"))
    last = int(np.searchsorted(below, total - tail, side="left"))
    low = min(float(edges[min(first, len(counts) - 1)]), 0.0)
    high = max(float(edges[min(last, len(counts) - 1) + 1]), 0.0)
    return _least_error(counts, edges, low, high, levels) if method == "mse" else (low, high)


def _least_error(
    counts: NDArray[np.float64], edges: NDArray[np.float64], low: float, high: float, levels: int
) -> Range:
    centres = (edges[:-1] + edges[1:]) / 2
    errors = []
    for share in _TRIED:
        a, b = share * low, share * high
        rounding = ((b - a) / (levels - 1)) ** 2 / 12
        cut = np.maximum(np.maximum(a - centres, centres - b), 0)
        errors.append(float(counts @ np.where(cut > 0, cut**2, rounding)))
    best = float(_TRIED[int(np.argmin(errors))])
    return best * low, best * high
