"""A sink that keeps what it is given, and a source at work on a thread."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from client.sources import SensorSource, Window


class Sink:
    """Keeps windows; says what it was told to say."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.troubles: Counter[str] = Counter()
        self.details: list[str] = []
        self.says: Callable[[Window], str] = lambda _: ""

    def give(self, window: Window) -> str:
        said = self.says(window)
        if not said:
            self.windows.append(window)
        return said

    def trouble(self, kind: str, detail: str) -> None:
        self.troubles[kind] += 1
        self.details.append(detail)

    def given(self, *, test: bool) -> int:
        return sum(window.test is test for window in self.windows)


@pytest.fixture
def sink() -> Sink:
    return Sink()


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    return until


@pytest.fixture
def at_work(sink: Sink) -> Callable[..., Any]:
    """Run a source for the length of a block."""

    @contextmanager
    def work(source: SensorSource) -> Iterator[threading.Thread]:
        stop = threading.Event()
        thread = threading.Thread(target=source.run, args=(sink, stop))
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(5)
            assert not thread.is_alive(), "it does not stop"

    return work
