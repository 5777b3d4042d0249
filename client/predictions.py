"""Predictions for programs on the device: of the last task's model, or of a bundle."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from client.installer import Installer
from client.messages import (
    Failed,
    Kind,
    Predict,
    Predicted,
    Served,
    Sound,
    Timed,
    read_answer,
    write_answer,
    write_request,
)
from client.once import Once
from client.store import Store
from client.work import BusyError, Stopped, WorkError, WorkProcess

_log = logging.getLogger("flwr_edge.predictions")
_SECONDS: Final = 60.0
_NOTED: Final = 60.0  # seconds between two predictions on the disk: an SD card wears


class Predictions:
    """Answers ``predict`` and ``prediction`` of the local API.

    Parameters
    ----------
    store : Store
        Names the model; keeps the last prediction, a minute old at most: that is what a power cut
        takes, or the daemon's end, and each says when it was made.
    work : WorkProcess
        Predicts, between tasks.
    bundles : Installer
        Names the bundle that was rolled out, if one was, and hears how it does.
    stopping : callable() -> bool
    bundled : bool
        Whether the model is a bundle's, which ``work`` knows.
    """

    def __init__(
        self,
        store: Store,
        work: WorkProcess,
        bundles: Installer,
        stopping: Callable[[], bool],
        *,
        bundled: bool = False,
    ) -> None:
        self._store, self._work, self._stopping, self._bundled = store, work, stopping, bundled
        self._bundles, self._trouble = bundles, Once(_log)
        self._last: dict[str, Any] | None = None
        self._noted = -_NOTED

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The class of ``window`` (time × channels), or of the newest window here.

        Raises
        ------
        RuntimeError
            Where there is no model yet, it learns at the moment, or the window does not fit.
        """
        answer = self._answer(asked.get("window"))
        if isinstance(answer, Failed):
            raise RuntimeError(answer.error)  # noqa: TRY004 (no matter of types: why there is none)
        last = {"at": time.time(), **write_answer(answer)}
        if asked.get("window") is None:
            self._last = last
            self._note(last)
        return last

    def last(self, _: dict[str, Any]) -> dict[str, Any]:
        """What was last predicted of the newest window, and when."""
        if self._last is not None:
            return self._last
        found: dict[str, Any] = self._store.get("prediction", {})
        return found

    # ------------------------------------------------------------------------------------------

    def _note(self, last: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._noted < _NOTED:
            return
        self._noted = now
        try:
            self._store.set("prediction", last)
            self._trouble.well()
        except sqlite3.Error as error:  # it was made all the same
            self._trouble(error, "the last prediction cannot be noted")

    def _answer(self, window: object) -> Predicted | Failed:
        bundle = self._bundles.installed.serving()
        if bundle is None:
            return self._unrolled(window)
        try:
            answer = self._ask(Predict(None, window, bundle), Timed)
        except BusyError:
            raise
        except WorkError as error:
            if self._blameless(window, bundle):
                raise
            if not self._bundles.fault(bundle.sha256, f"in a prediction: {error}"):
                raise
            return self._answer(window)
        if isinstance(answer, Failed):
            why = f"in a prediction: {answer.error}"
            if answer.fault and self._bundles.unusable(bundle.sha256, why):
                return self._answer(window)  # by the last good one
            return answer
        slow = self._bundles.installed.predicted(bundle.sha256, answer.microseconds)
        if slow is not None:
            self._bundles.fault(bundle.sha256, slow)
        return answer

    def _blameless(self, window: object, bundle: Served) -> bool:
        """Whether a bundle whose prediction ended the process may stay.

        A program on this device may give any window, and is not to end a roll-out with it: the
        bundle answers its own reference input before it is judged.
        """
        if self._stopping():
            return True
        if window is None or not self._bundles.installed.on_probation(bundle.sha256):
            return False
        try:
            found = self._ask(Predict(None, None, bundle, reference=True), Sound)
        except BusyError:
            return True
        except WorkError:
            return self._stopping()
        return not (isinstance(found, Failed) and found.fault)

    def _unrolled(self, window: object) -> Predicted | Failed:
        """By the configuration's bundle, or the last task's model."""
        model = None if self._bundled else self._store.get("model")
        if model is None and not self._bundled:
            aside = self._bundles.installed.aside
            raise RuntimeError(aside or "no model yet: it comes with the first task")
        return self._ask(Predict(model, window), Predicted)

    def _ask(self, request: Predict, kind: type[Kind]) -> Kind | Failed:
        asked = write_request(request)
        try:
            said = self._work.ask(asked, _SECONDS, self._stopping, patience=5.0)
        except Stopped:
            raise WorkError("the daemon stops") from None
        return read_answer(kind, said)
