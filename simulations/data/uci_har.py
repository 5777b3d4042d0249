"""UCI HAR: a phone at the waist, from the official archive."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.data.archive import Archive, open_archive
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.download import fetch
from simulations.data.facts import SIX_CHANNEL_MAGNITUDES, SIX_CHANNELS, UCI_HAR_NOTE
from simulations.data.paths import configured

HZ = 50.0
LENGTH = 128
SIGNALS = tuple(f"{sensor}_{axis}" for sensor in ("total_acc", "body_gyro") for axis in "xyz")


@dataclass(frozen=True)
class Expected:
    """Counts of the whole set."""

    windows: int = 10_299
    persons: int = 30
    classes: int = 6


class UciHarSource(DataSource):
    """Thirty persons, six activities, total acceleration and gyroscope at 50 Hz, 2.56 s a window.

    ``data.path`` names the archive (as downloaded, or the zip within it) or the folder it was
    extracted to; without it, the archive is downloaded once.

    The set is cut already: ``data.window_seconds`` and ``data.overlap`` do not change it.
    Neighbours overlap by half while a person goes on with an activity. The archive does not say
    where its recordings begin and end, so that all windows of a person are taken to be one stream,
    in file order: two that follow each other count as overlapping, even across activities.
    """

    ignores = frozenset({"window_seconds", "overlap", "source_days", "client_days", "held_out"})
    url = (
        "https://archive.ics.uci.edu/static/public/240/"
        "human+activity+recognition+using+smartphones.zip"
    )
    expected = Expected()

    def load(self) -> Recordings:
        """Return all windows, float32."""
        path = configured(self.config, self.folder) or fetch(self.url, "uci-har.zip")
        with open_archive(path, "UCI HAR Dataset.zip") as archive:
            parts = [_part(archive, name) for name in ("train", "test")]
            codes, classes = _classes(archive)
        x, label, subject = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        numbers, person = np.unique(subject, return_inverse=True)
        self._check(archive, Expected(len(x), len(numbers), len(classes)))
        return Recordings(
            x=x,
            y=_indices(archive, label, codes),
            person=person.astype(np.int64),
            stream=person.astype(np.int64),
            start=np.arange(len(x), dtype=np.int64) * (LENGTH // 2),
            persons=tuple(str(number) for number in numbers),
            classes=classes,
            channels=SIX_CHANNELS,
            hz=HZ,
            magnitudes=SIX_CHANNEL_MAGNITUDES,
            notes=(UCI_HAR_NOTE,),
        )

    def _check(self, archive: Archive, found: Expected) -> None:
        if found != self.expected:
            raise DataError(
                f"{archive.where}: {found.windows} windows of {found.persons} persons and "
                f"{found.classes} activities; UCI HAR has {self.expected.windows} of "
                f"{self.expected.persons} and {self.expected.classes}"
            )


def _part(
    archive: Archive, part: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return windows (windows, 128, 6), activity codes and subject numbers of train or test."""
    y = _table(archive, f"{part}/y_{part}.txt", np.int64, 1)[:, 0]
    subject = _table(archive, f"{part}/subject_{part}.txt", np.int64, 1)[:, 0]
    x = np.empty((len(y), LENGTH, len(SIGNALS)), np.float32)
    for channel, signal in enumerate(SIGNALS):
        ending = f"{part}/Inertial Signals/{signal}_{part}.txt"
        table = _table(archive, ending, np.float32, LENGTH)
        if not len(table) == len(subject) == len(y):
            raise DataError(
                f"{archive.where}: {ending} has {len(table)} rows, y_{part}.txt {len(y)} and "
                f"subject_{part}.txt {len(subject)}; expected as many in each"
            )
        x[:, :, channel] = table
    return x, y, subject


def _table(archive: Archive, ending: str, dtype: type, columns: int) -> NDArray[Any]:
    """Return a file of numbers, (rows, columns)."""
    name = archive.find(ending)
    content = io.BytesIO(archive.read(name))
    try:
        table: NDArray[Any] = np.loadtxt(content, dtype=dtype, ndmin=2)
    except ValueError as error:
        raise DataError(f"{archive.where}: {name}: not a table of numbers: {error}") from error
    if table.shape[1] != columns or not np.isfinite(table).all():
        raise DataError(
            f"{archive.where}: {name}: {table.shape[1]} columns; expected {columns}, all finite"
        )
    return table


def _classes(archive: Archive) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the activities' codes and names."""
    name = archive.find("activity_labels.txt")
    content = archive.read(name)
    try:
        lines = [line.split() for line in content.decode().splitlines() if line.strip()]
        return np.array([int(code) for code, _ in lines]), tuple(label for _, label in lines)
    except ValueError as error:
        raise DataError(f"{archive.where}: {name}: expected lines such as '1 WALKING'") from error


def _indices(
    archive: Archive, label: NDArray[np.int64], codes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the activities' indices."""
    index = {int(code): place for place, code in enumerate(codes)}
    foreign = set(label.tolist()) - set(index)
    if foreign:
        raise DataError(
            f"{archive.where}: activity {min(foreign)} is not in activity_labels.txt, which has "
            f"{sorted(index)}"
        )
    return np.array([index[code] for code in label.tolist()], np.int64)
