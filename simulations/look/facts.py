"""What a run will find in its data: channels, persons, classes, and how they are parted."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError, Recordings
from simulations.data.parts import part_person
from simulations.data.pools import pooled
from simulations.data.split import check_persons, drawn, source_rows

MOST: Final = 2_000_000
"""Samples of each channel that are looked at."""
_CLIPPED: Final = 0.01


def facts(recordings: Recordings, config: Data, seed: int) -> dict[str, Any]:
    """Count everything; nothing here is refused, ``problems`` says what a run would refuse.

    Parameters
    ----------
    recordings : Recordings
        Checked.
    config : Data
    seed : int
        Of the persons' parts.

    Returns
    -------
    dict[str, Any]
        Plain values, as ``--format json`` prints them.
    """
    persons, problems = _persons(recordings, config, seed)
    return {
        "kind": config.kind,
        "hz": recordings.hz,
        "windows": len(recordings.x),
        "samples_a_window": recordings.x.shape[1],
        "window_seconds": round(recordings.x.shape[1] / recordings.hz, 6),
        "label_fraction": config.label_fraction,
        "train_fraction": config.train_fraction,
        "unlabelled_windows": int((recordings.y < 0).sum()),
        "classes": list(recordings.classes),
        "magnitudes": [list(group) for group in recordings.magnitudes],
        "channels": channels(recordings),
        "persons": persons,
        "problems": problems,
        "duplicates": duplicates(recordings),
        "notes": list(recordings.notes),
    }


def counts(recordings: Recordings) -> NDArray[np.int64]:
    """Windows by person and class; the last column is of no known class."""
    found = np.zeros((len(recordings.persons), len(recordings.classes) + 1), np.int64)
    np.add.at(found, (recordings.person, recordings.y), 1)  # −1 is the last column
    return found


def channels(recordings: Recordings) -> list[dict[str, Any]]:
    """Say how each channel's values lie."""
    length = recordings.x.shape[1]
    every = max(1, len(recordings.x) * length // MOST)
    some = recordings.x[::every].astype(np.float32, copy=False)
    described = []
    for place, name in enumerate(recordings.channels):
        values = some[:, :, place].ravel()
        low, high = float(values.min()), float(values.max())
        windows = some[:, :, place]
        ends = max(float(np.mean(values == low)), float(np.mean(values == high)))
        described.append(
            {
                "name": name,
                "min": low,
                "median": float(np.median(values)),
                "max": high,
                "deviation": float(values.std(dtype=np.float64)),
                "zeros": float(np.mean(values == 0)),
                "constant": low == high,
                "clipped": ends if ends > _CLIPPED and len(np.unique(values)) > 100 else 0.0,
                "rising": bool((np.diff(windows, axis=1) > 0).all()),
            }
        )
    return described


def duplicates(recordings: Recordings) -> list[dict[str, Any]]:
    """Find windows of two persons that are equal to the bit: a file copied to another name."""
    owners: dict[int, int] = {}
    pairs: dict[tuple[int, int], int] = {}
    for row in range(len(recordings.x)):
        window = recordings.x[row]
        if (window == window[0]).all():
            continue  # a sensor that was off is the same for everybody
        key = hash(np.ascontiguousarray(window).tobytes())
        owner, person = owners.setdefault(key, int(recordings.person[row])), recordings.person[row]
        if owner != person:
            pair = (owner, int(person))
            pairs[pair] = pairs.get(pair, 0) + 1
    names = recordings.persons
    return [
        {"persons": [names[a], names[b]], "windows": count}
        for (a, b), count in sorted(pairs.items())
    ]


def _persons(
    recordings: Recordings, config: Data, seed: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Everybody's windows and part; and all that a run would refuse."""
    problems: list[str] = []
    roles: dict[int, str] = {}
    try:
        check_persons(recordings, config)
        drawing = drawn(recordings, config, seed)
        roles = {p: r for r, ps in zip(_ROLES, drawing, strict=True) for p in ps}
    except ConfigError as error:
        problems += error.problems
    except DataError as error:
        problems.append(str(error))
    table, found = counts(recordings), []
    for person, name in enumerate(recordings.persons):
        known = dict(zip(recordings.classes, table[person].tolist(), strict=False))
        said: dict[str, Any] = {"name": name, "role": roles.get(person), "windows": known}
        said["unlabelled"] = int(table[person, -1])
        try:
            said |= _parted(recordings, config, seed, person, roles.get(person))
        except DataError as error:
            problems.append(str(error))
        found.append(said)
    return found, problems


_ROLES: Final = ("source", "client", "unseen")


def _parted(
    recordings: Recordings, config: Data, seed: int, person: int, role: str | None
) -> dict[str, Any]:
    if role == "source":
        return {"training": len(source_rows(recordings, person)), "labelled": None, "test": 0}
    part = part_person(recordings, person, config, labelled=role != "unseen")
    if role == "client":
        part = pooled(recordings, part, config, seed)
    return {
        "training": len(part.train),
        "labelled": int((part.labels >= 0).sum()),
        "test": len(part.test),
    }
