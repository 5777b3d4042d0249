"""Windows from files that appear in a folder: ``.npy`` and ``.csv``."""

import contextlib
import csv
import io
import math
import os
import re
import stat
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final, Literal, TextIO

from pydantic import Field

from client.files import barred, user_name
from client.sources.base import AbsolutePath, DiskFull, Sink, SourceSettings, Window
from client.sources.npy import NpyFile

_LABEL: Final = re.compile(r"@(\d{1,6})$")
_READERS: Final = (".npy", ".csv")
_REFUSED: Final = "refused"
_MOST_REFUSED: Final = 1000  # files, however small
_LONGEST_CELL: Final = 64  # characters of a number with its comma, or of a channel's name
_Mark = tuple[int, int, int]  # of a file, see ``_mark``


class FolderSettings(SourceSettings):
    """Settings of ``folder``.

    Attributes
    ----------
    path : Path
        The folder; made where there is none.
    every : float
        Seconds between two looks.
    settled : float
        Seconds for which a file must have been left alone: it may still be written.
    after : "delete" or "keep"
        What becomes of a file that was read: kept ones move to its folder ``taken``, where one
        whose name is taken has a number behind it.
    max_file_bytes : int
        Larger files are refused: a ``.csv`` file is read whole.
    """

    path: AbsolutePath
    every: float = Field(2.0, ge=0.05, le=3600)
    settled: float = Field(2.0, ge=0, le=3600)
    after: Literal["delete", "keep"] = "delete"
    max_file_bytes: int = Field(16 << 20, ge=1)

    def problems(self) -> list[str]:
        """Where files cannot be removed they would be taken again at each start."""
        if (there := barred(self.path)) is None:
            return []
        said = f"{user_name()} cannot remove files in {there}; make it writable"
        return [f"path = {self.path}: {said}"]

    def writes(self) -> tuple[Path, ...]:
        """The folder: files leave it."""
        return (self.path,)


class FolderSource:
    """Takes each file once, oldest first.

    An ``.npy`` file holds a window (time, channels) or several (windows, time, channels); a
    ``.csv`` file a sample a line, as many as make whole windows, a first line of names apart. A
    name that ends in ``@3`` before its suffix says that the label is 3. What cannot be read moves
    to the folder ``refused``, of which the newest ``limit_bytes`` stay. A kill, or a full disk,
    between keeping and deleting gives a file's windows again. What took a file's place, or was
    written to it, while it was read is another file, and taken at the next look.

    Parameters
    ----------
    settings : FolderSettings
    """

    Settings: ClassVar[type[SourceSettings]] = FolderSettings

    def __init__(self, settings: Any) -> None:
        self._settings: FolderSettings = settings
        self._stuck: set[tuple[str, _Mark]] = set()  # taken, and not to be moved
        self._same: Counter[str] = Counter()  # files that found their name taken

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Look again and again."""
        self._settings.path.mkdir(parents=True, exist_ok=True)
        while not stop.is_set():
            for path in self._ready():
                if stop.is_set():
                    return
                self._take(path, sink)
            stop.wait(self._settings.every)

    def _ready(self) -> list[Path]:
        now, found = time.time(), []
        for path in self._settings.path.iterdir():
            if path.suffix.lower() not in _READERS or path.name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):  # it went
                facts = path.lstat()
                # A clock that jumped must not hold files back for ever.
                young = 0 <= now - facts.st_mtime < self._settings.settled
                if not young and (path.name, _mark(facts)) not in self._stuck:
                    found.append((facts.st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _take(self, path: Path, sink: Sink) -> None:
        mark: _Mark | None = None
        try:
            mark = _mark(path.lstat())
            with _opened(path) as file:
                mark = _mark(os.fstat(file.fileno()))
                full = any(sink.give(window) == "disk" for window in self._windows(path, file))
        except Exception as error:  # noqa: BLE001 - no file may keep those behind it waiting
            sink.trouble("file", f"{path.name} is refused: {error}")
            self._away(path, mark, _REFUSED, sink)
            return
        if full:
            raise DiskFull(f"{path}: is left for later; there is no room for its windows")
        self._away(path, mark, "taken" if self._settings.after == "keep" else None, sink)

    def _windows(self, path: Path, file: BinaryIO) -> Iterator[Window]:
        size, most = os.fstat(file.fileno()).st_size, self._settings.max_file_bytes
        if size > most:
            raise ValueError(f"has {size} bytes; at most {most} are read")
        found = _LABEL.search(path.stem)
        label = int(found[1]) if found else -1
        read = self._npy if path.suffix.lower() == ".npy" else self._csv
        yield from read(file, label)

    def _npy(self, file: BinaryIO, label: int) -> Iterator[Window]:
        array_ = NpyFile(file)
        if len(array_.shape) not in (2, 3):
            raise ValueError(
                f"has the shape {array_.shape}; expected (time, channels) or "
                "(windows, time, channels)"
            )
        shape, wanted = array_.shape[-2:], (self._settings.time, self._settings.channels)
        if shape != wanted:
            raise ValueError(f"has windows of (time, channels) {shape}; expected {wanted}")
        if os.fstat(file.fileno()).st_size - file.tell() < array_.bytes:
            raise ValueError(f"is cut short: its header says {array_.shape}")
        count = 1 if len(array_.shape) == 2 else array_.shape[0]
        for _ in range(count):
            yield Window(array_.floats(math.prod(shape)), shape, label)

    def _csv(self, file: BinaryIO, label: int) -> Iterator[Window]:
        time_, channels = self._settings.time, self._settings.channels
        values: array[float] = array("f")
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        lines = _lines(text, _LONGEST_CELL * (channels + 1))
        for number, row in enumerate(csv.reader(lines), 1):
            numbers = _numbers(row, number)
            if numbers is None:
                continue
            if len(numbers) != channels:
                raise ValueError(f"line {number}: {len(numbers)} values; expected {channels}")
            values.extend(numbers)
        size = time_ * channels
        if not values or len(values) % size:
            raise ValueError(f"{len(values) // channels} samples; expected a multiple of {time_}")
        for start in range(0, len(values), size):
            yield Window(values[start : start + size], (time_, channels), label)

    def _away(self, path: Path, mark: _Mark | None, where: str | None, sink: Sink) -> None:
        try:
            if mark != _mark(path.lstat()):
                return  # another file since
            if where is None:
                path.unlink()
                return
            folder = self._settings.path / where
            folder.mkdir(exist_ok=True)
            path.replace(self._free(folder, path))
            if where == _REFUSED:
                _bound(folder, self._settings.limit_bytes)
        except FileNotFoundError:
            return
        except OSError as error:
            if mark is not None:
                self._stuck.add((path.name, mark))
            sink.trouble("folder", f"{path.name} was read and cannot be moved away: {error}")

    def _free(self, folder: Path, path: Path) -> Path:
        """Where a file goes: a number stands before the label, which stays one."""
        found, place = _LABEL.search(path.stem), folder / path.name
        label = found[0] if found else ""
        stem = path.stem.removesuffix(label)
        while os.path.lexists(place):
            self._same[path.name] += 1
            number = self._same[path.name] + 1
            place = folder / f"{stem}-{number}{label}{path.suffix}"
        return place


def _opened(path: Path) -> BinaryIO:
    """Open a plain file: a pipe would be waited on, and a link leads elsewhere."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("is no plain file")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags), "rb")


def _mark(facts: os.stat_result) -> _Mark:
    """What another file of the same name differs in."""
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def _bound(folder: Path, most: int) -> None:
    """Remove the files that came first, until the rest fit; the newest stays, however large."""
    # The time of the move: a file may have been written long before.
    times = {path: path.lstat().st_ctime_ns for path in folder.iterdir()}
    newest, *older = sorted(times, key=times.__getitem__, reverse=True)
    left = most - newest.lstat().st_size
    for number, path in enumerate(older, 2):
        left -= path.lstat().st_size
        if (left < 0 or number > _MOST_REFUSED) and not path.is_dir():
            path.unlink()


def _lines(file: TextIO, longest: int) -> Iterator[str]:
    """A file's lines; none is read whole that could fill the memory."""
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise ValueError(f"line {number}: longer than {longest} characters")
        yield line


def _numbers(row: list[str], line: int) -> list[float] | None:
    """A line's numbers; None for an empty line, and for names in the first."""
    if not row:
        return None
    try:
        return [float(cell) for cell in row]
    except ValueError:
        if line == 1:
            return None
        raise ValueError(f"line {line}: expected numbers with commas") from None
