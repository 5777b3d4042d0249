"""Tells the server of a bundle that stood its probation and cannot be used any more, or can again.

It is said of the order that installed it, in words that every server knows: ``failed`` once its
bundle was put aside, and the ``result`` of then once it predicts again. Both are repeated until the
server says that it heard.
"""

import logging
import sqlite3
from typing import Any, Final

from client.installed import Installed
from client.once import Once
from client.store import Store
from schemas.base import Strict
from schemas.wire import MAX_TTL, Failed, Id, ObjectRef, Result

_log = logging.getLogger("flwr_edge.installer")
_KEY: Final = "bundle_reports"
_QUIET: Final = 3600.0  # seconds without a complaint, until a bundle is in use again


class Told(Strict):
    """What the server was told last of a bundle's order; ``fault``: why it is not used."""

    task: Id
    answer: ObjectRef
    fault: str | None = None


class Reports:
    """Of one device's bundles; ``look`` is for the runner's thread.

    Parameters
    ----------
    store : Store
    installed : Installed
    """

    def __init__(self, store: Store, installed: Installed) -> None:
        self._store, self._installed = store, installed
        self._blamed, self._trouble = store.clock(), Once(_log)
        found = store.get(_KEY, {})
        self._told = {sha: Told.model_validate(said) for sha, said in found.items()}

    def blamed(self) -> None:
        """Note that the bundle in use was complained of just now."""
        self._blamed = self._store.clock()

    def proved(self) -> None:
        """Note that the bundle in use passed its self-test just now."""
        self._blamed = self._store.clock() - _QUIET

    def look(self) -> None:
        """Say what has changed; what a full disk cannot keep is said once it can."""
        record = self._installed.record
        if record.current is None or record.probation is not None:
            return
        try:
            self._look(record.current.sha256)
            self._trouble.well()
        except sqlite3.Error as error:
            self._trouble(error, "that a bundle is not used cannot be noted, nor said")

    def _look(self, sha: str) -> None:
        told, ended = self._told.get(sha), self._installed.record.ended
        known = None if told is None else told.task
        if ended is not None and ended.answer is not None and ended.task != known:
            told = self._noted(sha, Told(task=ended.task, answer=ended.answer))  # installed by it
        if told is None:
            return  # no order's: there is nobody to tell
        fault = self._installed.aside
        quiet = self._store.clock() - self._blamed >= _QUIET
        if fault is not None and told.fault is None:
            self._say(sha, told.model_copy(update={"fault": fault}))
        elif fault is None and told.fault is not None and quiet:
            self._say(sha, told.model_copy(update={"fault": None}))

    def _say(self, sha: str, told: Told) -> None:
        """Open the order again with another answer, which the runner says from now on."""
        said = Result(payload=told.answer) if told.fault is None else Failed(reason=told.fault)
        answer, every = said.model_dump(mode="json"), self._with(sha, told)
        if self._store.answer_again(told.task, answer, MAX_TTL, _KEY, every):
            self._told[sha] = told
        # Else what was said before was not heard yet: one after the other.

    def _noted(self, sha: str, told: Told) -> Told:
        self._store.set(_KEY, self._with(sha, told))
        self._told[sha] = told
        return told

    def _with(self, sha: str, told: Told) -> dict[str, Any]:
        """All that is told, of bundles that are still here."""
        names = self._installed.names()
        self._told = {name: said for name, said in self._told.items() if name in names}
        every = {**self._told, sha: told}
        return {name: said.model_dump(mode="json") for name, said in every.items()}
