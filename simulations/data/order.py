"""The order in time of windows that were cut by somebody else."""

import numpy as np
from numpy.typing import NDArray

from simulations.data.base import DataError

_PAIRS = 64


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
    neighbours are compared.

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
        Where most neighbours have more samples in common.
    """
    length = x.shape[1]
    here, following = _neighbours(x, stream, position)
    if len(here) < 2:
        return
    # Fewer samples than these agree by chance where a sensor lies still.
    shared = max(2, length // 20)
    for true in range(1, min(step, length - shared + 1)):
        same = (x[here, true:] == x[following, : length - true]).all(axis=(1, 2))
        if same.mean() > 0.5:
            raise DataError(
                f"{where}: X: neighbouring windows share {length - true} of {length} samples, more "
                f"than data.overlap says; set data.overlap = {1 - true / length:.3g}"
            )


def _neighbours(
    x: NDArray[np.floating], stream: NDArray[np.int64], position: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return some pairs of windows that follow each other, none of them constant."""
    order = np.lexsort((position, stream))
    follows = (np.diff(stream[order]) == 0) & (np.diff(position[order]) == 1)
    at = np.flatnonzero(follows)
    at = at[np.linspace(0, len(at) - 1, min(_PAIRS, len(at))).astype(np.intp)]
    here, following = order[at], order[at + 1]
    moving = (x[here] != x[here, :1]).any(axis=(1, 2))
    return here[moving], following[moving]
