"""Predicts each window of a sensor source as it comes; no window is kept."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from client.bundle.predictor import Floats, NotFiniteError, Predictor
from client.sources.base import SensorSource, SourceSettings, Window
from client.sources.gather import checked_settings
from schemas.base import ConfigError


class LiveSink:
    """Where a source puts its windows.

    Parameters
    ----------
    predictor : Predictor
    count : int or None
        Windows after which it stops; None: never.
    tell : callable(number, logits)
        Is given each prediction.
    odd : callable(text)
        Is told what is odd, once a kind.
    """

    def __init__(
        self,
        predictor: Predictor,
        count: int | None,
        tell: Callable[[int, Floats], None],
        odd: Callable[[str], None],
    ) -> None:
        self._predictor, self._count, self._tell, self._odd = predictor, count, tell, odd
        wanted = predictor.manifest.input
        self._shape = (wanted.time, wanted.channels)
        self._lock = threading.Lock()  # a source may give from a thread of its own
        self.predicted = 0
        self.troubles: Counter[str] = Counter()
        self.done = threading.Event()

    def give(self, window: Window) -> str:
        """Predict a window; the kind of trouble where it cannot be, else nothing.

        Raises
        ------
        NotRunnableError
            Where the model is to blame: it fails its reference input too.
        """
        with self._lock:
            if self.done.is_set():
                return ""
            if window.shape != self._shape or len(window.values) != math.prod(self._shape):
                self.trouble("shape", f"a window of {window.shape}; expected {self._shape}")
                return "shape"
            values = np.array(window.values, np.float32).reshape(1, *self._shape)
            if not np.isfinite(values).all():
                self.trouble("not finite", "a window holds NaN or infinity")
                return "not finite"
            try:
                (logits,) = self._predictor.logits(values)
            except NotFiniteError as error:
                if not self._predictor.is_sound():
                    raise
                self.trouble("not finite", f"{error} of a window")  # a sensor's glitch
                return "not finite"
            self._tell(self.predicted, logits)
            self.predicted += 1
            if self.predicted == self._count:
                self.done.set()
            return ""

    def trouble(self, kind: str, detail: str) -> None:
        """Count something odd; the first of its kind is told."""
        self.troubles[kind] += 1
        if self.troubles[kind] == 1:
            self._odd(f"windows: {kind}: {detail} (said once)")

    def given(self, *, test: bool) -> int:
        """Nothing is kept from an earlier life."""
        return 0


def live_settings(
    source: type[SensorSource], settings: Mapping[str, Any], predictor_input: tuple[int, int]
) -> SourceSettings:
    """A source's settings; time and channels are the model's, and may be left out.

    Raises
    ------
    ConfigError
        Where they are wrong, or of windows of another shape.
    """
    time, channels = predictor_input
    checked = checked_settings(source, {"time": time, "channels": channels, **settings})
    if (checked.time, checked.channels) != predictor_input:
        raise ConfigError(
            "settings",
            [
                f"windows of {(checked.time, checked.channels)} (time, channels); the model takes "
                f"{predictor_input}"
            ],
        )
    return checked
