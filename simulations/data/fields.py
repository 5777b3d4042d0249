"""What an ``.npz`` file's arrays mean, and what is wrong with them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.data.base import DataError
from simulations.data.checks import (
    check_finite,
    check_names,
    check_range,
    check_windows,
    whole,
)
from simulations.data.facts import SIX_CHANNEL_MAGNITUDES, SIX_CHANNELS, notes_for
from simulations.data.order import check_changes, check_overlap, numbered, positions
from simulations.data.windows import step_of

_MAX_START = 2**40
_MAX_NAMELESS = 1000
_NO_HZ = "the file gives no hz: one sample a second is assumed"


class Fields:
    """The arrays of one file; every method checks what it returns.

    Parameters
    ----------
    path : Path
        The file, for messages.
    arrays : dict[str, NDArray]
        Its arrays by key.
    """

    def __init__(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        self.path = path
        self.arrays = arrays

    def error(self, key: str, text: str) -> DataError:
        """Return the error that names file and key."""
        return DataError(f"{self.path}: {key}: {text}")

    def windows(self) -> NDArray[np.floating]:
        """Return X as float16 or float32, scaled."""
        x = self._get("X")
        check_windows(self.error, "X", x)
        scale = self.number("scale")
        if scale == 1 and x.dtype in (np.float16, np.float32):
            return x
        with np.errstate(over="ignore"):  # what becomes infinite is refused by check_finite
            return (x / np.float64(scale)).astype(np.float32)

    def check_finite(
        self, x: NDArray[np.floating], person: NDArray[np.int64], persons: tuple[str, ...]
    ) -> None:
        """Refuse NaN, infinity and what no sensor measures."""
        check_finite(self.error, "X", x, person, persons)

    def persons(self, windows: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return each window's person, and their names."""
        subject = self.whole("subject", windows)
        if "subjects" not in self.arrays:
            numbers, person = np.unique(subject, return_inverse=True)
            return person.astype(np.int64), tuple(str(number) for number in numbers)
        names = self.names("subjects")
        check_names(self.error, "subjects", names)
        self._check_range("subject", subject, 0, len(names), f"an index into {len(names)} subjects")
        return subject, names

    def labels(self, windows: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return each window's class, and their names."""
        y = self.whole("y", windows)
        if "classes" in self.arrays:
            names = self.names("classes")
            allowed = f"an index into {len(names)} classes, or -1 where unknown"
            self._check_range("y", y, -1, len(names), allowed)
            return y, names
        # Without names the largest index sets the network's outputs: a stray one must not.
        self._check_range("y", y, -1, _MAX_NAMELESS, "under 1000 where the key classes is missing")
        return y, tuple(str(number) for number in range(int(y.max(initial=-1)) + 1))

    def times(
        self,
        x: NDArray[np.floating],
        person: NDArray[np.int64],
        y: NDArray[np.int64],
        overlap: float,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each window's stream and start."""
        if self._pair("stream", "start"):
            stream = numbered(person, self.whole("stream", len(x)))
            start = self.whole("start", len(x))
            self._check_range("start", start, 0, _MAX_START, "the first sample, from 0")
            return stream, start
        step = step_of(x.shape[1], overlap)
        timed = self._pair("run", "pos")
        if timed:
            stream = numbered(person, self.whole("run", len(x)))
            position = self.whole("pos", len(x))
            self._check_range("pos", position, 0, _MAX_START // x.shape[1], "a place, from 0")
        else:
            stream = numbered(person, y)
            position = positions(stream)
        check_overlap(str(self.path), x, stream, position, step)
        if not timed:
            check_changes(str(self.path), x, person, y)
        return stream, position * step

    def magnitudes(self, channels: int) -> tuple[tuple[int, ...], ...]:
        """Return the groups of channels that are vectors."""
        if "magnitudes" not in self.arrays:
            return SIX_CHANNEL_MAGNITUDES if channels == 6 else ()
        groups = self.arrays["magnitudes"]
        if groups.ndim != 2 or groups.dtype.kind not in "iu":
            raise self.error("magnitudes", "expected whole numbers (groups, members)")
        self._check_range(
            "magnitudes", groups.astype(np.int64), -1, channels, f"one of {channels} channels"
        )
        return tuple(tuple(int(c) for c in group if c >= 0) for group in groups)

    def channels(self, channels: int) -> tuple[str, ...]:
        """Return the channels' names."""
        if "channels" not in self.arrays:
            return SIX_CHANNELS if channels == 6 else tuple(f"ch{i}" for i in range(channels))
        names = self.names("channels")
        if len(names) != channels:
            raise self.error("channels", f"{len(names)} names for {channels} channels of X")
        return names

    def notes(self, persons: tuple[str, ...]) -> tuple[str, ...]:
        """Return the file's own notes, or what is known of a file of its name."""
        no_hz = () if "hz" in self.arrays else (_NO_HZ,)
        if "notes" in self.arrays:
            return (*self.names("notes"), *no_hz)
        return (*notes_for(self.path.stem, persons), *no_hz)

    def number(self, key: str) -> float:
        """Return one positive number, 1 where the key is missing."""
        if key not in self.arrays:
            return 1.0
        array = self.arrays[key]
        if array.size != 1 or array.dtype.kind not in "iuf":
            raise self.error(key, f"shape {array.shape} of {array.dtype}; expected one number")
        value = float(array.reshape(()))
        if not 0 < value < np.inf:
            raise self.error(key, f"is {value}; expected a number above 0")
        return value

    def whole(self, key: str, windows: int) -> NDArray[np.int64]:
        """Return one whole number a window."""
        return whole(self.error, key, self._get(key), windows)

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of strings."""
        array = np.atleast_1d(self.arrays[key])
        if array.ndim != 1 or array.dtype.kind not in "Uiu":
            raise self.error(key, f"shape {array.shape} of {array.dtype}; expected a row of names")
        return tuple(str(name) for name in array)

    def _get(self, key: str) -> NDArray[Any]:
        if key not in self.arrays:
            raise self.error(
                key, f"missing; the file has {', '.join(self.arrays) or 'no known key'}"
            )
        return self.arrays[key]

    def _pair(self, first: str, second: str) -> bool:
        present = [key in self.arrays for key in (first, second)]
        if any(present) and not all(present):
            raise self.error(
                second if present[0] else first, f"missing; {first} and {second} go together"
            )
        return all(present)

    def _check_range(
        self, key: str, values: NDArray[np.int64], low: int, high: int, allowed: str
    ) -> None:
        check_range(self.error, key, values, low, high, allowed)
