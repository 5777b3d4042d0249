"""Which bundle a device predicts with: one record, written whole or not at all."""

import logging
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from client.messages import Served
from client.once import Once
from client.store import Store, boot_id
from schemas.base import Strict
from schemas.plan import Digest
from schemas.wire import Id, ObjectRef

_log = logging.getLogger("flwr_edge.installed")
_KEY: Final = "bundle"
_STARTS: Final = 3  # of the daemon while a bundle is on probation; with one more it goes back
_SLOW: Final = 3  # predictions over the limit
_NOTED: Final = 60.0  # seconds between two counts on the disk: an SD card wears
_ASIDE: Final = 600.0  # seconds until a bundle that could not be used is tried once more


class Place(Strict):
    """A bundle that lies here."""

    sha256: Digest
    base: Digest | None = None
    backbone: Digest | None = None
    published: float = 0.0
    latency_limit: float = Field(1e6, gt=0, description="Microseconds.")


class Probation(Strict):
    """How the bundle that was switched to stands; ``since`` is on the clock of ``boot``."""

    task: Id
    since: float
    boot: str
    seconds: float
    predictions: int
    made: int = 0
    slow: int = 0
    starts: int = 0


class Ended(Strict):
    """What came of the last order, until its answer is noted: why not, or the answer."""

    task: Id
    reason: str | None = None
    answer: ObjectRef | None = None


class Record(Strict):
    """The device's bundles.

    Attributes
    ----------
    current
        What predicts; None: the bundle of the configuration, or the last task's model.
    previous
        The last good one, to which it goes back; None as above.
    """

    current: Place | None = None
    previous: Place | None = None
    probation: Probation | None = None
    ended: Ended | None = None


@dataclass(frozen=True)
class Aside:
    """A bundle that cannot be used now, though it stood its probation; not on the disk."""

    sha256: str
    reason: str
    until: float


class Installed:
    """The record, in the device's store: each change is one transaction, on the disk at once.

    What is only counted during a probation is on the disk within a minute. A power cut loses the
    counts since: then the probation asks for so many predictions more, or ends by its time, which
    is not counted but measured. It cannot make one shorter. Slow predictions and starts, which
    send a bundle back, are written at once; where the disk is full, they count until the end of
    the daemon.

    Parameters
    ----------
    store : Store
    folder : Path
        Of the bundles' files, named by their SHA-256; made where it is missing.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self.folder = store, folder
        self._lock = threading.RLock()
        self._boot = boot_id()
        self._noted, self._aside = -_NOTED, Aside("", "", 0.0)
        self._trouble = Once(_log)
        folder.mkdir(parents=True, exist_ok=True)
        self.record = Record.model_validate(store.get(_KEY, {}))

    def path(self, sha: str) -> Path:
        """Where a bundle lies, or would."""
        return self.folder / f"{sha}.flwb"

    def serving(self) -> Served | None:
        """What to predict with; None where no order named it.

        The last good one stands in for a bundle that was put aside.
        """
        here = self.record
        place = here.current if self.aside is None else here.previous
        if place is None:
            return None
        base = None if place.base is None else str(self.path(place.base))
        return Served(place.sha256, str(self.path(place.sha256)), base)

    @property
    def aside(self) -> str | None:
        """Why the bundle of the record is not used now; None where it is."""
        place, found = self.record.current, self._aside
        if place is None or place.sha256 != found.sha256 or self._store.clock() >= found.until:
            return None
        return found.reason

    def put_aside(self, sha: str, reason: str) -> bool:
        """Predict with the last good bundle for now; whether this one was the record's."""
        with self._lock:
            place = self.record.current
            if place is None or place.sha256 != sha or self.aside is not None:
                return False
            if self._aside.sha256 != sha:
                _log.error("bundle %s cannot be used now: %s", sha[:12], reason)
            self._aside = Aside(sha, reason[:500], self._store.clock() + _ASIDE)
            return True

    def good(self, sha: str) -> None:
        """Use a bundle again that was put aside: it has proved itself meanwhile."""
        with self._lock:
            if self._aside.sha256 == sha:
                self._aside = Aside("", "", 0.0)

    def started(self) -> None:
        """Count a start of the daemon: a bundle with which it does not stay up goes back."""
        with self._lock:
            found = self.record.probation
            if found is None:
                return
            since = found.since if found.boot == self._boot else self._store.clock()
            starts = found.starts + 1
            changed = {"starts": starts, "since": since, "boot": self._boot}
            self._count(found.model_copy(update=changed), at_once=True)
            if starts <= _STARTS:
                return
            reason = f"the daemon was started {starts} times during its probation"
            try:
                self.back(reason)
            except sqlite3.Error as error:  # a full disk: the device must be reached all the same
                self._trouble(error, "a bundle's way back cannot be noted")
                self.put_aside(self.record.current.sha256 if self.record.current else "", reason)

    def switch(self, task: str, place: Place, predictions: int, seconds: float) -> None:
        """Predict with another bundle from now on, on probation."""
        with self._lock:
            probation = Probation(
                task=task,
                since=self._store.clock(),
                boot=self._boot,
                seconds=seconds,
                predictions=predictions,
            )
            before = self.record.current
            self._change(current=place, previous=before, probation=probation, ended=None)

    def confirm(self, answer: ObjectRef) -> None:
        """End the probation well."""
        with self._lock:
            if (found := self.record.probation) is not None:
                self._change(probation=None, ended=Ended(task=found.task, answer=answer))

    def back(self, reason: str, task: str | None = None) -> bool:
        """Predict with the last good bundle again; whether there was something to go back from.

        Parameters
        ----------
        reason : str
            For the server.
        task : str, optional
            Of an order to go back; else the bundle must be on probation.
        """
        with self._lock:
            here, found = self.record, self.record.probation
            if found is None and task is None:
                return False
            ended = Ended(task=found.task, reason=reason[:500]) if found else None
            self._change(current=here.previous, previous=None, probation=None, ended=ended)
            return True

    def predicted(self, sha: str, microseconds: float) -> str | None:
        """Count a prediction; the reason where it was one too slow."""
        with self._lock:
            found, place = self.record.probation, self.record.current
            if found is None or place is None or place.sha256 != sha:
                return None
            slow = found.slow + (microseconds > place.latency_limit)
            changed = found.model_copy(update={"made": found.made + 1, "slow": slow})
            last = changed.made >= changed.predictions
            self._count(changed, at_once=slow > found.slow or last)
            if slow < _SLOW:
                return None
            limit = f"at most {place.latency_limit:.0f} are allowed"
            return f"{slow} predictions were too slow, the last with {microseconds:.0f} us; {limit}"

    def on_probation(self, sha: str) -> bool:
        """Whether faults of this bundle count."""
        here = self.record
        return bool(here.probation and here.current and here.current.sha256 == sha)

    def due(self) -> bool:
        """Whether the probation, if there is one, is over."""
        found = self.record.probation
        if found is None:
            return False
        lasted = self._store.clock() - found.since
        return found.made >= found.predictions or lasted >= found.seconds

    def names(self) -> set[str]:
        """Of files that the record needs."""
        places = [place for place in (self.record.current, self.record.previous) if place]
        return {name for place in places for name in (place.sha256, place.base) if name}

    def _change(self, **changed: Any) -> None:
        new = self.record.model_copy(update=changed)
        self._store.set(_KEY, new.model_dump(mode="json"))
        self.record = new  # only once it is on the disk

    def _count(self, probation: Probation, *, at_once: bool) -> None:
        """Change counts, in memory first; a disk that does not take them harms no prediction."""
        self.record = self.record.model_copy(update={"probation": probation})
        now = time.monotonic()
        if not at_once and now - self._noted < _NOTED:
            return
        self._noted = now
        try:
            self._change()
            self._trouble.well()
        except sqlite3.Error as error:
            self._trouble(error, "how a bundle does on probation cannot be noted")
