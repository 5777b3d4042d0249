"""What a data source gives: windows by person, in the order in which they were recorded."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.base import Strict
from schemas.simulation import Data


class DataError(ValueError):
    """Recordings that are missing, foreign or broken; says where and what would be right."""


@dataclass(frozen=True)
class Recordings:
    """Windows of all persons.

    Attributes
    ----------
    x : (windows, time, channels), float16 or float32
        As measured; normalisation is the device's.
    y : (windows,), int64
        Class index; −1 where unknown.
    person : (windows,), int64
        Index into ``persons``.
    stream : (windows,), int64
        Windows of one stream were cut from one continuous recording.
    start : (windows,), int64
        First sample of the window within its stream: two windows of a stream share samples where
        their starts differ by less than a window's length.
    persons, classes, channels : tuple[str, ...]
        Names.
    hz : float
        Samples a second.
    magnitudes : tuple[tuple[int, ...], ...]
        Groups of channels that are one vector in space (accelerometer, gyroscope): each adds its
        rotation-free length to the input, and virtual users turn each as one.
    notes : tuple[str, ...]
        What a reader of results must know of the set.
    roles : tuple[str, ...]
        "source", "client" or "unseen" by person, where the set itself says so; else they are drawn.
    lives : tuple[tuple[str, int], ...]
        By person, where a person here is one day of somebody: who, and which day.
    """

    x: NDArray[np.floating]
    y: NDArray[np.int64]
    person: NDArray[np.int64]
    stream: NDArray[np.int64]
    start: NDArray[np.int64]
    persons: tuple[str, ...]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    hz: float
    magnitudes: tuple[tuple[int, ...], ...] = ()
    notes: tuple[str, ...] = field(default=())
    roles: tuple[str, ...] = ()
    lives: tuple[tuple[str, int], ...] = ()


class DataSource(ABC):
    """Loads one kind of recordings. Registered under the entry points ``flwr_edge.data_source``.

    Parameters
    ----------
    config : Data
        The simulation file's ``[data]``.
    folder : Path
        The simulation file's folder, against which ``config.path`` is read.

    Attributes
    ----------
    ignores : frozenset[str]
        Keys of ``[data]`` that mean nothing to it: whoever sets one is told so.
    options : Parameters
        The table ``[data.options]``.
    """

    class Parameters(Strict):
        """``[data.options]``: keys of its own. A source that has any overrides this."""

    ignores: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Data, folder: Path) -> None:
        self.config = config
        self.folder = folder
        self.options: Any = self.Parameters.model_validate(config.options)

    @abstractmethod
    def load(self) -> Recordings:
        """Return all recordings.

        Raises
        ------
        DataError
            Where they are missing or not what they should be.
        """
