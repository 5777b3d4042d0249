"""Samples cut into windows."""

from array import array
from collections import deque
from collections.abc import Callable, Sequence

from client.sources.base import Window
from client.store import boot_clock


class Framer:
    """Cuts an unbroken run of samples into windows.

    Parameters
    ----------
    time, channels : int
        Of a window.
    step : int
        Samples from one window's first to the next one's.
    """

    def __init__(self, time: int, channels: int, step: int) -> None:
        self._time, self._channels, self._step = time, channels, step
        self._rows: deque[tuple[array[float], int]] = deque(maxlen=time)
        self._until = time

    def add(self, row: Sequence[float], label: int = -1) -> Window | None:
        """Add a sample; the window that it completes, if it does.

        A window whose samples differ in label has none.

        Raises
        ------
        ValueError
            Where it has another number of channels.
        """
        if len(row) != self._channels:
            raise ValueError(f"a sample of {len(row)} values; expected {self._channels}")
        self._rows.append((array("f", row), label))
        self._until -= 1
        if self._until:
            return None
        self._until = self._step
        values: array[float] = array("f")
        for samples, _ in self._rows:
            values.extend(samples)
        labels = {label for _, label in self._rows}
        common = labels.pop() if len(labels) == 1 else -1
        return Window(values, (self._time, self._channels), common)

    def reset(self) -> bool:
        """Forget what came: the next sample does not follow on it. Whether there was any."""
        had = bool(self._rows)
        self._rows.clear()
        self._until = self._time
        return had


class Silence:
    """Tells when a sensor said nothing for so long that what comes does not follow on what came.

    Parameters
    ----------
    longest : float, optional
        Seconds that are not too long; any are where it is None.
    clock : callable() -> float
        Seconds that only rise, sleep counted.
    """

    def __init__(self, longest: float | None, clock: Callable[[], float] = boot_clock) -> None:
        self._longest, self._clock = longest, clock
        self._last = clock()

    def ended(self) -> float:
        """Something came: the seconds of silence before it, where they are too long; else 0."""
        now = self._clock()
        silent, self._last = now - self._last, now
        return silent if self._longest is not None and silent > self._longest else 0.0
