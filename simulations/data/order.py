"""The order in time of windows that were cut by somebody else."""

import numpy as np
from numpy.typing import NDArray

from simulations.data.base import DataError

_PAIRS = 64
_CHANGES = 8  # a piece that changes so often is shared by chance in no recording


def positions(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's position among the rows of its group, in file order.

    Parameters
    ----------
    group : (rows,), int64
        The group that a row is in.
    """
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    first = np.searchsorted(ordered, ordered)
    position = np.empty(len(group), np.int64)
    position[order] = np.arange(len(group)) - first
    return position


def numbered(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's number among the distinct rows, in lexical order.

    Parameters
    ----------
    *columns : (rows,), int64
        What makes a row.

    Returns
    -------
    (rows,), int64
        0 … distinct rows − 1.
    """
    inverse = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1]
    return inverse.reshape(-1).astype(np.int64)


def check_overlap(
    where: str,
    x: NDArray[np.floating],
    stream: NDArray[np.int64],
    position: NDArray[np.int64],
    step: int,
) -> None:
    """Refuse windows that overlap by more than ``data.overlap`` says.

    The split keeps training and test apart by that number: one that is too small would let test
    windows share samples with training windows, and nothing later would notice. Up to 64 pairs of
    neighbours are compared. A slow or coarse signal (a temperature by tenths, a switch) repeats a
    few samples by chance: only pieces count that change often, or that are a quarter of a window
    long and change at all.

    Parameters
    ----------
    where : str
        The file, for the message.
    x : (windows, time, channels)
        Windows.
    stream, position : (windows,), int64
        Their streams, and their places therein.
    step : int
        Samples from one window to the next, as ``data.overlap`` has it.

    Raises
    ------
    DataError
        Where most such pieces are the neighbour's too.
    """
    length = x.shape[1]
    here, following = _neighbours(x, stream, position)
    if len(here) < 2:
        return
    for true in range(1, min(step, length - 1)):
        if _overlap(x[here, true:], x[following, : length - true], length):
            raise DataError(
                f"{where}: X: neighbouring windows share {length - true} of {length} samples, more "
                f"than data.overlap says; set data.overlap = {1 - true / length:.3g}, or say where "
                "each window was cut with the keys stream and start"
            )


def check_changes(
    where: str, x: NDArray[np.floating], person: NDArray[np.int64], y: NDArray[np.int64]
) -> None:
    """Refuse recordings that go on through a change of class.

    Without their times, windows of two classes are taken to share nothing: one class's test would
    hold samples of another's training, or of windows without a class. Up to 64 changes of class, in
    file order, are looked at; one that shares a lively piece is enough, for other recordings may be
    of one class each.

    Parameters
    ----------
    where : str
        The file, for the message.
    x : (windows, time, channels)
        Windows.
    person, y : (windows,), int64
        Their persons and classes.

    Raises
    ------
    DataError
        Where a window of another class begins within the one before it.
    """
    length = x.shape[1]
    here = _some(np.flatnonzero((np.diff(person) == 0) & (np.diff(y) != 0)))
    begins = (x[here] == x[here + 1, :1]).all(axis=2).any(axis=0)
    for true in np.flatnonzero(begins[1:]) + 1:
        ends, starts = x[here, true:], x[here + 1, : length - true]
        same = (ends == starts).all(axis=(1, 2)) & (_changes(ends) >= 2 * _CHANGES)
        if same.any() or _overlap(ends, starts, length):
            raise DataError(
                f"{where}: X: neighbouring windows share {length - true} of {length} samples where "
                "the class changes, so that training and test would share some; say where each "
                "window was cut with the keys stream and start"
            )


def _some(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return 64 of them at most, spread evenly."""
    return rows[np.linspace(0, len(rows) - 1, min(_PAIRS, len(rows))).astype(np.intp)]


def _changes(pieces: NDArray[np.floating]) -> NDArray[np.intp]:
    """Count how often each piece (pieces, samples, channels) changes."""
    counts: NDArray[np.intp] = np.count_nonzero(np.diff(pieces, axis=1), axis=(1, 2))
    return counts


def _overlap(ends: NDArray[np.floating], starts: NDArray[np.floating], length: int) -> bool:
    """Tell whether ends of windows are the following ones' starts; (pairs, samples, channels)."""
    telling = _changes(ends) >= (1 if ends.shape[1] >= length // 4 else _CHANGES)
    if telling.sum() < max(2, len(ends) / 4):
        return False
    same = (ends[telling] == starts[telling]).all(axis=(1, 2))
    return bool(same.mean() > 0.5)


def _neighbours(
    x: NDArray[np.floating], stream: NDArray[np.int64], position: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return some pairs of windows that follow each other, none of them constant."""
    order = np.lexsort((position, stream))
    follows = (np.diff(stream[order]) == 0) & (np.diff(position[order]) == 1)
    at = _some(np.flatnonzero(follows))
    here, following = order[at], order[at + 1]
    moving = (x[here] != x[here, :1]).any(axis=(1, 2))
    return here[moving], following[moving]
