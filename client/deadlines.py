"""What happens by the clock while tasks are open: they expire, and answers are said again."""

import logging
import time
from collections.abc import Callable
from typing import Final

from client.store import Store, TaskRow

_log = logging.getLogger("flwr_edge.runner")
TICK: Final = 1.0  # seconds between looks at what expired
_AGAIN, _LONGEST_AGAIN = 30.0, 900.0  # seconds until an answer nobody confirmed is said again


class Deadlines:
    """Ends what expired, and says again what nobody confirmed.

    Parameters
    ----------
    store : Store
    give_up : callable(str)
        Ends the work on a task.
    announce : callable(TaskRow)
        Says where a task stands.
    alive : callable()
        Called with each look.

    Attributes
    ----------
    cancelled : set[str]
        Tasks that were cancelled and that the disk could not close; closed once it can.
    """

    def __init__(
        self,
        store: Store,
        give_up: Callable[[str], None],
        announce: Callable[[TaskRow], None],
        alive: Callable[[], None],
    ) -> None:
        self._store, self._give_up = store, give_up
        self._announce, self._alive = announce, alive
        self.cancelled: set[str] = set()
        self._looked = 0.0
        self._again: dict[str, tuple[float, float]] = {}

    def look(self) -> None:
        """Look at all open tasks, where the last look was a second ago.

        Raises
        ------
        sqlite3.Error
            Of a store that cannot be used now.
        """
        now = time.monotonic()
        if now - self._looked < TICK:
            return
        self._looked = now
        self._alive()
        clock = self._store.clock()
        rows = self._store.open()
        for row in rows:
            if row.expires <= clock or row.id in self.cancelled:
                self._end(row)
            elif row.state == "done":
                self._say_again(row, now)
        self._again = {row.id: self._again[row.id] for row in rows if row.id in self._again}

    def _end(self, row: TaskRow) -> None:
        self._give_up(row.id)  # first: a full disk notes no end
        if self._store.end(row.id) and row.id not in self.cancelled:
            _log.warning("task %s: expired while %s", row.id[:8], row.state)
        self.cancelled.discard(row.id)

    def _say_again(self, row: TaskRow, now: float) -> None:
        due, wait = self._again.get(row.id, (now + _AGAIN, _AGAIN))
        if now >= due:
            self._announce(row)
            wait = min(wait * 2, _LONGEST_AGAIN)
            due = now + wait
        self._again[row.id] = due, wait
