"""What every source's windows must be, whoever wrote it: a wrong label is a wrong result."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.data.base import DataError, Recordings

Error = Callable[[str, str], DataError]
"""Makes the error of a key and a text."""

LARGEST = 1e15  # the sum of so large values' squares is finite in float32
_CHUNK = 4096
_ROLES = ("source", "client", "unseen")


def checked(found: Any, kind: str) -> Recordings:
    """What a data source returned, with the types that ``Recordings`` names.

    Parameters
    ----------
    found : Any
        Of ``DataSource.load``.
    kind : str
        The source's name, for messages.

    Raises
    ------
    DataError
        Where it is no ``Recordings``, or its parts do not fit each other.
    """
    if not isinstance(found, Recordings):
        raise DataError(
            f"data source {kind!r}: load() returned {type(found).__name__}; expected Recordings"
        )

    def error(key: str, text: str) -> DataError:
        return DataError(f"data source {kind!r}: {key}: {text}")

    x = windows(error, "x", found.x)
    rows: dict[str, Any] = {
        key: whole(error, key, getattr(found, key), len(x))
        for key in ("y", "person", "stream", "start")
    }
    names: dict[str, Any] = {
        key: tuple(getattr(found, key)) for key in ("persons", "classes", "channels")
    }
    for key in ("persons", "classes"):
        check_names(error, key, names[key])
    persons, classes = len(names["persons"]), len(names["classes"])
    check_range(error, "person", rows["person"], 0, persons, f"an index into {persons} persons")
    allowed = f"an index into {classes} classes, or -1 where unknown"
    check_range(error, "y", rows["y"], -1, classes, allowed)
    check_range(error, "start", rows["start"], 0, 2**62, "the first sample, from 0")
    check_finite(error, "x", x, rows["person"], names["persons"])
    made = replace(found, x=x, **rows, **names)
    _check_facts(error, made)
    return made


def windows(error: Error, key: str, values: Any) -> NDArray[np.floating]:
    """Windows (windows, time, channels) as float16 or float32."""
    x: NDArray[Any] = np.asarray(values)
    check_windows(error, key, x)
    if x.dtype in (np.float16, np.float32):
        return x
    with np.errstate(over="ignore"):  # what becomes infinite is refused by check_finite
        return x.astype(np.float32)


def check_windows(error: Error, key: str, x: NDArray[Any]) -> None:
    """Refuse what is no (windows, time, channels) of real numbers."""
    if x.ndim != 3 or 0 in x.shape:
        raise error(key, f"shape {x.shape}; expected (windows, time, channels), none 0")
    if x.dtype.kind not in "iuf":
        raise error(key, f"type {x.dtype}; expected real numbers, such as float32")


def whole(error: Error, key: str, values: Any, count: int) -> NDArray[np.int64]:
    """One whole number a window."""
    array = np.asarray(values)
    if array.shape != (count,):
        raise error(key, f"shape {array.shape}; expected ({count},), one a window of X")
    if array.dtype.kind not in "iu":
        raise error(key, f"type {array.dtype}; expected whole numbers, such as int64")
    return array.astype(np.int64, copy=False)


def check_range(
    error: Error, key: str, values: NDArray[np.int64], low: int, high: int, allowed: str
) -> None:
    """Refuse values under ``low`` or from ``high`` on."""
    wrong = ((values < low) | (values >= high)).reshape(-1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise error(key, f"entry {at} is {values.reshape(-1)[at]}; expected {allowed}")


def check_names(error: Error, key: str, names: Sequence[str]) -> None:
    """Refuse a name that stands twice: results are kept by name."""
    for name in names:
        if not isinstance(name, str):
            raise error(key, f"{name!r} is no string; expected a row of names")
    if len(set(names)) < len(names):
        one = "person" if key in {"persons", "subjects"} else "class"
        raise error(key, f"a name stands twice; every {one} needs one of their own")


def check_finite(
    error: Error,
    key: str,
    x: NDArray[np.floating],
    person: NDArray[np.int64],
    persons: Sequence[str],
) -> None:
    """Refuse NaN, infinity and what no sensor measures; in slices, not to take a second X."""
    for first in range(0, len(x), _CHUNK):
        piece = x[first : first + _CHUNK].astype(np.float32, copy=False)
        usable = (np.abs(piece) <= LARGEST).all(axis=(1, 2))  # false of NaN
        if not usable.all():
            window = first + int(np.argmin(usable))
            wrong = "NaN or infinity"
            if np.isfinite(x[window]).all():
                most = np.abs(x[window]).max()
                wrong = f"a value of {most:.3g}; at most {LARGEST:g} is read"
            raise error(
                key,
                f"window {window} (person {persons[person[window]]!r}) holds {wrong}; leave it "
                "out or fill it before saving",
            )


def _check_facts(error: Error, made: Recordings) -> None:
    """What is said of channels and persons, beside their windows."""
    channels, persons = made.x.shape[2], len(made.persons)
    if len(made.channels) != channels:
        raise error("channels", f"{len(made.channels)} names for {channels} channels of x")
    if not 0 < made.hz < np.inf:
        raise error("hz", f"is {made.hz}; expected a number above 0")
    groups = np.array([one for group in made.magnitudes for one in group], np.int64)
    check_range(error, "magnitudes", groups, 0, channels, f"one of {channels} channels")
    for key in ("roles", "lives"):
        count = len(getattr(made, key))
        if count not in (0, persons):
            raise error(key, f"{count} for {persons} persons; expected one a person, or none")
    if unknown := set(made.roles) - set(_ROLES):
        raise error("roles", f"{min(unknown)!r}; expected one of {', '.join(_ROLES)}")
