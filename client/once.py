"""Logs what goes wrong again and again once, until it goes well."""

import logging
import sqlite3


class Once:
    """The first of each kind of trouble is logged, with what it was; the rest is silence.

    Parameters
    ----------
    log : Logger
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: set[tuple[object, ...]] = set()

    def __call__(self, error: BaseException, what: str) -> None:
        """Log ``what`` and the error; with its traceback where it is none of a disk's.

        Parameters
        ----------
        error : BaseException
        what : str
            What could not be done.
        """
        kind = what, type(error), getattr(error, "sqlite_errorcode", getattr(error, "errno", None))
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        unforeseen = not isinstance(error, sqlite3.Error | OSError)
        self._log.error("%s: %s (said once)", what, error, exc_info=error if unforeseen else None)

    def well(self) -> bool:
        """Forget what was logged; whether there was anything."""
        had = bool(self._kinds)
        self._kinds.clear()
        return had
