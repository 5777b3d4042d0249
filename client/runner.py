"""Tasks one after the other: pull what they name, have them done, note what came of it."""

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from client.installer import ACTIONS as BUNDLES
from client.installer import Installer
from client.store import Store, TaskRow
from client.transfer import Downloads, GivenUp, TransferError
from client.work import Stopped, WorkError
from schemas import wire
from schemas.objects import ObjectStore

_log = logging.getLogger("flwr_edge.runner")
_LIGHT: Final = frozenset({"query.graphs", "query.install", "query.place"})
_TICK: Final = 1.0  # seconds between looks at what expired
_LONGEST_REST: Final = 10.0  # seconds asleep; a watchdog allows no more than its own
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
    ) -> None:
        self.store, self.objects, self.work, self.downloads = store, objects, work, downloads
        self.bundles = bundles
        self._may_work, self._announce, self._alive = may_work, announce, alive
        self._seconds, self._idle, self._attempts = task_seconds, idle_seconds, attempts
        self._runs, self._has_graph, self._retry = runs, has_graph, retry
        self.current: str | None = None
        self.waiting: str | None = None
        self._given_up: set[str] = set()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._ticked, self._unswept = 0.0, True
        self._again: dict[str, tuple[float, float]] = {}

    @property
    def paused(self) -> bool:
        """Whether somebody at the device said so."""
        return bool(self.store.get("paused", False))

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

    def run(self) -> None:
        """Work until ``stop``."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._tick()
                self.bundles.look()
                self._sweep()
                row = self._next()
                if row is not None:
                    self._do(row)
                    continue
            except (sqlite3.Error, OSError) as error:
                _log.error("the disk or the store cannot be used now: %s", error)
                self._stop.wait(self._retry)
            if self.work.idle > self._idle:
                _log.info("no work for %g s: the process that learns ends", self._idle)
                self.work.close()
            self._wake.wait(self._rest())
        self.work.close()

    # ------------------------------------------------------------------------------------------

    def _rest(self) -> float:
        if self.waiting:
            return min(self._retry, _LONGEST_REST)
        return _TICK if self.work.idle or self.store.open() else _LONGEST_REST

    def _next(self) -> TaskRow | None:
        """The oldest task; while work must wait, the oldest that is no work."""
        held: str | None = None
        found = None
        for row in self.store.open("queued"):
            if self.bundles.holds(row):
                continue  # until the bundle on probation has stood it
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

        task = wire.Task.model_validate_json(json.dumps(row.body))
        began = time.monotonic()
        try:
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
            for one in (task.payload, *task.objects):  # on a full disk the answer needs the room
                self.objects.remove(one.sha256)
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
            self.store.begin(row.id, -1)  # no fault of the task's
            raise
        with contextlib.suppress(sqlite3.Error):  # a full disk: the answer is what counts
            self.store.begin(row.id, -1)  # it finished; an order about a bundle asks more than once
        return answer

    def _finish(self, row: TaskRow, answer: dict[str, Any], kept: str | None) -> None:
        while True:
            try:
                if not self.store.finish(row.id, answer, kept, self._runs):
                    return  # cancelled or expired meanwhile
                break
            except sqlite3.Error as error:
                _log.error("task %s: its answer cannot be noted: %s", row.id[:8], error)
                if self._stop.wait(self._retry):
                    return  # it is done afresh at the next start
        self._unswept = True
        done = self.store.task(row.id)
        if done is not None:
            self._announce(done)

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._alive()
        clock = self.store.clock()
        rows = self.store.open()
        for row in rows:
            if row.expires <= clock and self.store.end(row.id):
                _log.warning("task %s: expired while %s", row.id[:8], row.state)
                self.give_up(row.id)
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
