"""Where a source's files are, and what they hold."""

import hashlib
from pathlib import Path

from schemas.simulation import Data
from server.own_code import file_digest
from simulations.data.base import DataError


def spelled_out(text: str) -> Path:
    """Return a path with ``~`` as a home folder.

    Raises
    ------
    DataError
        Where it can be none.
    """
    if "\0" in text:
        raise DataError(f"data.path = {text!r}: holds a null character; expected a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"data.path = {text!r}: there is no such user's home folder") from error


def configured(config: Data, folder: Path) -> Path | None:
    """Return ``data.path`` as seen from the simulation file's folder; None where it has none.

    Raises
    ------
    DataError
        Where nothing is there.
    """
    if config.path is None:
        return None
    path = folder / spelled_out(config.path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; data.path is read from {folder}")
    return path


def named(config: Data) -> str:
    """What readers call the recordings: the name of their file, or their kind where it has none."""
    name = Path(config.path or "").name
    return config.kind if name in ("", "..") else name


def files_digest(config: Data, folder: Path) -> str:
    """Return a digest of what lies at ``data.path``: names and bytes; empty where nothing does.

    A file is read once, and again where its size or its time of change is another.
    """
    if config.path is None:
        return ""
    root = folder / spelled_out(config.path)
    files = sorted(path for path in (root, *root.rglob("*")) if path.is_file())
    parts = [f"{path.relative_to(root)} {file_digest(path)}" for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else ""
