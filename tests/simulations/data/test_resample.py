import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data.resample import Samples, align

SECOND = 10**9


def ramp(start: float, end: float, hz: float, slope: float = 1.0) -> Samples:
    time = np.arange(start, end, 1 / hz)
    return Samples((time * SECOND).astype(np.int64), (slope * time)[:, None])


@given(st.floats(10, 100), st.floats(10, 100), st.floats(0, 3), st.floats(0, 3))
def test_a_straight_line_stays_one(hz: float, other: float, start: float, later: float) -> None:
    (signal,) = align(ramp(start, 9, hz), ramp(later, 9, other, slope=-2), 20)
    time = max(start, later) + np.arange(len(signal)) / 20
    # Samples start on the sensor's grid, up to 1 ns from where they should be.
    assert np.allclose(signal[:, 0], time, atol=1e-6)
    assert np.allclose(signal[:, 1], -2 * time, atol=1e-6)
    assert len(signal) >= (9 - max(start, later) - 0.1) * 20 - 1


def test_a_silence_parts_the_recording() -> None:
    late = ramp(6, 10, 20)
    first = ramp(0, 4, 20)
    both = Samples(np.concatenate([late.time, first.time]), np.vstack([late.values, first.values]))
    signals = align(both, ramp(0, 10, 25), 20)
    # The last sample of 80 may fall off by a rounding of the clock to nanoseconds.
    assert all(len(signal) in (79, 80) for signal in signals)
    assert len(signals) == 2
    assert signals[0].max() < 4
    assert signals[1].min() >= 6


def test_each_time_counts_once() -> None:
    twice = Samples(np.array([0, 0, SECOND // 4]), np.array([[1.0], [9.0], [2.0]]))
    (signal,) = align(twice, ramp(0, 1, 50), 20)
    assert signal[0, 0] == 1


@pytest.mark.parametrize("start", [5, 4.99])
def test_sensors_that_never_meet(start: float) -> None:
    assert align(ramp(0, 4, 20), ramp(start, 9, 20), 20) == []
