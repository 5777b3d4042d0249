"""One attempt at a task: what it names is pulled, it is done, and whatever comes is its answer."""

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from client.installer import ACTIONS as BUNDLES
from client.installer import Installer
from client.messages import Do, Done, Failed, Kind, Request, read_answer, write_request
from client.store import Store, TaskRow
from client.sweep import objects_of
from client.transfer import Downloads, GivenUp, PutOff, TransferError
from client.work import Stopped, Work, WorkError
from schemas import wire
from schemas.objects import ObjectStore

_log = logging.getLogger("flwr_edge.runner")


@dataclass(frozen=True)
class Answer:
    """What the server is told of a task, and what the device keeps after it.

    Attributes
    ----------
    body : Result or Failed
    kept : str or None
        As ``Store.finish`` takes it.
    model : str or None
        The object to predict with from now on.
    """

    body: wire.Result | wire.Failed
    kept: str | None = None
    model: str | None = None


class Attempts:
    """Does tasks, one at a time.

    Parameters
    ----------
    store, objects, work, downloads
    bundles : Installer
        Does orders about bundles.
    seconds : float
        A task may take.
    most : int
        Attempts at a task that never finished.
    has_graph : callable(str) -> bool
        Whether an object lies in the cache of graphs already, and need not be pulled.
    others_wait : callable(task) -> bool
        Whether others could be done while an object of a task does not come.
    """

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        work: Work,
        downloads: Downloads,
        bundles: Installer,
        *,
        seconds: float,
        most: int,
        has_graph: Callable[[str], bool],
        others_wait: Callable[[str], bool],
    ) -> None:
        self._store, self._objects, self._work = store, objects, work
        self._downloads, self._bundles = downloads, bundles
        self._seconds, self._most, self._has_graph = seconds, most, has_graph
        self._others_wait = others_wait

    def answer(self, row: TaskRow, unwanted: Callable[[], bool]) -> Answer | None:
        """Do a task; None: a bundle is on probation, and there is no answer yet.

        Parameters
        ----------
        row : TaskRow
        unwanted : callable() -> bool
            Looked at several times a second: whether to give it up.

        Raises
        ------
        GivenUp, Stopped
            It was given up.
        PutOff
            What it names does not come, and others wait.
        sqlite3.Error
            The store cannot be used now.
        """
        found = self._attempted(row, unwanted)
        if not isinstance(found, Failed):
            return found
        for name in objects_of(row.body):  # on a full disk the answer needs the room
            self._objects.remove(name)
        _log.error("task %s: failed: %s", row.id[:8], found.error)
        return Answer(wire.Failed(reason=found.error[:500]))

    def _attempted(self, row: TaskRow, unwanted: Callable[[], bool]) -> Answer | Failed | None:
        try:
            return self._pulled_and_done(row, unwanted)
        except (TransferError, WorkError) as error:
            return Failed(str(error))
        except OSError as error:
            return Failed(f"disk: {error.strerror or error}")
        except (GivenUp, PutOff, Stopped, sqlite3.Error):
            raise
        except Exception as error:  # noqa: BLE001 (outside input: any fault is its answer)
            _log.exception("task %s", row.id[:8])
            return Failed(f"{type(error).__name__}: {error}")

    def _pulled_and_done(
        self, row: TaskRow, unwanted: Callable[[], bool]
    ) -> Answer | Failed | None:
        began = time.monotonic()
        task = wire.Task.model_validate_json(json.dumps(row.body))
        lacking = [one for one in task.objects if not self._has(one.sha256)]
        came = self._downloads.pull(
            (task.payload, *lacking), unwanted, lambda: self._others_wait(row.id)
        )
        pulled = time.monotonic() - began
        done = self._done(row, task, unwanted)
        if done is None or isinstance(done, Failed):
            return done
        answer = Answer(
            wire.Result(payload=done.payload, objects=done.objects), done.kept, done.model
        )
        seconds = time.monotonic() - began
        _log.info(
            "task %s: done in %.2f s; %d bytes pulled in %.2f s", row.id[:8], seconds, came, pulled
        )
        return answer

    def _has(self, name: str) -> bool:
        return self._has_graph(name) or self._bundles.has(name)

    def _done(
        self, row: TaskRow, task: wire.Task, unwanted: Callable[[], bool]
    ) -> Done | Failed | None:
        def ask(request: Request, kind: type[Kind]) -> Kind | Failed:
            return self._asked(row, request, kind, unwanted)

        if task.action in BUNDLES:
            return self._bundles.do(row, task, ask)
        return ask(Do(task.action, task.payload.sha256, self._store.kept(task.run)), Done)

    def _asked(
        self, row: TaskRow, request: Request, kind: type[Kind], unwanted: Callable[[], bool]
    ) -> Kind | Failed:
        if self._store.begin(row.id) > self._most:
            raise WorkError(f"begun {self._most} times and never finished; left alone")
        try:
            said = self._work.ask(write_request(request), self._seconds, unwanted)
        except Stopped:
            self._begun_well(row)  # no fault of the task's
            raise
        self._begun_well(row)  # it finished; an order about a bundle asks more than once
        return read_answer(kind, said)

    def _begun_well(self, row: TaskRow) -> None:
        with contextlib.suppress(sqlite3.Error):  # a full disk: the answer is what counts
            self._store.begin(row.id, -1)
