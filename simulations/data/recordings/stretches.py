"""From samples at uneven times, some of them empty, to stretches of an even rate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.data.resample import common, unbroken

SLOWEST = 2.5  # samples: a silence of fewer is the sensor's own pace
_EVEN = 0.05  # of a sample: times so near to the grid are the grid's


@dataclass(frozen=True)
class Raw:
    """A person's samples between two restarts, as measured.

    Attributes
    ----------
    time : (samples,), int64
        Nanoseconds, going up.
    values : (samples, channels), float32
        NaN where empty.
    codes : (samples,), int64
        Of labels.
    absolute : bool
        Whether times of several files can be compared.
    hz : float
        Own rate.
    """

    person: str
    file: str
    time: NDArray[np.int64]
    values: NDArray[np.float32]
    codes: NDArray[np.int64]
    absolute: bool
    hz: float


def stretches(
    raw: Raw, hz: float, gap_seconds: float
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Interpolate onto a grid of ``hz``; each stretch has its samples and their labels.

    A channel's empty cells are samples that were not taken: it is silent there.
    """
    gap = max(gap_seconds, SLOWEST / raw.hz)
    there = ~np.isnan(raw.values)
    masks, group = np.unique(there, axis=1, return_inverse=True)
    group = group.reshape(-1)
    if not masks.any(axis=0).all():
        return []  # a channel without a value
    spans = [(int(raw.time[0]), int(raw.time[-1]))]
    for mask in masks.T:
        spans = common(spans, unbroken(raw.time[mask], gap))
    return [_stretch(raw, masks, group, span, hz) for span in spans]


def _stretch(
    raw: Raw, masks: NDArray[np.bool_], group: NDArray[np.intp], span: tuple[int, int], hz: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    start, end = span
    count = int((end - start) * 1e-9 * hz + _EVEN) + 1
    grid = np.arange(count) / hz
    first, last = np.searchsorted(raw.time, [start, end])
    inside = slice(int(first), int(last) + 1)
    seconds = (raw.time[inside] - start) * 1e-9
    whole = bool(masks[inside].all())
    if whole and len(seconds) == count and (np.abs(seconds - grid) < _EVEN / hz).all():
        return raw.values[inside], raw.codes[inside]
    values = np.empty((count, raw.values.shape[1]), np.float32)
    for channel, own in enumerate(group):
        mask = masks[inside, own]
        values[:, channel] = np.interp(grid, seconds[mask], raw.values[inside, channel][mask])
    nearest = np.searchsorted((seconds[1:] + seconds[:-1]) / 2, grid)
    return values, raw.codes[inside][nearest]
