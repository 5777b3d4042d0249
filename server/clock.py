"""The time that rounds go by: the machine's, or a rehearsal's."""

import time
from typing import Final, Protocol, runtime_checkable

from flwr.serverapp import Grid

POLL_SECONDS: Final = 0.2


@runtime_checkable
class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now(self) -> float:
        """Seconds since some moment."""

    def wait(self, until: float) -> None:
        """Let time pass: until then at most, less where a reply may have come."""


class WallClock:
    """The machine's time."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def wait(self, until: float) -> None:
        """Sleep for a moment."""
        time.sleep(max(0.0, min(POLL_SECONDS, until - self.now())))


def clock_of(grid: Grid) -> Clock:
    """The grid's own clock, where it has one."""
    return grid if isinstance(grid, Clock) else WallClock()
