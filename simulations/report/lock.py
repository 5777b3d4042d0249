"""A run's folder belongs to one process: two would write the same files and remove each other's."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from simulations.report.files import RunError

LOCK: Final = ".run.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Have a run's folder alone; the kernel lets it go, however this process ends.

    Processes that this one starts do not inherit the open file, and so hold nothing on.

    Raises
    ------
    RunError
        Where another process has it.
    """
    path = folder / LOCK
    with _taken(path) as file:
        try:
            with contextlib.suppress(OSError):  # on a full disk it has no name
                file.truncate(0)
                file.write(str(os.getpid()).encode())
            yield
        finally:
            if _is_at(path, file):  # before it is let go, while it is this process's
                path.unlink()


def who_has(folder: Path) -> str | None:
    """The process that has a run's folder, for people; None where none has."""
    try:
        file = FileIO(folder / LOCK)
    except OSError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _who(file)
        except OSError:  # see ``_taken``
            return None
    return None


def busy(folder: Path, who: str) -> RunError:
    """The error of a folder that somebody has."""
    return RunError(f"{folder}: {who} is at this run")


def _taken(path: Path) -> FileIO:
    while True:
        file = FileIO(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise busy(path.parent, _who(file)) from None
        except OSError:  # a file system that knows no locks, as some clusters' are
            return file
        if _is_at(path, file):
            return file
        file.close()  # who had it before removed it


def _is_at(path: Path, file: FileIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _who(file: FileIO) -> str:
    file.seek(0)
    pid = file.read().decode("ascii", "replace")
    return f"another process (pid {pid})" if pid.isdecimal() else "another process"
