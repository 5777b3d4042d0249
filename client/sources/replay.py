"""A data set played as if it were measured now: for demonstrations and tests."""

import contextlib
import math
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

from pydantic import Field, model_validator

from client.sources.base import AbsolutePath, DiskFull, Sink, SourceSettings, Window
from client.sources.npy import NpyFile

# zipfile's RuntimeError is an encrypted member, NotImplementedError among them
_UNREADABLE: Final = (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_PARTS: Final = (("train", "labels", False), ("test", "test_labels", True))


class ReplaySettings(SourceSettings):
    """Settings of ``replay``.

    Attributes
    ----------
    path : Path
        A folder of ``PersonWindows``, or an ``.npz`` file of the same four arrays: ``train``,
        ``labels``, ``test``, ``test_labels``.
    per_second : float
        Windows a second; 0 is all at once.
    """

    path: AbsolutePath
    per_second: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _split(self) -> "ReplaySettings":
        if self.test_every:
            raise ValueError("test_every: a replay brings its own test windows; leave it out")
        return self

    def problems(self) -> list[str]:
        """Where there is nothing to replay."""
        if self.path.is_dir() or self.path.is_file():
            return []
        return [f"path = {self.path}: no such file or folder"]


class ReplaySource:
    """Plays each window once, training windows first; goes on where an earlier life stopped.

    Parameters
    ----------
    settings : ReplaySettings
    """

    Settings: ClassVar[type[SourceSettings]] = ReplaySettings

    def __init__(self, settings: Any) -> None:
        self._settings: ReplaySettings = settings

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Play it to its end."""
        rate = self._settings.per_second
        try:
            for name, labels, test in _PARTS:
                due = time.monotonic()
                for window in self._windows(name, labels, test, sink.given(test=test)):
                    if stop.is_set():
                        return
                    if sink.give(window) == "disk":
                        raise DiskFull(f"no room for the windows of {self._settings.path}")
                    if rate:
                        due += 1 / rate
                        stop.wait(max(0.0, due - time.monotonic()))
        except _UNREADABLE as error:
            sink.trouble("file", f"{self._settings.path} is not replayed: {error}")

    def _windows(self, name: str, labels: str, test: bool, first: int) -> Iterator[Window]:  # noqa: FBT001
        with self._array(name) as x, self._array(labels) as y:
            count, *shape = x.shape
            if len(shape) != 2 or y.shape != (count,) or not y.whole or x.whole:
                raise ValueError(
                    f"{name} {x.shape} with {labels} {y.shape}; expected (windows, time, channels) "
                    "and (windows,), floating and whole numbers"
                )
            if tuple(shape) != (self._settings.time, self._settings.channels):
                raise ValueError(
                    f"{name} holds windows of {tuple(shape)}; settings say "
                    f"{(self._settings.time, self._settings.channels)}"
                )
            for number in range(count):
                values, (label,) = x.floats(math.prod(shape)), y.read(1)
                if number >= first:
                    yield Window(values, tuple(shape), int(label), test)

    @contextlib.contextmanager
    def _array(self, name: str) -> Iterator[NpyFile]:
        path = self._settings.path
        with contextlib.ExitStack() as opened:
            if path.is_dir():
                file: Any = opened.enter_context((path / f"{name}.npy").open("rb"))
            else:
                archive = opened.enter_context(zipfile.ZipFile(path))
                file = opened.enter_context(archive.open(f"{name}.npy"))
            yield _named(file, path, name)


def _named(file: BinaryIO, path: Path, name: str) -> NpyFile:
    try:
        return NpyFile(file)
    except ValueError as error:
        raise ValueError(f"{name} of {path.name} {error}") from error
