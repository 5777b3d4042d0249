"""Who was refused too often waits: a count of refusals by address, over the last minute."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

_WINDOW: Final = 60.0
_ADDRESSES: Final = 10_000  # remembered at most


class Limiter:
    """Counts refusals.

    Parameters
    ----------
    most : int
        Refusals a minute of one address.
    clock : callable() -> float
        Seconds that only grow.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, address: str) -> float:
        """Seconds that an address has to wait; 0 where it need not."""
        with self._lock:
            times = self._seen.get(address)
            if times is None or len(times) < self._most:
                return 0.0
            return max(0.0, times[0] + _WINDOW - self._clock())

    def refused(self, address: str) -> bool:
        """Count a refusal; whether it is the one from which the address waits."""
        with self._lock:
            times = self._seen.setdefault(address, deque(maxlen=self._most))
            self._seen.move_to_end(address)
            before = len(times) == self._most and times[0] + _WINDOW > self._clock()
            times.append(self._clock())
            if len(self._seen) > _ADDRESSES:
                self._seen.popitem(last=False)
            return not before and len(times) == self._most and times[0] + _WINDOW > self._clock()
