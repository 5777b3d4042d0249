"""Windows on disk: the newest, under a byte limit, whole after any kill.

A file of slots that is only appended to. When it is full, its newer half moves to a fresh file that
takes its name: so windows stay in the order of time and in one piece, a reader's mapping never
changes under it, and each window is copied once at most. A slot counts once the header's count says
so; its checksum tells at the next opening whether a power cut let all of it reach the disk.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client.ring_file import (
    CODES,
    PAGE,
    Layout,
    RingError,
    SpoiltRing,
    fitted,
    is_whole,
    read_head,
    read_last_at,
    read_slot,
    write_count,
    write_head,
    write_slot,
)
from schemas.incoming import sync_folder

if TYPE_CHECKING:  # the daemon appends without NumPy; who learns maps with it
    import numpy as np
    from numpy.typing import NDArray

    from client.windows import PersonWindows

__all__ = ["Ring", "RingError", "mapped"]

_SYNC_EVERY: Final = 32
_log = logging.getLogger("flwr_edge.ring")


class Ring:
    """Windows of one shape, newest kept.

    Parameters
    ----------
    path : Path
        One process at a time opens it as a ``Ring``; any may map it.
    time, channels : int
    item : int
        Bytes of a value: 4 for float32, 2 for float16.
    limit : int
        Most bytes on disk, the moment of moving included.

    Attributes
    ----------
    last_at : float
        When the last window came, Unix time, in an earlier life too; 0 where that is not known.

    Raises
    ------
    RingError
        Where the file's windows are of another shape, or the limit has no room for two.
    OSError
        Where it cannot be opened, or another process has it.
    """

    def __init__(self, path: Path, time: int, channels: int, item: int, limit: int) -> None:
        try:
            self._at = fitted(time, channels, item, limit)
        except RingError as error:
            raise RingError(f"{path}: {error}") from None
        self._path, self._lock = path, threading.Lock()
        self._count, self._file, self.last_at = 0, -1, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._held = _only(path.with_name(f".{path.name}.lock"))
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def append(self, values: Sequence[float], label: int = -1) -> None:
        """Add a window, row by row; where there is no room, the older half goes.

        Raises
        ------
        ValueError
            Where the number of values is another, or one has no place in float16.
        OSError
            Where the disk is full; nothing is added.
        """
        expected = self._at.time * self._at.channels
        if len(values) != expected:
            raise ValueError(f"{len(values)} values; expected {expected}")
        try:
            packed = struct.pack(f"<{expected}{CODES[self._at.item]}", *values)
        except OverflowError as error:
            raise ValueError(f"a value is too large for its type: {error}") from error
        with self._lock:
            if self._count == self._at.capacity:
                self._move(range(self._count - self._at.capacity // 2, self._count), self._at)
            write_slot(self._file, self._at, self._count, label, packed)
            now = time.time()
            write_count(self._file, self._count + 1, now)
            self._count, self.last_at = self._count + 1, now
            if self._count % _SYNC_EVERY == 0:
                os.fdatasync(self._file)

    @property
    def ever(self) -> int:
        """Windows ever added, those let go included."""
        return self._at.dropped + self._count

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Bring all to the disk, and let go; again does nothing."""
        with self._lock:
            for file in (self._file, self._held):
                if file >= 0:
                    with contextlib.suppress(OSError):
                        os.fdatasync(file)
                    os.close(file)
            self._file = self._held = -1

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()
        if not self._path.exists():
            self._move((), self._at)
            return
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._mend(self._at)
        except SpoiltRing as error:
            self._set_aside(error)

    def _set_aside(self, error: SpoiltRing) -> None:
        """Begin afresh: windows that are lost are no reason to gather no others."""
        os.close(self._file)
        self._file = -1
        spoilt = self._path.with_name(f"{self._path.name}.spoilt")  # the newest alone is kept
        self._path.replace(spoilt)
        said = str(error).partition("; ")[0]
        _log.error("%s; its windows are lost: begun afresh, it is %s now", said, spoilt.name)
        self._move((), self._at)

    def _mend(self, wanted: Layout) -> None:
        """Leave out what is torn; take up another limit."""
        self._at, self._count = read_head(self._file, self._path)
        self.last_at = read_last_at(self._file)
        if self._at[:3] != wanted[:3]:
            raise RingError(
                f"{self._path}: holds windows of {self._at}, not of {wanted}; "
                "move it away to start afresh"
            )
        whole = [slot for slot in range(self._count) if is_whole(self._file, self._at, slot)]
        if len(whole) < self._count or self._at.capacity != wanted.capacity:
            self._count = whole[-1] + 1 if whole else 0  # torn ones at the end never came
            most = wanted.capacity if len(whole) <= wanted.capacity else wanted.capacity // 2
            self._move(whole[-most:], wanted)

    def _move(self, slots: Sequence[int], wanted: Layout) -> None:
        """Copy slots to a fresh file that takes this one's place, whole or not at all."""
        ever = self._at.dropped + self._count
        at = wanted._replace(dropped=ever - len(slots))
        file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            write_head(file, at)
            for new, old in enumerate(slots):
                write_slot(file, at, new, *read_slot(self._file, self._at, old))
            write_count(file, len(slots), self.last_at)
            os.fsync(file)
            self._part.replace(self._path)
        except BaseException:
            os.close(file)
            self._part.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._at, self._count = file, at, len(slots)
        sync_folder(self._path.parent)

    @property
    def _part(self) -> Path:
        return self._path.with_name(f".{self._path.name}.part")


def mapped(folder: Path) -> "PersonWindows":
    """The windows of a folder's rings as they are now, mapped, in any process.

    Raises
    ------
    RingError
        Where a file is no ring.
    OSError
        Where there is none.
    """
    from client.windows import PersonWindows

    train, labels, train_at = _mapped(folder / "train.ring")
    test, test_labels, test_at = _mapped(folder / "test.ring")
    return PersonWindows(train, labels, test, test_labels, train_at=train_at, test_at=test_at)


def _mapped(path: Path) -> "tuple[NDArray[np.floating], NDArray[np.int64], float]":
    import numpy as np

    with path.open("rb") as file:
        at, count = read_head(file.fileno(), path)
        last_at = read_last_at(file.fileno())
        dtype, shape = np.dtype(f"<f{at.item}"), (count, at.time, at.channels)
        if not count:
            return np.zeros(shape, dtype), np.zeros(0, np.int64), last_at
        windows = np.memmap(file, dtype, "r", at.windows, shape)
        return windows, np.memmap(file, np.dtype("<i8"), "r", PAGE, (count,)), last_at


def _only(path: Path) -> int:
    """Hold a lock file until the process ends or closes it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise OSError(f"{path}: another process has these windows open") from error
    return file
