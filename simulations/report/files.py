"""Whole files or none: written beside, then renamed."""

import os
from pathlib import Path


class RunError(RuntimeError):
    """A run folder or its content that cannot be made, written or read; one line says why."""


def atomic_write(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, then rename it into place.

    Whoever reads ``path``, at any moment and after any crash, finds the old file or the new one.

    Raises
    ------
    RunError
        Where the disk is full or the folder is not writable; nothing half-written is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            _write_through(beside, content)
            beside.replace(path)
            _sync_folder(path.parent)
        finally:
            beside.unlink(missing_ok=True)
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


def _write_through(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
