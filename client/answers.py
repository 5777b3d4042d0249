"""Notes what came of tasks, and waits for a disk that takes it."""

import contextlib
import sqlite3
import time
from collections.abc import Callable

from client.attempts import Answer
from client.deadlines import TICK
from client.once import Once
from client.store import Store, TaskRow
from client.store_file import is_spoilt


class Answers:
    """Notes a task's answer, and what the device keeps after it, both or neither.

    Parameters
    ----------
    store : Store
    trouble : Once
        Told where the disk takes nothing.
    look : callable()
        Called about once a second while the disk takes nothing; may raise ``sqlite3.Error``.
    stopped : callable(float) -> bool
        Waits for so many seconds, or until the daemon is to end: whether it is.
    runs : int
        Most runs of which something is kept.
    retry : float
        Seconds between attempts.
    """

    def __init__(
        self,
        store: Store,
        trouble: Once,
        look: Callable[[], None],
        stopped: Callable[[float], bool],
        *,
        runs: int,
        retry: float,
    ) -> None:
        self._store, self._trouble, self._look = store, trouble, look
        self._stopped, self._runs, self._retry = stopped, runs, retry

    def note(self, row: TaskRow, answer: Answer, given_up: Callable[[], bool]) -> bool:
        """Note it; False where nobody wants it any more, or the daemon stops.

        Where the daemon stops, the task is done afresh at the next start.

        Raises
        ------
        sqlite3.Error
            Of a malformed store.
        """
        body = answer.body.model_dump(mode="json")
        while True:
            try:
                return self._store.finish(row.id, body, answer.kept, self._runs)
            except sqlite3.Error as error:
                if is_spoilt(error):
                    raise
                self._trouble(error, f"task {row.id[:8]}: its answer cannot be noted")
                if not self._wanted_later(row, given_up):
                    return False

    def _wanted_later(self, row: TaskRow, given_up: Callable[[], bool]) -> bool:
        """Wait for a disk that takes an answer; False where nobody wants it any more."""
        end = time.monotonic() + self._retry
        while row.expires > self._store.clock() and not given_up():
            # A watchdog is fed, and expiry is looked at, of this task and the others.
            with contextlib.suppress(sqlite3.Error):  # it is said already
                self._look()
            left = end - time.monotonic()
            if left <= 0:
                return True
            if self._stopped(min(TICK, left)):
                break
        return False
