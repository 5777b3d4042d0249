"""Rotates the device's certificate before it expires, by itself."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from client.enrolment import EnrolmentError, rotate
from client.identity import Identity, IdentityError

_LOOK: Final = 3600.0  # seconds between looks at the clock: it may be set at any moment
_BACKOFF: Final = (60.0, 3600.0)
_MOST_WRONG: Final = 86_400.0  # seconds between rotations on a clock that is wrong
_FINAL: Final = frozenset(
    {"device-revoked", "certificate-revoked", "certificate-expired", "not-this-fleet"}
)
_log = logging.getLogger("flwr_edge.rotation")


class Rotation:
    """A thread that rotates when it is time.

    Parameters
    ----------
    identity : Identity
    rotated : callable()
        Told after each rotation: connections are to be made again.
    clock : callable() -> float
        Unix time.
    backoff : tuple[float, float]
        Seconds after the first failure, and the most.
    """

    def __init__(
        self,
        identity: Identity,
        rotated: Callable[[], None],
        clock: Callable[[], float] = time.time,
        backoff: tuple[float, float] = _BACKOFF,
    ) -> None:
        self._identity, self._rotated, self._clock = identity, rotated, clock
        self._backoff, self._failures = backoff, 0
        self._early = 0  # rotations in a row after which the next was due at once
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rotation", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; a request under way is asked again the next time."""
        self._end.set()

    def look(self) -> float:
        """Rotate where it is time; seconds until the next look."""
        try:
            left: float = self._identity.facts()["renew_at"] - self._clock()
            if left > 0:
                return min(left + 1, _LOOK)
            reply = rotate(self._identity)
        except (EnrolmentError, IdentityError, OSError) as error:
            return self._failed(error)
        self._failures = 0
        wait = self._succeeded(reply.renew_at or 0.0)
        self._rotated()
        return wait

    def _succeeded(self, renew_at: float) -> float:
        """Seconds until the next look; by this clock the new certificate may be due already."""
        left = renew_at - self._clock()
        if left > 0:
            self._early = 0
            _log.info("rotated; the next time is in %.1f h", left / 3600)
            return min(left + 1, _LOOK)
        if not self._early:
            _log.error(
                "rotated, and the next time was %.1f h ago: this device's clock is wrong; "
                "set it. Until then it rotates more and more rarely",
                -left / 3600,
            )
        self._early += 1
        return min(_LOOK * 2.0 ** min(self._early - 1, 16), _MOST_WRONG)

    def _failed(self, error: Exception) -> float:
        first, most = self._backoff
        final = isinstance(error, EnrolmentError) and error.word in _FINAL
        self._failures += 1
        wait = most if final else min(most, first * 2 ** min(self._failures - 1, 16))
        hint = "; only an operator can help: flwr-fleet device rotate" if final else ""
        _log.error("the certificate was not rotated: %s%s", error, hint)
        return wait * random.uniform(0.5, 1.5)  # noqa: S311 - jitter

    def _run(self) -> None:
        wait = 0.0
        while not self._end.wait(wait):
            try:
                wait = self.look()
            except Exception:  # noqa: BLE001 - whatever it is, the next look may do
                _log.exception("the rotation")
                wait = _LOOK
