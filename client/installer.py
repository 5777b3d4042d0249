"""Installs bundles: verified, laid beside the one in use, proved, switched to, kept on probation.

Nothing here loads a model: that is done in the process that learns, whose end is an answer. What
a power cut interrupts is done again from the disk, or not at all; see ``server/PROTOCOL.md``.
"""

import hashlib
import logging
import sqlite3
from pathlib import Path
from typing import Any, Final, Protocol

from client.installed import Installed, Place
from client.installer_reports import Reports
from client.messages import Candidate, Do, Done, Failed, Kind, Ordered, Prove, Proved, Request
from client.once import Once
from client.store import Store, TaskRow
from client.work import WorkError
from schemas.incoming import sync_folder
from schemas.objects import ObjectStore
from schemas.rollout import ACTION, BACK
from schemas.wire import ObjectRef, Task

_log = logging.getLogger("flwr_edge.installer")
ACTIONS: Final = frozenset({ACTION, BACK})
MAX_BYTES: Final = 64 << 20


class Ask(Protocol):
    """Has the process that learns answer, as ``read_answer`` reads it."""

    def __call__(self, request: Request, kind: type[Kind]) -> Kind | Failed:
        """Ask it."""
        ...


class Installer:
    """Does orders about bundles, one at a time, on the runner's thread.

    Parameters
    ----------
    store : Store
    objects : ObjectStore
        Into which bundles are pulled.
    installed : Installed
    most_bytes : int
        Of a bundle's file, or its base's; larger ones are refused before they are pulled.
    """

    def __init__(
        self,
        store: Store,
        objects: ObjectStore,
        installed: Installed,
        most_bytes: int = MAX_BYTES,
    ) -> None:
        self._store, self._objects, self.installed = store, objects, installed
        self._most, self._trouble = most_bytes, Once(_log)
        installed.started()
        self._reports = Reports(store, installed)

    def refusal(self, task: Task) -> str | None:
        """Why an order cannot be taken; nothing was pulled yet."""
        if task.action == ACTION and not 1 <= len(task.objects) <= 2:
            return f"a bundle and maybe its base are expected; {len(task.objects)} objects came"
        for one in task.objects if task.action == ACTION else ():
            if one.bytes > self._most:
                return f"a bundle of {one.bytes} bytes; this device takes at most {self._most}"
        return None

    def has(self, name: str) -> bool:
        """Whether a bundle lies here whole and need not be pulled; what is spoilt is removed."""
        path = self.installed.path(name)
        try:
            whole = _digest(path) == name
        except FileNotFoundError:
            return False
        except OSError as error:  # maybe this once: the one that is pulled is renamed over it
            _log.warning("bundle %s: cannot be read, it is pulled again: %s", name[:12], error)
            return False
        if not whole:
            _log.error("bundle %s: was spoilt on the disk, and removed", name[:12])
            path.unlink(missing_ok=True)
        return whole

    def holds(self, row: TaskRow) -> bool:
        """Whether an order has to wait: a bundle is on probation, and that is not over."""
        if row.body["action"] not in ACTIONS or self.installed.record.probation is None:
            return False
        return not self.installed.due()

    def look(self) -> None:
        """Go back where the order under probation was cancelled or expired meanwhile.

        Where there is none, say to the server what became of the bundle in use.
        """
        found = self.installed.record.probation
        if found is None:
            self._reports.look()
            return
        row = self._store.task(found.task)
        if row is None or row.state == "closed":
            _log.warning("task %s: its bundle goes back: cancelled or expired", found.task[:8])
            self.installed.back("cancelled or expired during its probation")

    def fault(self, sha: str, reason: str) -> bool:
        """Tell of a fault in predicting; whether the device went back to the last good bundle."""
        if not self.installed.on_probation(sha):
            return False
        try:
            if not self.installed.back(reason):
                return False
        except sqlite3.Error as error:  # a full disk: a bad bundle does not predict for that
            self._trouble(error, "a bundle's way back cannot be noted")
            return self.installed.put_aside(sha, reason)
        _log.error("bundle %s: went back to the last good one: %s", sha[:12], reason)
        return True

    def unusable(self, sha: str, reason: str) -> bool:
        """Tell of a bundle that cannot be opened, or fails its own reference input.

        Returns
        -------
        bool
            Whether another predicts now: for good where it was on probation; else until an order
            installs the bundle anew, or it is tried again, ten minutes later.
        """
        self._reports.blamed()
        return self.fault(sha, reason) or self.installed.put_aside(sha, reason)

    def do(self, row: TaskRow, task: Task, ask: Ask) -> Done | Failed | None:
        """Do an order; None while the bundle is on probation: there is no answer yet."""
        ended, probation = self.installed.record.ended, self.installed.record.probation
        if ended is not None and ended.task == row.id:
            return _said(ended.reason, ended.answer)
        if task.action == BACK:
            return self._back(task, row, ask)
        if probation is not None and probation.task == row.id:
            return self._conclude(task, ask)
        return self._install(row, task, ask)

    def concludes(self, row: TaskRow) -> bool:
        """Whether all that is left of an order is to say what came of it."""
        record = self.installed.record
        return row.id in {each.task for each in (record.probation, record.ended) if each}

    def needed(self, rows: list[TaskRow]) -> set[str]:
        """Objects that are the answer to an open order (of ``rows``), which was not noted yet."""
        ended = self.installed.record.ended
        if ended is None or ended.answer is None or ended.task not in {row.id for row in rows}:
            return set()
        return {ended.answer.sha256}

    def tidy(self, rows: list[TaskRow]) -> None:
        """Remove bundles that no open order (of ``rows``) and no record needs."""
        needed = self.installed.names()
        for row in rows:
            needed |= {one["sha256"] for one in row.body.get("objects", ()) if row.answer is None}
        for path in self.installed.folder.glob("*.flwb"):
            if path.stem not in needed:
                path.unlink(missing_ok=True)

    def status(self) -> dict[str, Any]:
        """How it stands, for the local API."""
        record, aside = self.installed.record, self.installed.aside
        current, previous, probation = record.current, record.previous, record.probation
        stands_in = f"; {previous.sha256[:12]} predicts now" if previous else ""
        return {
            "current": current and current.sha256,
            "previous": previous and previous.sha256,
            "probation": None
            if probation is None
            else f"{probation.made} of {probation.predictions} predictions, or "
            f"{probation.seconds:g} s",
            **({} if aside is None else {"fault": f"{aside}{stands_in}"}),
        }

    # ------------------------------------------------------------------------------------------

    def _install(self, row: TaskRow, task: Task, ask: Ask) -> Done | Failed | None:
        for one in task.objects:
            self._lay(one)
        current = self.installed.record.current
        same = current is not None and current.sha256 == task.objects[0].sha256
        found = self._proved(task, ask)
        if isinstance(found, Failed):
            return found
        self.installed.good(task.objects[0].sha256)
        self._reports.proved()
        if same:  # another order installed it, and it was confirmed
            return _answer(found.payload)
        order = found.order
        place = Place(
            sha256=order.bundle,
            base=found.base,
            backbone=found.backbone,
            published=order.published,
            latency_limit=found.latency_limit,
        )
        self.installed.switch(row.id, place, order.predictions, order.seconds)
        _log.info("task %s: bundle %s predicts now, on probation", row.id[:8], order.bundle[:12])
        return self._conclude(task, ask) if self.installed.due() else None

    def _conclude(self, task: Task, ask: Ask) -> Done | Failed:
        """Let it prove itself once more: a quiet device has predicted nothing meanwhile."""
        aside = self.installed.aside  # it failed, and a full disk kept it from going back
        found = Failed(aside) if aside else self._proved(task, ask)
        if isinstance(found, Failed):
            return found if self.installed.back(found.error) else self._ended(found)
        self.installed.confirm(found.payload)
        return self._ended(_answer(found.payload))

    def _ended(self, otherwise: Done | Failed) -> Done | Failed:
        """What the record says came of it: a prediction may have failed in the meantime."""
        ended = self.installed.record.ended
        return otherwise if ended is None else _said(ended.reason, ended.answer)

    def _back(self, task: Task, row: TaskRow, ask: Ask) -> Done | Failed:
        found = ask(Do(BACK, task.payload.sha256, None), Ordered)
        if isinstance(found, Failed):
            return found
        current = self.installed.record.current
        if current is not None and current.sha256 == found.order.bundle:
            self.installed.back("an order to go back", row.id)
            _log.info("task %s: went back from bundle %s", row.id[:8], current.sha256[:12])
        return _answer(found.payload)

    def _proved(self, task: Task, ask: Ask) -> Proved | Failed:
        """What the process that learns found; its end is a reason too."""
        bundle = task.objects[0].sha256
        base = task.objects[1].sha256 if len(task.objects) > 1 else None
        record = self.installed.record
        now = record.current
        if now is not None and now.sha256 == bundle:
            now = record.previous  # what it replaced
        candidate = Candidate(
            path=str(self.installed.path(bundle)),
            base=None if base is None else str(self.installed.path(base)),
            published=None if now is None else now.published,
            backbone=None if now is None else now.backbone,
        )
        try:
            return ask(Prove(task.payload.sha256, candidate), Proved)
        except WorkError as error:
            return Failed(f"its self-test: {error}")

    def _lay(self, one: ObjectRef) -> None:
        """Move a pulled object beside the bundles: it is whole, and on the disk."""
        if not self.has(one.sha256):
            self._objects.path(one.sha256).rename(self.installed.path(one.sha256))
            sync_folder(self.installed.folder)


def _said(reason: str | None, answer: ObjectRef | None) -> Done | Failed:
    if answer is None or reason is not None:
        return Failed(reason or "went back")
    return _answer(answer)


def _answer(payload: ObjectRef) -> Done:
    return Done(payload, (), None)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
