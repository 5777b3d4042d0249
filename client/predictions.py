"""Predictions for programs on the device: of the last task's model, or of a bundle."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from client.store import Store
from client.work import Stopped, WorkError, WorkProcess

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
    stopping : callable() -> bool
    bundled : bool
        Whether the model is a bundle's, which ``work`` knows.
    """

    def __init__(
        self,
        store: Store,
        work: WorkProcess,
        stopping: Callable[[], bool],
        *,
        bundled: bool = False,
    ) -> None:
        self._store, self._work, self._stopping, self._bundled = store, work, stopping, bundled

    def predict(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The class of ``window`` (time × channels), or of the newest window here.

        Raises
        ------
        RuntimeError
            Where there is no model yet, it learns at the moment, or the window does not fit.
        """
        model = None if self._bundled else self._store.get("model")
        if model is None and not self._bundled:
            raise RuntimeError("no model yet: it comes with the first task")
        request = {"action": "predict", "model": model, "window": asked.get("window")}
        try:
            answer = self._work.ask(request, _SECONDS, self._stopping, patience=5.0)
        except Stopped:
            raise WorkError("the daemon stops") from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        last = {"at": time.time(), **answer}
        if asked.get("window") is None:
            self._store.set("prediction", last)
        return last

    def last(self, _: dict[str, Any]) -> dict[str, Any]:
        """What was last predicted of the newest window, and when."""
        found: dict[str, Any] = self._store.get("prediction", {})
        return found
