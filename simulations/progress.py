"""Live progress of a run: round, cohort, loss, macro-F1 so far, updates a second, time left."""

import math
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from server.outcome import Outcome, RoundRecord


class Progress:
    """Shows a run on a terminal; elsewhere, a line now and then.

    Parameters
    ----------
    console : Console
        Where to; standard error leaves standard output to results.
    every : float
        Seconds between two lines where the console is no terminal.
    """

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self.console, self.every = console, every
        self.bar = Bar(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total} rounds  {task.fields[status]}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,
        )
        self._task: int | None = None
        self._name, self._rounds, self._said = "", 0, 0.0
        self._score: float | None = None
        self._updates = self._first = self._last = 0
        self._began = 0.0
        self._begun = self._cells = 0  # a sweep's cells

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """Say a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def cells(self, count: int) -> None:
        """A sweep of so many cells starts."""
        self._begun, self._cells = 0, count

    def cell(self, title: str) -> None:
        """A sweep's cell starts."""
        self._begun += 1
        self.note(f"[{self._begun}/{self._cells}] {title}")

    def cell_done(self) -> None:
        """It has its result; its strategy's end has been shown."""

    def begin(self, name: str, rounds: int) -> None:
        """A strategy starts."""
        self._first = self._last = 0
        self._name, self._rounds, self._score, self._updates = name, rounds, None, 0
        self._began = self._said = time.monotonic()
        self._task = self.bar.add_task(name, total=max(1, rounds), status="starting")

    def round(self, record: RoundRecord) -> None:
        """A round is over, or its people were evaluated."""
        if record.macro_f1 is not None:
            self._score = record.macro_f1
        elif record.round >= self._rounds:  # the result, which is told when all were evaluated
            self._score = None
        if record.round > self._last:  # the last round is told again when all were evaluated
            self._first = self._first or record.round  # a resumed run does not begin with 1
            self._last = record.round
            self._updates += record.cohort - record.failures
        status = self._status(record)
        if self._task is not None:
            self.bar.update(self._task, completed=record.round, status=status)  # type: ignore[arg-type]
        quiet = time.monotonic() - self._said < self.every
        if self._rounds and not self.console.is_terminal and not quiet:
            self._said = time.monotonic()
            self.note(f"{self._name}: round {record.round}/{self._rounds}  {status}")

    def people(self, number: int, scores: Mapping[str, float]) -> None:
        """People were evaluated after a round; not shown one by one."""

    def end(self, outcome: Outcome) -> None:
        """A strategy is done."""
        if self._task is not None:
            done = max(1, self._rounds)
            status = f"macro-F1 {_score(self._score)}  {outcome.wall_seconds:.0f} s"
            self.bar.update(self._task, completed=done, status=status)  # type: ignore[arg-type]
        if not self.console.is_terminal:
            self.note(
                f"{self._name}: macro-F1 {_score(self._score)} after {self._rounds} rounds, "
                f"{outcome.wall_seconds:.0f} s"
            )

    def _status(self, record: RoundRecord) -> str:
        spent = time.monotonic() - self._began
        rate = self._updates / spent if spent > 0 else 0.0
        done = self._last - self._first + 1
        left = spent / done * (self._rounds - record.round) if record.round else 0.0
        parts = [
            f"cohort {record.cohort}",
            f"loss {_score(None if math.isnan(record.loss) else record.loss)}",
            f"macro-F1 {_score(self._score)}",
            f"{rate:.1f} updates/s",
            f"{clock(left)} left",
        ]
        if record.failures:
            parts.insert(1, f"{record.failures} left out")
        return "  ".join(parts)


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
