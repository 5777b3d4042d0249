"""The files of a fleet's folder, listed while it serves: some come and go meanwhile."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

# Locks, serve's note, and what is on its way: of a backup, secret.write, ObjectStore, Incoming,
# BundleFiles.
_PASSING: Final = re.compile(
    r"\.(.+\.)?lock|\.hearing|\..+\.part|\..+\.[0-9a-f]{8}|new-[0-9a-f]{64}|[0-9a-f]{64}\.(part|map)|tmp[a-z0-9_]{8}"
)


def lasting(folder: Path, left_out: Collection[Path]) -> Iterator[Path]:
    """All that lies below a folder and is there to stay; a folder comes before what is in it.

    Parameters
    ----------
    folder : Path
    left_out : collection of Path
        Resolved; they are left out with all that is in them.
    """
    for path in _children(folder):
        if _PASSING.fullmatch(path.name) or path.resolve() in left_out:
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from lasting(path, left_out)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):  # since its parent was listed
        return []
