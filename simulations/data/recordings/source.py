"""The data source ``recordings``: a folder of files as sensors and phones write them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

from simulations.data.arrays import MAX_BYTES
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.paths import configured
from simulations.data.recordings import clock, columns
from simulations.data.recordings.columns import Roles
from simulations.data.recordings.cutting import Cut, cut, in_classes
from simulations.data.recordings.found import File, files_at
from simulations.data.recordings.labels import Labels
from simulations.data.recordings.options import Options
from simulations.data.recordings.stretches import Raw
from simulations.data.recordings.table import Table, read


@dataclass
class _Reading:
    """What is known while files are read."""

    labels: Labels
    roles: Roles | None = None
    first: str = ""
    raws: list[Raw] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    of_files: dict[str, list[str]] = field(default_factory=dict)
    """Files by what is noted of them."""
    size: int = 0

    def noted(self) -> list[str]:
        """All notes; what many files have in common is one."""
        return self.notes + [
            f"{files[0]}: {note}"
            if len(files) == 1
            else f"{files[0]} and {len(files) - 1} more files: {note}"
            for note, files in self.of_files.items()
        ]


class RecordingsSource(DataSource):
    """CSV, TSV (both also ``.gz``) and Parquet files, one a person or a recording.

    ``data.path`` is a file or a folder, and those below it. Time, channels, labels and persons are
    found by the columns' names and the files' places; ``[data.options]`` says what is not.

    Each stretch of a file without a gap is a stream, brought to one rate by linear interpolation.
    A sample has the label of the nearest line. A window has the label that ``agreement`` of its
    samples have; a window without such a majority is left out. Empty labels are unknown. A
    person's streams are in the order of their times, where those are dates, or of file names.
    Files are read one at a time, and kept as float32.
    """

    class Parameters(Options):
        """The table [data.options]."""

    ignores = frozenset({"source_days", "client_days", "held_out"})
    max_bytes = MAX_BYTES

    def load(self) -> Recordings:
        """Return all windows, float32."""
        path = configured(self.config, self.folder)
        if path is None:
            raise DataError("data.path: missing; data.kind = 'recordings' needs a folder or a file")
        files, notes = files_at(path, self.options.pattern)
        reading = _Reading(Labels(self.options), notes=list(notes))
        for file in files:
            self._read(file, reading)
        raws = self._chosen(reading)
        hz = self.options.hz or clock.rounded(median(raw.hz for raw in raws))
        length = max(2, round(self.config.window_seconds * hz))
        found = cut(raws, hz, length, self.config, self.options, self.max_bytes)
        reading.notes += [*self._rates(raws, hz), *reading.labels.notes(), *found.notes]
        return self._recordings(str(path), found, reading, hz)

    def _recordings(self, where: str, found: Cut, reading: _Reading, hz: float) -> Recordings:
        assert reading.roles
        found, persons, classes, notes = in_classes(
            where, found, reading.labels.names, self.options.least_windows
        )
        return Recordings(
            x=found.x,
            y=found.y,
            person=found.person,
            stream=found.stream,
            start=found.start,
            persons=persons,
            classes=classes,
            channels=reading.roles.channels,
            hz=hz,
            magnitudes=columns.magnitudes(reading.roles.channels, self.options),
            notes=(*reading.noted(), *notes),
        )

    def _read(self, file: File, reading: _Reading) -> None:
        """Take one file in."""
        table = read(file.path, file.name, self.options)
        for note in table.notes:
            reading.of_files.setdefault(note, []).append(file.name)
        if reading.roles is None:
            reading.roles = columns.roles_in(
                table, self.options, label_in_name=file.label is not None
            )
            reading.first = file.name
            if reading.roles.others:
                reading.notes.append(f"not taken: columns {', '.join(reading.roles.others)}")
        else:
            columns.check(table, reading.roles, reading.first, self.options)
        for raw in self._raws(file, table, reading):
            reading.size += raw.values.nbytes
            if reading.size > self.max_bytes:
                raise DataError(
                    f"{file.name}: samples so far take over {self.max_bytes:,} bytes; name fewer "
                    "channels, or fewer files"
                )
            reading.raws.append(raw)

    def _raws(self, file: File, table: Table, reading: _Reading) -> Iterator[Raw]:
        roles = reading.roles
        assert roles
        time, absolute = self._time(table, roles)
        values = np.stack([table.measured(name) for name in roles.channels], 1)
        if file.label is not None and self.options.label is None:
            codes = np.full(table.rows, reading.labels.code(file.name, file.label))
        else:
            codes = reading.labels.codes(file.name, table.texts(roles.label or ""))
        for person, rows in self._persons(file, table, roles):
            for piece in clock.pieces(table, rows, time, self.options):
                own = clock.rate(time[piece])
                if own is not None:
                    yield Raw(
                        person, file.name, time[piece], values[piece], codes[piece], absolute, own
                    )

    def _time(self, table: Table, roles: Roles) -> tuple[NDArray[np.int64], bool]:
        if roles.time is None:
            seconds = np.arange(table.rows) / self.options.hz
            return np.round(seconds * 1e9).astype(np.int64), False
        return clock.nanoseconds(table, roles.time, self.options)

    def _persons(
        self, file: File, table: Table, roles: Roles
    ) -> Iterator[tuple[str, NDArray[np.intp]]]:
        """Rows by person: all of them, unless a column says who."""
        said = self.options.pattern is not None and "{person}" in self.options.pattern
        if roles.person is None or (said and self.options.person is None):
            yield file.person, np.arange(table.rows)
            return
        names = np.array([name or "" for name in table.texts(roles.person).to_pylist()])
        if (names == "").any():
            row = int(np.argmax(names == ""))
            raise DataError(
                f"{table.where(row)}: column {roles.person!r}: empty; every line needs its person"
            )
        for name in np.unique(names):
            yield str(name), np.flatnonzero(names == name)

    def _chosen(self, reading: _Reading) -> list[Raw]:
        """All but the persons who are left out."""
        persons = {raw.person for raw in reading.raws}
        if unknown := set(self.options.skip_persons) - persons:
            raise DataError(
                f"data.options.skip_persons: no person {min(unknown)!r}; there are "
                f"{', '.join(sorted(persons)[:20])}"
            )
        raws = [raw for raw in reading.raws if raw.person not in self.options.skip_persons]
        if not raws:
            raise DataError(f"{reading.first}: nobody has three samples or more")
        return raws

    def _rates(self, raws: list[Raw], hz: float) -> list[str]:
        """Tell whose own rate is another."""
        others = [raw for raw in raws if abs(raw.hz / hz - 1) > 0.1]
        if not others:
            return []
        most = max(others, key=lambda raw: abs(np.log(raw.hz / hz)))
        return [
            (
                f"{len(others)} of {len(raws)} recordings have another rate, such as {most.file} "
                f"({most.hz:.3g} Hz); brought to {hz:g} Hz without a low-pass"
            )
        ]
