"""What stands between a source and the disk: every window is checked, what is odd is counted."""

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from client.ring import Ring
from client.sources.base import SourceSettings, Window
from client.sources.refused import Refused

log = logging.getLogger(__name__)

_STRETCH: Final = 32  # labelled windows that are held out, or not, together


class Intake:
    """Checks windows and keeps them in two rings, to learn from and to evaluate on.

    Parameters
    ----------
    settings : SourceSettings
    folder : Path
        Of the rings.
    clock : callable() -> float
        Seconds that only rise.

    Attributes
    ----------
    troubles : Counter
        What was odd, by kind.
    """

    def __init__(
        self, settings: SourceSettings, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self.troubles: Counter[str] = Counter()
        self._trouble: str | None = None
        train, test = settings.limits
        shape = (settings.time, settings.channels, settings.item)
        with contextlib.ExitStack() as undo:
            self._train = undo.enter_context(closing(Ring(folder / "train.ring", *shape, train)))
            self._test = undo.enter_context(closing(Ring(folder / "test.ring", *shape, test)))
            self._refused = undo.enter_context(closing(Refused(folder / "refused.count")))
            self._opened = undo.pop_all()
        self._labelled = self._train.ever + self._test.ever
        # A bucket of windows that may come at once; it fills with time.
        self._rate = settings.max_per_second
        self._room = self._full = max(1.0, 2 * (self._rate or 0))
        self._filled = clock()

    def give(self, window: Window) -> str:
        """Check a window and keep it; the kind of trouble where it was not kept, else nothing."""
        problem = self._wrong(window) or self._kept(window)
        if problem is None:
            return ""
        self.trouble(*problem)
        if problem[0] != "disk":  # which may be given again
            self._refused.add(test=window.test)
        return problem[0]

    def _kept(self, window: Window) -> tuple[str, str] | None:
        label = self._label(window.label)
        ring = self._test if window.test or self._held_out(label) else self._train
        try:
            ring.append(window.values, label)
        except ValueError as error:
            return "too large", str(error)
        except OSError as error:
            return "disk", f"a window is not kept: {error.strerror or error}"
        return None

    def trouble(self, kind: str, detail: str) -> None:
        """Count something odd; the first of its kind is logged."""
        self.troubles[kind] += 1
        self._trouble = f"{kind}: {detail}"
        if self.troubles[kind] == 1:
            log.warning("windows: %s: %s (said once, counted from here on)", kind, detail)

    def given(self, *, test: bool) -> int:
        """How many windows were ever given, kept or refused, in earlier lives too."""
        return (self._test if test else self._train).ever + self._refused.count(test=test)

    def status(self) -> dict[str, Any]:
        """What is held and what was odd, for people."""
        return {
            "held": len(self._train),
            "held_for_test": len(self._test),
            "ever": self._train.ever + self._test.ever,
            "last_at": max(self._train.last_at, self._test.last_at) or None,
            "troubles": dict(self.troubles),
            "last_trouble": self._trouble,
        }

    def close(self) -> None:
        """Bring all to the disk."""
        self._opened.close()

    def _wrong(self, window: Window) -> tuple[str, str] | None:
        expected = (self._settings.time, self._settings.channels)
        if window.shape != expected or len(window.values) != math.prod(expected):
            return "shape", f"a window of {window.shape}; expected {expected}"
        if not all(map(math.isfinite, window.values)):
            return "not finite", "a window holds NaN or infinity"
        if not self._has_room():
            return "too fast", f"more than {self._rate:g} windows a second; dropped"
        return None

    def _has_room(self) -> bool:
        if self._rate is None:
            return True
        now = self._clock()
        self._room = min(self._full, self._room + (now - self._filled) * self._rate)
        self._filled = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _label(self, label: int) -> int:
        classes = self._settings.classes
        if -1 <= label < (1 << 31 if classes is None else classes):
            return label
        self.trouble("label", f"a label of {label}; expected -1 to {(classes or 1 << 31) - 1}")
        return -1

    def _held_out(self, label: int) -> bool:
        every = self._settings.test_every
        if not every or label < 0:
            return False
        stretch = self._labelled // _STRETCH
        self._labelled += 1
        return stretch % every == every - 1
