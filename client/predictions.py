"""Predictions for programs on the device: of the last task's model, or of a bundle."""

import logging
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final

from client.installer import Installer
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
        if "error" in answer:
            raise RuntimeError(answer["error"])
        last = {"at": time.time(), **answer}
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

    def _answer(self, window: Any) -> dict[str, Any]:
        bundle = self._bundles.installed.serving()
        if bundle is None:
            return self._asked(window, None)
        sha = bundle["sha256"]
        try:
            answer = self._asked(window, bundle)
        except BusyError:
            raise
        except WorkError as error:
            if self._blameless(window, bundle):
                raise
            if not self._bundles.fault(sha, f"in a prediction: {error}"):
                raise
            return self._answer(window)
        if answer.get("fault"):
            why = f"in a prediction: {answer['error']}"
            if self._bundles.unusable(sha, why):
                return self._answer(window)  # by the last good one
        if "error" not in answer:
            slow = self._bundles.installed.predicted(sha, answer["microseconds"])
            if slow is not None:
                self._bundles.fault(sha, slow)
        return answer

    def _blameless(self, window: Any, bundle: dict[str, Any]) -> bool:
        """Whether a bundle whose prediction ended the process may stay.

        A program on this device may give any window, and is not to end a roll-out with it: the
        bundle answers its own reference input before it is judged.
        """
        if self._stopping():
            return True
        if window is None or not self._bundles.installed.on_probation(bundle["sha256"]):
            return False
        try:
            return not self._ask(None, None, bundle, reference=True).get("fault")
        except BusyError:
            return True
        except WorkError:
            return self._stopping()

    def _asked(self, window: Any, bundle: dict[str, Any] | None) -> dict[str, Any]:
        bundled = self._bundled or bundle is not None
        model = None if bundled else self._store.get("model")
        if model is None and not bundled:
            aside = self._bundles.installed.aside
            raise RuntimeError(aside or "no model yet: it comes with the first task")
        return self._ask(model, window, bundle)

    def _ask(
        self, model: str | None, window: Any, bundle: dict[str, Any] | None, **more: Any
    ) -> dict[str, Any]:
        request = {"action": "predict", "model": model, "window": window, "bundle": bundle, **more}
        try:
            return self._work.ask(request, _SECONDS, self._stopping, patience=5.0)
        except Stopped:
            raise WorkError("the daemon stops") from None
