"""Tasks one after the other: pull what they name, have them done, note what came of it."""

import contextlib
import logging
import math
import sqlite3
import threading
from collections.abc import Callable
from typing import Final

from client.answers import Answers
from client.attempts import Attempts
from client.deadlines import TICK, Deadlines
from client.installer import Installer
from client.once import Once
from client.service import watchdog_interval
from client.store import Store, TaskRow
from client.store_file import is_spoilt
from client.sweep import Sweep
from client.transfer import Downloads, GivenUp, PutOff
from client.work import Stopped, Work
from schemas.objects import ObjectStore

_log = logging.getLogger("flwr_edge.runner")
_LIGHT: Final = frozenset({"query.graphs", "query.install", "query.place"})
_LONGEST_REST: Final = 10.0  # seconds asleep; a watchdog's, where that is shorter


class Runner:
    """Does the store's queued tasks.

    Parameters
    ----------
    store, objects, work, downloads
    bundles : Installer
        Does orders about bundles.
    may_work : callable() -> (bool, str)
        Asked before each ``train`` or ``evaluate``.
    announce : callable(TaskRow)
        Says where a task stands.
    task_seconds, idle_seconds, attempts, runs
        See ``client.config.Limits``.
    has_graph : callable(str) -> bool
        Whether an object lies in the cache of graphs already, and need not be pulled.
    alive : callable()
        Called about once a second while all is well; feeds a watchdog.
    retry : float
        Seconds between attempts to note an answer on a full disk, or to find conditions met.
    ended : callable()
        Called at the end of ``run``, however it ends.

    Attributes
    ----------
    fault : BaseException or None
        What ended ``run``, where nobody stopped it.
    """

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        work: Work,
        downloads: Downloads,
        bundles: Installer,
        may_work: Callable[[], tuple[bool, str]],
        announce: Callable[[TaskRow], None],
        *,
        task_seconds: float = 3600.0,
        idle_seconds: float = 20.0,
        attempts: int = 5,
        runs: int = 4,
        has_graph: Callable[[str], bool] = lambda _: False,
        alive: Callable[[], None] = lambda: None,
        retry: float = 10.0,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.work, self.downloads, self.bundles = store, work, downloads, bundles
        self._may_work, self._announce, self._ended = may_work, announce, ended
        self._idle, self._retry = idle_seconds, retry
        self._longest = min(_LONGEST_REST, watchdog_interval() or _LONGEST_REST)
        self.fault: BaseException | None = None
        self._trouble, self._troubles = Once(_log), 0
        self._paused = bool(store.get("paused", False))
        self.current: str | None = None
        self.waiting: str | None = None
        self._given_up: set[str] = set()
        self._put_off: dict[str, int] = {}  # tasks whose objects do not come, by turn
        self._stop, self._wake = threading.Event(), threading.Event()
        self._deadlines = Deadlines(store, self.give_up, announce, alive)
        self._attempts = Attempts(
            store,
            objects,
            work,
            downloads,
            bundles,
            seconds=task_seconds,
            most=attempts,
            has_graph=has_graph,
            others_wait=self._others_wait,
        )
        self._answers = Answers(
            store, self._trouble, self._deadlines.look, self._stop.wait, runs=runs, retry=retry
        )
        self._sweep = Sweep(store, objects, bundles)

    @property
    def paused(self) -> bool:
        """Whether somebody at the device said so."""
        return self._paused

    def pause(self, *, paused: bool) -> None:
        """Take no work, or take it again.

        Raises
        ------
        sqlite3.Error
            Where it cannot be noted for the next start; until the daemon's end it holds.
        """
        self._paused = paused
        self.wake()
        self.store.set("paused", paused)

    def wake(self) -> None:
        """Look at the store."""
        self._sweep.due = True
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End soon; work under way is given up."""
        self._stop.set()
        self._wake.set()
        self.downloads.nudge()

    def give_up(self, task: str) -> None:
        """End the work on a task, if it is the one under way."""
        if self.current == task:
            self._given_up.add(task)
        self.downloads.nudge()
        self._wake.set()

    def cancel(self, task: str) -> bool:
        """Close a task and end the work on it; whether it was open.

        A full disk cannot note it: it is left alone from now on, and noted when there is room.
        """
        try:
            return self.store.end(task)
        except sqlite3.Error as error:
            self._deadlines.cancelled.add(task)
            self._trouble(error, "a cancelled task cannot be noted")
            return True
        finally:
            self.give_up(task)

    def run(self) -> None:
        """Work until ``stop``; ``ended`` is called, whatever it is that ends it."""
        with contextlib.ExitStack() as last:
            last.callback(self._ended)
            last.callback(self.work.close)
            try:
                while not self._stop.is_set():
                    self._turn()
            except BaseException as error:  # noqa: BLE001 (told by start.run, which ends the process)
                self.fault = error
                _log.critical("no more tasks can be done", exc_info=error)

    # ------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Do a task, or rest. A disk that fails, or a fault of ours, is no end: others may go on.

        Raises
        ------
        sqlite3.Error
            Of a malformed store: only the next start can mend it.
        """
        self._wake.clear()
        try:
            self._let_go()
            self._deadlines.look()
            self.bundles.look()
            self._sweep()
            row = self._next()
            if row is not None:
                self._do(row)
            rest = 0.0 if row is not None else self._rest()
        except Exception as error:
            if is_spoilt(error):
                raise
            disk = isinstance(error, sqlite3.Error | OSError)
            what = "the disk or the store cannot be used now" if disk else "between tasks"
            self._trouble(error, what)
            self._stop.wait(self._back_off())
            return
        self._troubles = 0
        if self._trouble.well():
            _log.info("all is well again")
        if rest:
            self._wake.wait(rest)

    def _back_off(self) -> float:
        """Seconds to wait after trouble: longer each time, and never too long for the watchdog."""
        wait = math.ldexp(min(TICK, self._retry), min(self._troubles, 10))
        self._troubles += 1
        return min(wait, self._retry, self._longest)

    def _let_go(self) -> None:
        if self.work.idle > self._idle:
            _log.info("no work for %g s: the process that learns ends", self._idle)
            self.work.close()

    def _rest(self) -> float:
        if self.waiting:
            return min(self._retry, self._longest)
        return TICK if self.work.idle or self.store.open() else self._longest

    def _next(self) -> TaskRow | None:
        """The oldest task; while work must wait, the oldest that is no work.

        Those whose objects do not come are last, in turns.
        """
        held: str | None = None
        found = None
        for row in sorted(self.store.open("queued"), key=lambda row: self._put_off.get(row.id, 0)):
            if row.id in self._deadlines.cancelled or self.bundles.holds(row):
                continue  # a bundle's order, until the one on probation has stood it
            if row.body["action"] in _LIGHT or self.bundles.concludes(row):
                found = row
            elif held is None:
                may, why = (False, "paused") if self.paused else self._may_work()
                found, held = (row, None) if may else (None, why)
            if found is not None:
                break
        self.waiting = held  # at once: who asks meanwhile must not see it come and go
        return found

    def _do(self, row: TaskRow) -> None:
        self.current = row.id
        try:
            answer = self._attempts.answer(row, lambda: self._unwanted(row))
        except (GivenUp, Stopped):
            _log.info("task %s: given up", row.id[:8])
        except PutOff:
            self._later(row)
        else:
            if answer is None:
                return  # a bundle on probation
            if self._answers.note(row, answer, lambda: row.id in self._given_up):
                self._noted(row)
            if answer.model is not None:
                self.store.set("model", answer.model)
        finally:
            self.current = None
            self._given_up.discard(row.id)

    def _later(self, row: TaskRow) -> None:
        if row.id not in self._put_off:
            _log.warning("task %s: what it names does not come; others first", row.id[:8])
        still = {each.id for each in self.store.open("queued")}
        self._put_off = {task: turn for task, turn in self._put_off.items() if task in still}
        self._put_off[row.id] = max(self._put_off.values(), default=0) + 1

    def _others_wait(self, task: str) -> bool:
        return any(row.id != task for row in self.store.open("queued"))

    def _unwanted(self, row: TaskRow) -> bool:
        self._deadlines.look()
        return self._stop.is_set() or row.id in self._given_up

    def _noted(self, row: TaskRow) -> None:
        self._sweep.due = True
        done = self.store.task(row.id)
        if done is not None:
            self._announce(done)
