"""Cutting stretches into windows with labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.recordings.labels import MIXED, UNKNOWN, majority
from simulations.data.recordings.options import Options
from simulations.data.recordings.stretches import SLOWEST, Raw, stretches
from simulations.data.windows import step_of, windows_of

_MANY_MIXED: Final = 0.1


@dataclass(frozen=True)
class Cut:
    """Windows, fields as in ``Recordings``; ``names`` are the persons'."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    person: NDArray[np.int64]
    stream: NDArray[np.int64]
    start: NDArray[np.int64]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def cut(
    raws: Sequence[Raw], hz: float, length: int, config: Data, options: Options, max_bytes: int
) -> Cut:
    """Cut all stretches of all persons; windows without a majority's label are left out.

    Raises
    ------
    DataError
        Where windows would take more than ``max_bytes``, or there is none.
    """
    names = tuple(dict.fromkeys(raw.person for raw in raws))
    step = step_of(length, config.overlap)
    x, y, person, stream, start = [], [], [], [], []
    size = number = seen = mixed = 0
    for raw in _in_time(raws, names):
        _check_grid(raw, hz, options.gap_seconds, max_bytes)
        for values, codes in stretches(raw, hz, options.gap_seconds):
            starts = np.arange(0, len(values) - length + 1, step)
            labels = majority(codes, starts, length, options.agreement)
            kept = np.flatnonzero(labels >= UNKNOWN)
            seen += len(labels)
            mixed += int((labels == MIXED).sum())
            size += len(starts) * length * values.shape[1] * 4
            if size > max_bytes:
                raise DataError(
                    f"{raw.file}: windows so far take over {max_bytes:,} bytes; a lower "
                    "data.options.hz or data.overlap, or fewer channels, take less"
                )
            if len(kept):
                x.append(windows_of(values, length, step)[kept])
                y.append(labels[kept])
                start.append(starts[kept])
                person.append(np.full(len(kept), names.index(raw.person)))
                stream.append(np.full(len(kept), number))
                number += 1
    if not x:
        raise DataError(
            f"no window: nowhere do all channels go on for data.window_seconds = "
            f"{config.window_seconds:g} with one label for data.options.agreement = "
            f"{options.agreement:g} of it; shorter windows, or longer data.options.gap_seconds?"
        )
    return Cut(
        x=np.concatenate(x),
        y=np.concatenate(y),
        person=np.concatenate(person).astype(np.int64),
        stream=np.concatenate(stream).astype(np.int64),
        start=np.concatenate(start).astype(np.int64),
        names=names,
        notes=_mixed(mixed, seen, options.agreement),
    )


def _mixed(mixed: int, seen: int, agreement: float) -> tuple[str, ...]:
    """Tell of windows without a majority, where they are more than a few at the changes."""
    if mixed <= _MANY_MIXED * seen:
        return ()
    return (
        (
            f"{mixed} of {seen} windows are left out, as no label holds for {agreement:.0%} of "
            "them: shorter data.window_seconds, or a lower data.options.agreement, keep more"
        ),
    )


def _in_time(raws: Sequence[Raw], names: Sequence[str]) -> list[Raw]:
    """By person and, where all of theirs are dates, by time."""
    order = {name: place for place, name in enumerate(names)}
    dated = {raw.person for raw in raws} - {raw.person for raw in raws if not raw.absolute}
    return sorted(raws, key=lambda r: (order[r.person], r.time[0] if r.person in dated else 0))


def _check_grid(raw: Raw, hz: float, gap_seconds: float, max_bytes: int) -> None:
    """Refuse what interpolation would blow up, before it does."""
    longest = max(gap_seconds, SLOWEST / raw.hz)
    seconds = np.minimum(np.diff(raw.time) * 1e-9, longest).sum()
    if raw.hz * 1000 < hz or seconds * hz * raw.values.shape[1] * 4 > max_bytes:
        raise DataError(
            f"{raw.file}: {raw.hz:.3g} samples a second cannot be brought to {hz:g} Hz; is "
            "data.options.time_unit right?"
        )


def in_classes(
    where: str, found: Cut, labels: Sequence[str], least: int
) -> tuple[Cut, tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Number the classes and persons that are left.

    Returns
    -------
    Cut, tuple[str, ...], tuple[str, ...], tuple[str, ...]
        Windows, persons, classes, notes.

    Raises
    ------
    DataError
        Where there is one class or one person, or somebody has no window of a known class.
    """
    counts = np.zeros((len(found.names), len(labels)), np.int64)
    known = found.y >= 0
    np.add.at(counts, (found.person[known], found.y[known]), 1)
    few = (counts > 0) & (counts < least)
    rows = ~known | ~few[found.person, np.where(known, found.y, 0)]
    notes = [_few(found.names, labels, counts, few)] if few.any() else []
    arrays = ("x", "y", "person", "stream", "start")
    found = replace(found, **{key: getattr(found, key)[rows] for key in arrays})
    present = sorted({int(code) for code in found.y if code >= 0}, key=lambda c: _order(labels[c]))
    if len(present) < 2:
        said = f"all windows are of the class {labels[present[0]]!r}" if present else "no window"
        said = said if present else "no window has a label"
        raise DataError(f"{where}: {said}; two classes are needed: is data.options.label right?")
    lost = [repr(n) for c, n in enumerate(labels) if c not in present]
    if lost:
        notes.append(f"no window of class {', '.join(lost)}: too short, or never alone")
    codes = np.full(len(labels) + 1, -1, np.int64)  # the last is what −1 finds
    codes[present] = np.arange(len(present))
    persons, person = np.unique(found.person, return_inverse=True)
    names = tuple(found.names[p] for p in persons)
    if gone := [name for name in found.names if name not in names]:
        notes.append(f"no window of {', '.join(gone[:20])}: left out")
    _check_persons(where, names, person[found.y >= 0])
    made = replace(found, y=codes[found.y], person=person.astype(np.int64))
    return made, names, tuple(labels[c] for c in present), tuple(notes)


def _check_persons(where: str, names: Sequence[str], labelled: NDArray[np.intp]) -> None:
    if len(names) < 2:
        raise DataError(
            f"{where}: all windows are of one person, {names[0]!r}; two or more are needed. "
            "data.options.person names the column, or data.options.pattern the place in the "
            "file's name, as in 'subject{person}_*.csv', that says who it is"
        )
    silent = [n for p, n in enumerate(names) if p not in set(labelled.tolist())]
    if silent:
        raise DataError(
            f"{where}: person {', '.join(map(repr, silent[:10]))}: no window has a label; label "
            f"some, or say data.options.skip_persons = {silent[:10]!r}"
        )


def _few(
    names: Sequence[str], labels: Sequence[str], counts: NDArray[np.int64], few: NDArray[np.bool_]
) -> str:
    pairs = [f"{names[p]}'s {labels[c]} ({counts[p, c]})" for p, c in np.argwhere(few)]
    more = f" and {len(pairs) - 8} more" if len(pairs) > 8 else ""
    return f"fewer windows than data.options.least_windows: left out {', '.join(pairs[:8])}{more}"


def _order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
