"""A training as it goes on, a line a round."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict

from server.fleet.training.folder import line_of
from server.outcome import RoundRecord
from server.transport.courier import DROPPED
from server.transport.mqtt_grid import ENDED_BEFORE


class Progress:
    """Says rounds; how long the rest takes is told from those of this life.

    Parameters
    ----------
    rounds : int
    say : callable
        Takes a line for whoever watches.
    """

    def __init__(self, rounds: int, say: Callable[[str], None]) -> None:
        self.rounds, self.last, self.note = rounds, 0, say
        self._began, self._first = time.monotonic(), 0
        self._ends = False

    def interrupt(self, *_: object) -> None:
        """End the run, as a signal's handler: at once, or where that was lost, after the round."""
        self._ends = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """A round was kept: end where that was asked; a finalizer swallows what is raised in it."""
        if self._ends:
            raise KeyboardInterrupt

    def heard(self, text: str) -> None:
        """Say what the grid says, but what shows, and what all devices say after a resume.

        Nor what devices say of tasks that the interrupted run withdrew a moment ago.
        """
        if self._ends and f": {DROPPED} (" in text:
            return
        if not text.startswith("connected to the broker") and ENDED_BEFORE not in text:
            self.note(text)

    def begin(self, done: int) -> None:
        """Rounds begin, after those that were done before."""
        self._began, self._first = time.monotonic(), done
        self.last = done

    def round(self, record: RoundRecord) -> None:
        """A round is over; the last is told again when all were evaluated."""
        score = "" if record.macro_f1 is None else f"  macro-F1 {record.macro_f1:.3f}"
        if record.round == self.last:
            self.note(f"evaluated{score or ': nobody has a labelled test window'}")
            return
        self.last, line = record.round, line_of(asdict(record))
        loss = "–" if math.isnan(record.loss) else f"{record.loss:.3f}"
        self.note(
            f"round {record.round}/{self.rounds}  asked {line['asked']}  "
            f"answered {line['answered']}  refused {line['refused']}  late {line['late']}  "
            f"loss {loss}{score}  {self._left()} left"
        )

    def _left(self) -> str:
        each = (time.monotonic() - self._began) / (self.last - self._first)
        minutes, seconds = divmod(round(each * (self.rounds - self.last)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
