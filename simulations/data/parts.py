"""One person's windows, parted by time so that test shares nothing with training.

The cut. The windows of a class are parted by time: the first ``train_fraction`` is training, less
the gap; the rest is test. The gap is one window, and more where windows overlap by more than half:
all training windows that share a sample with a test window go.

What is cut. A class that a person recorded in up to three streams is cut inside each of them, so
that each (a watch on the left wrist, and on the right) is in both parts. Where there are more, or
where one is too short to be cut, they are laid end to end in the order of their numbers and cut
once: whole streams lie between training and test then, and no window is lost in every one.

Where a stream holds several classes, the end of one class's training may touch the beginning of
another's test: such test windows are left out.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.simulation import Data
from simulations.data.base import DataError, Recordings

Rows = NDArray[np.intp]

FEW_STREAMS = 3


@dataclass(frozen=True)
class Part:
    """One person's share.

    Attributes
    ----------
    train : (windows,), intp
        Rows of the recordings, in the order of time.
    labels : (windows of train,), int64
        Their classes; −1 where the person gave no label.
    test : (windows,), intp
        Rows of the later part, in the order of time; all of a known class.
    """

    train: Rows
    labels: NDArray[np.int64]
    test: Rows


def shares_samples(recordings: Recordings, rows: Rows, others: Rows) -> NDArray[np.bool_]:
    """Tell which windows share a sample with any of some others.

    Parameters
    ----------
    recordings : Recordings
        All windows.
    rows, others : (windows,), intp
        Rows of the recordings.

    Returns
    -------
    (windows of rows,), bool
    """
    if not len(rows) or not len(others):
        return np.zeros(len(rows), bool)
    length = recordings.x.shape[1]
    both = np.concatenate([rows, others])
    rank = np.unique(recordings.stream[both], return_inverse=True)[1]
    start = recordings.start[both] - recordings.start[both].min()
    # One line of time for all streams, with a window's length of nothing between two of them.
    place = rank * (start.max() + 2 * length) + start
    own, other = place[: len(rows)], np.sort(place[len(rows) :])
    padded = np.concatenate([[-2 * length], other, [place.max() + 2 * length]])
    after = np.searchsorted(other, own) + 1
    shared: NDArray[np.bool_] = np.minimum(own - padded[after - 1], padded[after] - own) < length
    return shared


def part_person(recordings: Recordings, person: int, config: Data, *, labelled: bool) -> Part:
    """Part one person's windows by time.

    Windows of no known class are training without a label, up to the same share of their time.

    Parameters
    ----------
    recordings : Recordings
        All windows.
    person : int
        Index of the person.
    config : Data
        Its ``train_fraction`` and ``label_fraction``.
    labelled : bool
        Whether the person gives labels at all.

    Raises
    ------
    DataError
        Where a class has too few windows for training, gap and test, or no class is known.
    """
    rows = in_time(recordings, np.flatnonzero(recordings.person == person))
    y = recordings.y[rows]
    train, test, given = [], [], []
    for label in np.unique(y):
        cuts = _cut_class(recordings, rows[y == label], config.train_fraction)
        train += [early for early, _ in cuts]
        if label >= 0:
            test += [late for _, late in cuts]
            given.append(_first([early for early, _ in cuts], config.label_fraction))
    train_rows = in_time(recordings, _joined(train))
    test_rows = in_time(recordings, _joined(test))
    test_rows = test_rows[~shares_samples(recordings, test_rows, train_rows)]
    _check(recordings, person, rows, train_rows, test_rows, config)
    has_label = np.isin(train_rows, _joined(given)) & labelled
    return Part(train_rows, np.where(has_label, recordings.y[train_rows], -1), test_rows)


def in_time(recordings: Recordings, rows: Rows) -> Rows:
    """Return rows by stream and, within a stream, by start."""
    return rows[np.lexsort((recordings.start[rows], recordings.stream[rows]))]


def _cut_class(
    recordings: Recordings, rows: Rows, train_fraction: float
) -> list[tuple[Rows, Rows]]:
    """Part a person's windows of one class, ordered by time: (training, test) of each cut."""
    breaks = np.flatnonzero(np.diff(recordings.stream[rows])) + 1
    if len(breaks) < FEW_STREAMS:
        cuts = [_cut(recordings, part, train_fraction) for part in np.split(rows, breaks)]
        if all(len(early) and len(late) for early, late in cuts):
            return cuts
    return [_cut(recordings, rows, train_fraction)]


def _cut(recordings: Recordings, rows: Rows, train_fraction: float) -> tuple[Rows, Rows]:
    """Part rows ordered by time."""
    at = math.floor(train_fraction * len(rows) + 1e-9)  # .7 × 10 is 7, whatever floats say
    late = rows[at:]
    early = rows[: max(0, at - 1)]
    return early[~shares_samples(recordings, early, late)], late


def _first(cuts: list[Rows], label_fraction: float) -> Rows:
    """Return the rows of one class that carry a label: each cut's first ones, in turn."""
    rows = _joined(cuts)
    count = math.floor(label_fraction * len(rows) + 0.5)
    if label_fraction > 0:
        count = max(1, count)
    turn = np.concatenate([np.arange(len(cut)) for cut in cuts])
    return rows[np.argsort(turn, kind="stable")[:count]]


def _joined(pieces: list[Rows]) -> Rows:
    return np.concatenate(pieces) if pieces else np.empty(0, np.intp)


def _check(
    recordings: Recordings, person: int, rows: Rows, train: Rows, test: Rows, config: Data
) -> None:
    """Refuse a person with a class that is not in both parts."""
    name, y = recordings.persons[person], recordings.y
    known = np.unique(y[rows][y[rows] >= 0])
    if not len(known):
        raise DataError(f"person {name!r}: no window has a known class (all labels are -1)")
    for label in known:
        counts = [int(np.count_nonzero(y[part] == label)) for part in (rows, train, test)]
        if 0 in counts:
            raise DataError(
                f"person {name!r}, class {recordings.classes[label]!r}: {counts[0]} windows are "
                f"too few: train_fraction = {config.train_fraction:g} leaves {counts[1]} to "
                f"training and, after the gap, {counts[2]} to test; record more, cut shorter "
                "windows, or leave the class out"
            )
