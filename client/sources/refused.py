"""How many windows were given and not kept: a source that goes on counts them as played."""

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

_COUNTS: Final = struct.Struct("<QQ")  # of windows to learn from, and of those to evaluate on


class Refused:
    """Counts in a file, whole after any kill; after a power cut the last ones may be missing.

    Parameters
    ----------
    path : Path
        One process at a time opens it.

    Raises
    ------
    OSError
        Where it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        found = os.pread(self._file, _COUNTS.size, 0)
        self._counts = list(_COUNTS.unpack(found)) if len(found) == _COUNTS.size else [0, 0]

    def add(self, *, test: bool) -> None:
        """Count one."""
        self._counts[test] += 1
        with contextlib.suppress(OSError):  # a full disk: windows that are kept say so
            os.pwrite(self._file, _COUNTS.pack(*self._counts), 0)

    def count(self, *, test: bool) -> int:
        """How many there ever were."""
        return self._counts[test]

    def close(self) -> None:
        """Let go; again does nothing."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
