"""Tasks one after the other: pull what they name, have them done, note what came of it."""

import contextlib
import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from client.installer import ACTIONS as BUNDLES
from client.installer import Installer
from client.once import Once
from client.service import watchdog_interval
from client.store import Store, TaskRow
from client.store_file import is_spoilt
from client.transfer import Downloads, GivenUp, TransferError
from client.work import Stopped, WorkError
from schemas import wire
from schemas.objects import ObjectStore

_log = logging.getLogger("flwr_edge.runner")
_LIGHT: Final = frozenset({"query.graphs", "query.install", "query.place"})
_TICK: Final = 1.0  # seconds between looks at what expired
_LONGEST_REST: Final = 10.0  # seconds asleep; a watchdog's, where that is shorter
_AGAIN, _LONGEST_AGAIN = 30.0, 900.0  # seconds until an answer nobody confirmed is said again


class Work(Protocol):
    """Does tasks; ``client.work.WorkProcess`` is one."""

    @property
    def idle(self) -> float:
        """Seconds for which what it holds was not needed."""
        ...

    def ask(
        self, request: dict[str, Any], seconds: float, give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        """Do one."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


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
        self.store, self.objects, self.work, self.downloads = store, objects, work, downloads
        self.bundles = bundles
        self._may_work, self._announce, self._alive = may_work, announce, alive
        self._seconds, self._idle, self._attempts = task_seconds, idle_seconds, attempts
        self._runs, self._has_graph, self._retry = runs, has_graph, retry
        self._longest = min(_LONGEST_REST, watchdog_interval() or _LONGEST_REST)
        self._ended = ended
        self.fault: BaseException | None = None
        self._trouble, self._troubles = Once(_log), 0
        self._paused = bool(store.get("paused", False))
        self.current: str | None = None
        self.waiting: str | None = None
        self._given_up: set[str] = set()
        self._cancelled: set[str] = set()  # which the disk could not note
        self._stop, self._wake = threading.Event(), threading.Event()
        self._ticked, self._unswept = 0.0, True
        self._again: dict[str, tuple[float, float]] = {}

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
        self._unswept = True
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
            self._cancelled.add(task)
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
            self._tick()
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
        wait = math.ldexp(min(_TICK, self._retry), min(self._troubles, 10))
        self._troubles += 1
        return min(wait, self._retry, self._longest)

    def _let_go(self) -> None:
        if self.work.idle > self._idle:
            _log.info("no work for %g s: the process that learns ends", self._idle)
            self.work.close()

    def _rest(self) -> float:
        if self.waiting:
            return min(self._retry, self._longest)
        return _TICK if self.work.idle or self.store.open() else self._longest

    def _next(self) -> TaskRow | None:
        """The oldest task; while work must wait, the oldest that is no work."""
        held: str | None = None
        found = None
        for row in self.store.open("queued"):
            if row.id in self._cancelled or self.bundles.holds(row):
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
            found = self._answer(row)
        except (GivenUp, Stopped):
            _log.info("task %s: given up", row.id[:8])
        else:
            if found is None:
                return  # a bundle on probation
            answer, kept, model = found
            self._finish(row, answer, kept)
            if model is not None:
                self.store.set("model", model)
        finally:
            self.current = None
            self._given_up.discard(row.id)

    def _answer(self, row: TaskRow) -> tuple[dict[str, Any], str | None, str | None] | None:
        """What to answer, and the objects of what is kept and of the model; None: not yet."""

        def wanted_no_more() -> bool:
            self._tick()
            return self._stop.is_set() or row.id in self._given_up

        began = time.monotonic()
        try:
            task = wire.Task.model_validate_json(json.dumps(row.body))
            lacking = [one for one in task.objects if not self._has(one.sha256)]
            came = self.downloads.pull((task.payload, *lacking), wanted_no_more)
            pulled = time.monotonic() - began
            done = self._done(row, task, wanted_no_more)
        except (TransferError, WorkError) as error:
            done = {"error": str(error)}
        except OSError as error:
            done = {"error": f"disk: {error.strerror or error}"}
        except (GivenUp, Stopped, sqlite3.Error):
            raise
        except Exception as error:  # noqa: BLE001 (outside input: any fault is its answer)
            _log.exception("task %s", row.id[:8])
            done = {"error": f"{type(error).__name__}: {error}"}
        if done is None:
            return None
        if "error" in done:
            for name in objects_of(row.body):  # on a full disk the answer needs the room
                self.objects.remove(name)
            _log.error("task %s: failed: %s", row.id[:8], done["error"])
            return {"kind": "failed", "reason": done["error"][:500]}, None, None
        seconds = time.monotonic() - began
        _log.info(
            "task %s: done in %.2f s; %d bytes pulled in %.2f s", row.id[:8], seconds, came, pulled
        )
        answer = {"kind": "result", "payload": done["payload"], "objects": done["objects"]}
        return answer, done["kept"], done.get("model")

    def _has(self, name: str) -> bool:
        return self._has_graph(name) or self.bundles.has(name)

    def _done(
        self, row: TaskRow, task: wire.Task, give_up: Callable[[], bool]
    ) -> dict[str, Any] | None:
        if task.action in BUNDLES:
            return self.bundles.do(row, task, lambda request: self._worked(row, request, give_up))
        request = {
            "action": task.action,
            "payload": task.payload.sha256,
            "kept": self.store.kept(task.run),
        }
        return self._worked(row, request, give_up)

    def _worked(
        self, row: TaskRow, request: dict[str, Any], give_up: Callable[[], bool]
    ) -> dict[str, Any]:
        if self.store.begin(row.id) > self._attempts:
            raise WorkError(f"begun {self._attempts} times and never finished; left alone")
        try:
            answer = self.work.ask(request, self._seconds, give_up)
        except Stopped:
            self._begun_well(row)  # no fault of the task's
            raise
        self._begun_well(row)  # it finished; an order about a bundle asks more than once
        return answer

    def _begun_well(self, row: TaskRow) -> None:
        with contextlib.suppress(sqlite3.Error):  # a full disk: the answer is what counts
            self.store.begin(row.id, -1)

    def _finish(self, row: TaskRow, answer: dict[str, Any], kept: str | None) -> None:
        while True:
            try:
                if not self.store.finish(row.id, answer, kept, self._runs):
                    return  # cancelled or expired meanwhile
                break
            except sqlite3.Error as error:
                if is_spoilt(error):
                    raise
                self._trouble(error, f"task {row.id[:8]}: its answer cannot be noted")
                if not self._wanted_later(row):
                    return  # where the daemon stops, it is done afresh at the next start
        self._unswept = True
        done = self.store.task(row.id)
        if done is not None:
            self._announce(done)

    def _wanted_later(self, row: TaskRow) -> bool:
        """Wait for a disk that takes an answer; False where nobody wants it any more."""
        end = time.monotonic() + self._retry
        while row.expires > self.store.clock() and row.id not in self._given_up:
            # A watchdog is fed, and expiry is looked at, of this task and the others.
            with contextlib.suppress(sqlite3.Error):  # it is said already
                self._tick()
            left = end - time.monotonic()
            if left <= 0:
                return True
            if self._stop.wait(min(_TICK, left)):
                break
        return False

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._alive()
        clock = self.store.clock()
        rows = self.store.open()
        for row in rows:
            if row.expires <= clock or row.id in self._cancelled:
                self.give_up(row.id)  # first: a full disk notes no end
                if self.store.end(row.id) and row.id not in self._cancelled:
                    _log.warning("task %s: expired while %s", row.id[:8], row.state)
                self._cancelled.discard(row.id)
            elif row.state == "done":
                self._say_again(row, now)
        self._again = {row.id: self._again[row.id] for row in rows if row.id in self._again}

    def _say_again(self, row: TaskRow, now: float) -> None:
        due, wait = self._again.get(row.id, (now + _AGAIN, _AGAIN))
        if now >= due:
            self._announce(row)
            wait = min(wait * 2, _LONGEST_AGAIN)
            due = now + wait
        self._again[row.id] = due, wait

    def _sweep(self) -> None:
        """Remove objects that no open task and no run needs; only between tasks."""
        if not self._unswept:
            return
        self._unswept = False
        rows = self.store.open()
        needed = self.store.all_kept() | {self.store.get("model", "")} | self.bundles.needed(rows)
        for row in rows:
            needed |= objects_of(row.body if row.answer is None else row.answer)
        parts = [path.stem for path in self.objects.folder.glob("*.part")]
        for name in {*self.objects.names(), *parts} - needed:
            self.objects.remove(name)
        self.bundles.tidy(rows)


def objects_of(body: dict[str, Any]) -> set[str]:
    """Names of the objects of a task or an answer."""
    if "payload" not in body:
        return set()
    return {body["payload"]["sha256"], *(one["sha256"] for one in body["objects"])}
