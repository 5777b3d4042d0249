from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulations.data.base import Recordings

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """The path of a real set, or a skip where it is not there."""

    def path(name: str) -> Path:
        if not (SHARED / name).is_file():
            pytest.skip(f"{name} is not in {SHARED}")
        return SHARED / name

    return path


@pytest.fixture
def make() -> Callable[..., Recordings]:
    """Recordings whose windows start where one says; every window's samples are random."""

    def recordings(
        person: Any,
        y: Any,
        stream: Any,
        start: Any,
        length: int = 10,
        names: tuple[str, ...] | None = None,
    ) -> Recordings:
        person, y, stream, start = (np.asarray(a, np.int64) for a in (person, y, stream, start))
        x = np.random.default_rng(0).standard_normal((len(y), length, 2)).astype(np.float16)
        return Recordings(
            x=x,
            y=y,
            person=person,
            stream=stream,
            start=start,
            persons=names or tuple(f"p{i}" for i in range(int(person.max()) + 1)),
            classes=tuple(f"c{i}" for i in range(int(y.max()) + 1)),
            channels=("a", "b"),
            hz=10.0,
        )

    return recordings


@pytest.fixture
def simple(make: Callable[..., Recordings]) -> Callable[..., Recordings]:
    """Each person did each class once: 20 windows, half overlapping."""

    def recordings(persons: int, classes: int = 2, windows: int = 20, **rest: Any) -> Recordings:
        pairs = persons * classes
        return make(
            person=np.repeat(np.arange(persons), classes * windows),
            y=np.tile(np.repeat(np.arange(classes), windows), persons),
            stream=np.repeat(np.arange(pairs), windows),
            start=np.tile(np.arange(windows) * 5, pairs),
            **rest,
        )

    return recordings


@pytest.fixture
def leaks() -> Callable[[Recordings, NDArray[Any], NDArray[Any]], int]:
    """The slow obvious count of samples' sharers: every pair of training and test windows."""

    def count(recordings: Recordings, train: NDArray[Any], test: NDArray[Any]) -> int:
        length = recordings.x.shape[1]
        found = 0
        for row in test:
            same = recordings.stream[train] == recordings.stream[row]
            near = np.abs(recordings.start[train] - recordings.start[row]) < length
            found += int(np.count_nonzero(same & near))
        return found

    return count
