"""Bringing two sensors with clocks of their own ticks onto one grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_GAP_SECONDS = 0.5
"""A longer silence ends a recording: what lies in it is not made up by interpolation."""


@dataclass(frozen=True)
class Samples:
    """What a sensor measured.

    Attributes
    ----------
    time : (samples,), int64
        Nanoseconds, on a clock that both sensors share.
    values : (samples, channels)
        As measured.
    """

    time: NDArray[np.int64]
    values: NDArray[np.floating]


def align(first: Samples, second: Samples, hz: float) -> list[NDArray[np.float64]]:
    """Interpolate two sensors onto a common grid of time.

    Parameters
    ----------
    first, second : Samples
        In any order of time; of samples with the same time the first counts.
    hz : float
        Of the grid.

    Returns
    -------
    list[(samples, channels of both)]
        One array for each stretch in which neither sensor was silent for over half a second.
    """
    first, second = _sorted(first), _sorted(second)
    stretches = []
    for start, end in common(unbroken(first.time), unbroken(second.time)):
        count = int((end - start) * 1e-9 * hz) + 1
        grid = np.arange(count) / hz
        columns = [
            np.interp(grid, (sensor.time - start) * 1e-9, column)
            for sensor in (first, second)
            for column in sensor.values.T
        ]
        stretches.append(np.stack(columns, axis=1))
    return stretches


def _sorted(samples: Samples) -> Samples:
    """Return the samples in the order of time, each time once."""
    time, index = np.unique(samples.time, return_index=True)
    return Samples(time, samples.values[index])


def unbroken(
    time: NDArray[np.int64], gap_seconds: float = MAX_GAP_SECONDS
) -> list[tuple[int, int]]:
    """Return first and last time of each stretch without a gap."""
    breaks = np.flatnonzero(np.diff(time) > gap_seconds * 1e9)
    starts = time[np.concatenate(([0], breaks + 1))]
    ends = time[np.concatenate((breaks, [len(time) - 1]))]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def common(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Intersect two sorted lists of stretches."""
    found, i, j = [], 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found
