"""Files of which a power cut leaves the old one or the new, and whose they are."""

import contextlib
import errno
import os
import pwd
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from schemas.incoming import sync_folder

Owner = tuple[int, int]  # user, group

_PART: Final = ".part-"
_LEFT: Final = re.compile(r"\.part-\w{8}|tmp\w{8}")  # the second: of versions before
_OLD: Final = 3600.0  # seconds after which nobody writes there any more


def read_plain(path: Path) -> bytes:
    """The bytes of a plain file; a pipe would be waited on for ever.

    Raises
    ------
    OSError
        Where it is no plain file, or cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        return opened.read()


def user_name() -> str:
    """Who this process is, for people."""
    try:
        return f"the user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"the user {os.geteuid()}"


def barred(folder: Path) -> Path | None:
    """The folder, or the nearest above it that is there, where this user may change nothing."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return None if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else there


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and on the disk; others may write the same meanwhile."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PART) as part:
        whole = Path(part) / "whole"
        whole.write_bytes(data)
        with whole.open("rb") as file:
            os.fsync(file.fileno())
        whole.replace(path)
    sync_folder(path.parent)


def sweep(folder: Path) -> None:
    """Remove what kills in the middle of ``write_whole`` left; others may write there."""
    for path in folder.glob("*") if folder.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if _LEFT.fullmatch(path.name) and time.time() - path.stat().st_mtime > _OLD:
                shutil.rmtree(path, ignore_errors=True)


def write_private(path: Path, data: bytes, owner: Owner | None = None) -> None:
    """Write a file that only its owner reads, whole or not at all, and on the disk."""
    write_file(path, data, 0o600, owner)


def write_file(path: Path, data: bytes, mode: int, owner: Owner | None = None) -> None:
    """Write a file of a mode, whatever the umask, whole or not at all, and on the disk.

    Parameters
    ----------
    path : Path
    data : bytes
    mode : int
    owner : (user, group), optional
        Where this user may not give it away, it stays this user's.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            if owner is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def owner_near(path: Path) -> Owner | None:
    """As root: who owns a path, or the nearest folder above it that is there; else None.

    A service's user owns its state: what root makes there has to be that user's, too.
    """
    if os.geteuid() != 0:
        return None
    path = path.absolute()
    facts = next(each for each in (path, *path.parents) if each.exists()).stat()
    return facts.st_uid, facts.st_gid


def make_folder(path: Path, owner: Owner | None = None, mode: int = 0o777) -> None:
    """Make a folder, and those above it that are missing, and give them to their owner."""
    new = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(new):
        each.mkdir(mode if each == path else 0o777, exist_ok=True)
        give(each, owner)


def give(folder: Path, owner: Owner | None) -> None:
    """Give a folder to its owner, and never what a link in its place names."""
    if owner is not None:
        os.chown(folder, *owner, follow_symlinks=False)
