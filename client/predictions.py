"""Predictions for programs on the device: of the last task's model, or of a bundle."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from client.installer import Installer
from client.store import Store
from client.work import BusyError, Stopped, WorkError, WorkProcess

_log = logging.getLogger("flwr_edge.predictions")
_SECONDS: Final = 60.0


class Predictions:
    """Answers ``predict`` and ``prediction`` of the local API.

    Parameters
    ----------
    store : Store
        Names the model; keeps the last prediction.
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
        self._bundles = bundles

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
            self._store.set("prediction", last)
        return last

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
            if self._stopping() or not self._bundles.fault(sha, f"in a prediction: {error}"):
                raise
            return self._answer(window)
        if answer.get("fault") and self._bundles.fault(sha, f"in a prediction: {answer['error']}"):
            return self._answer(window)  # by the last good one
        if "error" not in answer:
            slow = self._bundles.installed.predicted(sha, answer["microseconds"])
            if slow is not None:
                self._bundles.fault(sha, slow)
        return answer

    def _asked(self, window: Any, bundle: dict[str, Any] | None) -> dict[str, Any]:
        bundled = self._bundled or bundle is not None
        model = None if bundled else self._store.get("model")
        if model is None and not bundled:
            raise RuntimeError("no model yet: it comes with the first task")
        request = {"action": "predict", "model": model, "window": window, "bundle": bundle}
        try:
            return self._work.ask(request, _SECONDS, self._stopping, patience=5.0)
        except Stopped:
            raise WorkError("the daemon stops") from None

    def last(self, _: dict[str, Any]) -> dict[str, Any]:
        """What was last predicted of the newest window, and when."""
        found: dict[str, Any] = self._store.get("prediction", {})
        return found
