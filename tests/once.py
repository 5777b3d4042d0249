"""Folders that are made once a session, however many of xdist's workers want them."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def shared(factory: pytest.TempPathFactory) -> Path:
    """Return the session's folder that all workers have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder; the first worker that asks makes it, others wait.

    Parameters
    ----------
    name : str
        The folder's, and its lock's.
    make : callable
        Fills the empty folder. Where it fails the next one to ask starts anew.
    """
    folder, done = (shared(factory) / "once" / part for part in (name, f"{name}.done"))
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
