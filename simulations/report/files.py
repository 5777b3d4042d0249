"""Whole files or none: written beside, then renamed."""

from pathlib import Path

from schemas.new_file import NewFile


class RunError(RuntimeError):
    """A run folder or its content that cannot be made, written or read; one line says why."""


def atomic_write(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, as ``NewFile`` does.

    Raises
    ------
    RunError
        Where the disk is full or the folder is not writable; nothing half-written is left.
    """
    try:
        _write(path, content)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> bool:
    """Make ``path`` and its parents; whether it was not there.

    Raises
    ------
    RunError
        Where that is impossible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        if path.is_dir():
            return False
        raise RunError(f"{path}: cannot make this folder: {error.strerror or error}") from error
    return True


def _write(path: Path, content: bytes) -> None:
    with NewFile(path) as file:
        file.write(content)
