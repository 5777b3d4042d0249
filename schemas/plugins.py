"""What other distributions plug in: entry points, found once and not at each question.

Looking through all of an environment's distributions takes several milliseconds.
"""

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint
from importlib.metadata import entry_points as _find
from pathlib import Path
from typing import Any

_Folders = tuple[tuple[str, int], ...]


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, of what is installed at this moment."""
    return tuple(_all(tuple((entry, _changed(entry)) for entry in sys.path)).select(group=group))


def _changed(entry: str) -> int:
    try:
        return Path(entry).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=1)
def _all(_: _Folders) -> Any:  # its type has another name in each Python
    """All of them, as long as no folder of distributions changes."""
    return _find()
