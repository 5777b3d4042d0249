"""WISDM 2019: a smartwatch, 51 persons and 18 activities, from the official archive."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.data.archive import Archive, open_archive
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.download import fetch
from simulations.data.facts import SIX_CHANNEL_MAGNITUDES, SIX_CHANNELS
from simulations.data.paths import configured
from simulations.data.resample import Samples, align
from simulations.data.windows import Stream, cut

HZ = 20.0
ACTIVITIES = dict(
    zip(
        "ABCDEFGHIJKLMOPQRS",
        (
            *("walking", "jogging", "stairs", "sitting", "standing", "typing", "teeth", "soup"),
            *("chips", "pasta", "drinking", "sandwich", "kicking", "catch", "dribbling"),
            *("writing", "clapping", "folding"),
        ),
        strict=True,
    )
)
"""By the archive's letters; it has no N."""

_LINE = np.dtype(
    [("person", "i4"), ("activity", "U2"), ("time", "i8"), ("x", "f4"), ("y", "f4"), ("z", "f4")]
)


@dataclass(frozen=True)
class Expected:
    """Counts of the whole set."""

    persons: int = 51
    classes: int = 18


class Wisdm51Source(DataSource):
    """Accelerometer and gyroscope of the watch, brought onto one grid of 20 Hz.

    ``data.path`` names the archive (as downloaded, or the zip within it) or the folder it was
    extracted to; without it, the archive is downloaded once. Windows of ``data.window_seconds`` are
    cut with ``data.overlap``: 5 and .5 are what the design's tables stand on.

    Each stretch in which both sensors were heard is a stream. A person of whom no window is left
    is named in the notes and left out.
    """

    ignores = frozenset({"source_days", "client_days", "held_out"})
    url = (
        "https://archive.ics.uci.edu/static/public/507/"
        "wisdm+smartphone+and+smartwatch+activity+and+biometrics+dataset.zip"
    )
    expected = Expected()

    def load(self) -> Recordings:
        """Return all windows, float32."""
        path = configured(self.config, self.folder) or fetch(self.url, "wisdm51.zip")
        with open_archive(path, "wisdm-dataset.zip") as archive:
            streams, names = self._streams(archive)
        length = max(2, round(self.config.window_seconds * HZ))
        streams = [stream for stream in streams if len(stream.signal) >= length]
        if not streams:
            raise DataError(
                f"{archive.where}: nowhere do both sensors of a person overlap for "
                f"data.window_seconds = {self.config.window_seconds:g}"
            )
        windows = cut(streams, length, self.config.overlap)
        present, person = np.unique(windows.person, return_inverse=True)
        persons = tuple(names[index] for index in present)
        return Recordings(
            x=windows.x,
            y=windows.y,
            person=person.astype(np.int64),
            stream=windows.stream,
            start=windows.start,
            persons=persons,
            classes=tuple(ACTIVITIES.values()),
            channels=SIX_CHANNELS,
            hz=HZ,
            magnitudes=SIX_CHANNEL_MAGNITUDES,
            notes=_missing(names, persons),
        )

    def _streams(self, archive: Archive) -> tuple[list[Stream], list[str]]:
        """Return all stretches by person and activity, and the persons' names."""
        accel, gyro = _files(archive, "accel"), _files(archive, "gyro")
        names = sorted(accel)
        if set(accel) != set(gyro) or len(names) != self.expected.persons:
            raise DataError(
                f"{archive.where}: watch files of {len(accel)} persons (accel) and {len(gyro)} "
                f"(gyro); WISDM has the same {self.expected.persons} in both"
            )
        streams: list[Stream] = []
        for person, name in enumerate(names):
            streams += _person(_read(archive, accel[name]), _read(archive, gyro[name]), person)
        found = len({stream.label for stream in streams})
        if found != self.expected.classes:
            raise DataError(
                f"{archive.where}: {found} activities; WISDM has {self.expected.classes}"
            )
        return streams, names


def _files(archive: Archive, sensor: str) -> dict[str, str]:
    """Return a sensor's files by person."""
    pattern = re.compile(rf"data_(\d+)_{sensor}_watch\.txt")
    paths = archive.under(f"raw/watch/{sensor}")
    matches = ((pattern.fullmatch(path.rpartition("/")[2]), path) for path in paths)
    return {match[1]: path for match, path in matches if match}


def _read(archive: Archive, name: str) -> dict[str, Samples]:
    """Return a file's samples by the activity's letter."""
    lines = _lines(archive, name)
    values = np.stack([lines[axis] for axis in "xyz"], axis=1)
    letters = np.char.strip(lines["activity"])
    foreign = set(letters.tolist()) - set(ACTIVITIES)
    others = set(lines["person"].tolist()) - {int(name.rpartition("data_")[2].split("_")[0])}
    if foreign:
        wrong = f"activity {min(foreign)!r}; expected the letters {''.join(ACTIVITIES)}"
    elif others:
        wrong = f"a line of person {min(others)}; expected the person of the file's name only"
    elif not np.isfinite(values).all():
        wrong = "a value that is not finite; expected numbers"
    else:
        time = lines["time"]
        return {a: Samples(time[letters == a], values[letters == a]) for a in np.unique(letters)}
    raise DataError(f"{archive.where}: {name}: {wrong}")


def _lines(archive: Archive, name: str) -> NDArray[np.void]:
    """Return a file's lines, at least one."""
    content = archive.read(name).replace(b";", b"")
    if not content.strip():
        raise DataError(f"{archive.where}: {name}: no lines; was its extraction cut off?")
    try:
        return np.loadtxt(io.BytesIO(content), dtype=_LINE, delimiter=",", comments=None, ndmin=1)
    except ValueError as error:
        raise DataError(
            f"{archive.where}: {name}: {error}; expected lines 'person,activity,time,x,y,z;'"
        ) from error


def _person(accel: dict[str, Samples], gyro: dict[str, Samples], person: int) -> list[Stream]:
    """Return a person's stretches, activity by activity."""
    return [
        Stream(signal, person, label)
        for label, letter in enumerate(ACTIVITIES)
        if letter in accel and letter in gyro
        for signal in align(accel[letter], gyro[letter], HZ)
    ]


def _missing(names: Iterable[str], persons: tuple[str, ...]) -> tuple[str, ...]:
    """Return the note on persons who have files but no window, if any."""
    silent = sorted(set(names) - set(persons))
    return (f"WISDM-51: no window of person {', '.join(silent)}: left out",) if silent else ()
