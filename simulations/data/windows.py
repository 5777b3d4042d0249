"""Cutting continuous recordings into windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray


@dataclass(frozen=True)
class Stream:
    """One continuous recording of one person doing one thing.

    Attributes
    ----------
    signal : (samples, channels)
        As measured.
    person, label : int
        Indices of the person and of the class.
    """

    signal: NDArray[np.floating]
    person: int
    label: int


@dataclass(frozen=True)
class Windows:
    """The windows of several streams; fields as in ``Recordings``."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    person: NDArray[np.int64]
    stream: NDArray[np.int64]
    start: NDArray[np.int64]


def step_of(length: int, overlap: float) -> int:
    """Return the samples from one window's start to the next one's: at least 1."""
    return max(1, round(length * (1 - overlap)))


def cut(streams: Sequence[Stream], length: int, overlap: float) -> Windows:
    """Cut streams into windows; a rest shorter than a window is left out.

    Parameters
    ----------
    streams : Sequence[Stream]
        At least one; all of the same number of channels. A stream's number is its place here.
    length : int
        Samples a window, at least 1.
    overlap : float
        Share of a window that it has in common with the next one, in [0, 1).
    """
    step = step_of(length, overlap)
    pieces = [windows_of(stream.signal, length, step) for stream in streams]
    counts = [len(piece) for piece in pieces]
    return Windows(
        x=np.concatenate(pieces),
        y=np.repeat(np.array([stream.label for stream in streams], np.int64), counts),
        person=np.repeat(np.array([stream.person for stream in streams], np.int64), counts),
        stream=np.repeat(np.arange(len(streams), dtype=np.int64), counts),
        start=np.concatenate([np.arange(count, dtype=np.int64) * step for count in counts]),
    )


def windows_of(signal: NDArray[np.floating], length: int, step: int) -> NDArray[np.float32]:
    """Return the windows of one signal, (windows, length, channels)."""
    if len(signal) < length:
        return np.empty((0, length, signal.shape[1]), np.float32)
    view = sliding_window_view(signal.astype(np.float32), length, axis=0)[::step]
    return np.ascontiguousarray(view.swapaxes(1, 2))
