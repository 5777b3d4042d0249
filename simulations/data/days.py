"""Recordings over many days: every day of a person is a device of its own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulations.data.arrays import read_arrays
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.fields import Fields
from simulations.data.npz import KEYS, NpzSource
from simulations.data.order import check_changes, check_overlap, numbered, positions
from simulations.data.paths import configured
from simulations.data.windows import step_of

MAX_DAY = 100_000


class DaysSource(DataSource):
    """As ``npz``, with ``day`` (windows,), whole, from 1: what was learned is met by later days.

    The first ``data.source_days`` days of every person are the sources', the next
    ``data.client_days`` are clients, and all later ones unseen: they meet only the result, without
    labels. ``data.held_out`` names persons that are no source; then the others are nothing else. A
    day is named ``PERSON day DAY``. Without ``stream`` or ``run``, the windows of one day, class
    and ``trial`` (whole, optional) are one stream, in file order, each overlapping the next by
    ``data.overlap``; a file that is seen to overlap by more is refused, as ``npz`` refuses it.
    """

    ignores = frozenset({"window_seconds", "source_persons", "unseen_persons"})
    max_bytes = NpzSource.max_bytes

    def load(self) -> Recordings:
        """Return all windows, by person and day."""
        path = configured(self.config, self.folder)
        if path is None:
            raise DataError("data.path: missing; data.kind = 'days' needs the path of an .npz file")
        keys = (*KEYS, "day", "trial")
        file = Fields(path, read_arrays(path, keys, self.max_bytes))
        x = file.windows()
        owner, owners = file.persons(len(x))
        file.check_finite(x, owner, owners)
        y, classes = file.labels(len(x))
        day = self._days(file, len(x))
        stream, start = self._times(file, x, numbered(owner, day), y)
        rows = self._rows(file, owner, owners, day)
        owner, day = owner[rows], day[rows]
        person = numbered(owner, day)
        first = np.unique(person, return_index=True)[1]
        lives = tuple((str(owners[owner[row]]), int(day[row])) for row in first)
        return Recordings(
            x=x[rows],
            y=y[rows],
            person=person,
            stream=stream[rows],
            start=start[rows],
            persons=tuple(f"{who} day {number}" for who, number in lives),
            classes=classes,
            channels=file.channels(x.shape[2]),
            hz=file.number("hz"),
            magnitudes=file.magnitudes(x.shape[2]),
            notes=(*file.notes(owners), "a device is one day of one person"),
            roles=tuple(self._role(number) for _, number in lives),
            lives=lives,
        )

    def _role(self, day: int) -> str:
        sources = self.config.source_days or 0
        if day <= sources:
            return "source"
        return "client" if day <= sources + (self.config.client_days or 0) else "unseen"

    def _rows(
        self,
        file: Fields,
        owner: NDArray[np.integer],
        owners: Sequence[str],
        day: NDArray[np.int64],
    ) -> NDArray[np.intp]:
        """Windows that have a role: all, unless persons are held out."""
        names = [str(name) for name in owners]
        if unknown := set(self.config.held_out) - set(names):
            raise DataError(
                f"data.held_out: no person {', '.join(sorted(unknown))} in {file.path}; there are "
                f"{', '.join(names)}"
            )
        held = np.array([name in self.config.held_out for name in names])
        if held.all():
            raise DataError("data.held_out: everybody is; nobody is left to be a source")
        late = day > (self.config.source_days or 0)
        return np.flatnonzero(~held.any() | (held[owner] == late))

    def _days(self, file: Fields, windows: int) -> NDArray[np.int64]:
        if not self.config.source_days or not self.config.client_days:
            raise DataError(
                "data.source_days and data.client_days: data.kind = 'days' needs both, 1 or more"
            )
        day = file.whole("day", windows)
        wrong = (day < 1) | (day > MAX_DAY)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise file.error("day", f"entry {at} is {day[at]}; expected a day from 1")
        last = self.config.source_days + self.config.client_days
        if (
            not (day <= self.config.source_days).any()
            or not ((day > self.config.source_days) & (day <= last)).any()
        ):
            raise file.error(
                "day",
                f"{day.min()} to {day.max()}: no window of a source's day (1 to "
                f"{self.config.source_days}) or of a client's (to {last})",
            )
        return day

    def _times(
        self, file: Fields, x: NDArray[np.floating], person: NDArray[np.int64], y: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if not file.arrays.keys().isdisjoint(("stream", "start", "run", "pos")):
            return file.times(x, person, y, self.config.overlap)
        trials = "trial" in file.arrays
        trial = file.whole("trial", len(x)) if trials else np.zeros(len(x), np.int64)
        stream = numbered(person, y, trial)
        position = positions(stream)
        step = step_of(x.shape[1], self.config.overlap)
        check_overlap(str(file.path), x, stream, position, step)
        check_changes(str(file.path), x, person, y)
        return stream, position * step
