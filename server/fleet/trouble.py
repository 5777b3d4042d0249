"""What goes wrong in ``serve`` again and again, as a database that is away, is said once."""

import logging
import threading

from server.database import ABSENT, why_absent


class Trouble:
    """What one part of a server met, for its log; thread-safe.

    Parameters
    ----------
    log : Logger
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._lock = log, threading.Lock()
        self._said: set[str] = set()

    def met(self, error: Exception, what: str) -> None:
        """Say it: a line where the database is away, and it was not said; else all of it."""
        if not isinstance(error, ABSENT):
            self._log.error("%s", what, exc_info=error)
            return
        line = why_absent(error)
        with self._lock:
            if line not in self._said:
                self._log.error("the database: %s; tried again until it is back", line)
            self._said.add(line)

    def over(self) -> None:
        """Say that the database is back, where it was away."""
        with self._lock:
            if self._said:
                self._log.warning("the database is back")
            self._said.clear()


class Once(logging.Filter):
    """Lets a line through that is not the one before again: a broker may be down for days."""

    _last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it says something new."""
        again, self._last = record.getMessage() == self._last, record.getMessage()
        return not again or record.exc_info is not None
