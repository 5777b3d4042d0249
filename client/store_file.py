"""The file of a device's store: opened on a full disk too, looked at whole, put aside if spoilt."""

import os
import sqlite3
from pathlib import Path
from typing import Final

_SPOILT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# What SQLite says where the file of memory that connections share (-shm) cannot be made.
_NO_SHARED: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_CANTOPEN,
    }
)
_PARTS: Final = ("-wal", "-shm", "")  # the file itself last: until then it is malformed still


def is_spoilt(error: BaseException) -> bool:
    """Whether an error says that the file's bytes are wrong; a failing, full or locked disk is not.

    Parameters
    ----------
    error : BaseException
    """
    if not isinstance(error, sqlite3.Error):
        return False
    return _primary(error) in _SPOILT or "decode to UTF-8" in str(error)


def is_full(error: sqlite3.Error, folder: Path | None = None) -> bool:
    """Whether an error is for want of room.

    Parameters
    ----------
    error : sqlite3.Error
    folder : Path, optional
        Where the file lies: some calls that find no room say "disk I/O error" alone.
    """
    if _primary(error) == sqlite3.SQLITE_FULL or "disk is full" in str(error):
        return True
    if folder is None or _primary(error) not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return not found.f_bavail or bool(found.f_files and not found.f_favail)


def why(error: sqlite3.Error, folder: Path | None = None) -> str:
    """An error of the store in words for a person."""
    return "the disk is full" if is_full(error, folder) else str(error)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file with a write-ahead log, every commit on the disk.

    Others may read it meanwhile (an operator's ``sqlite3``), by memory that is shared in a file. On
    a full disk that file cannot be made: the daemon holds the store alone then.

    Raises
    ------
    sqlite3.Error
    """
    try:
        return _connected(path, "NORMAL")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) not in _NO_SHARED:
            raise
    return _connected(path, "EXCLUSIVE")


def check_whole(db: sqlite3.Connection) -> None:
    """Look at each page: what a cut or zeroed file would say only once it is needed.

    Raises
    ------
    sqlite3.Error
        Of which ``is_spoilt`` holds where a page is not what it should be.
    """
    (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        error = sqlite3.DatabaseError(str(found).splitlines()[-1])
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def spoilt_name(path: Path) -> Path:
    """Where ``put_aside`` puts a file."""
    return path.with_name(f"{path.name}.spoilt")


def put_aside(path: Path) -> Path:
    """Rename a malformed store and its log, in place of one put aside before; their new name.

    Raises
    ------
    OSError
    """
    aside = spoilt_name(path)
    for part in _PARTS:
        old, new = Path(f"{path}{part}"), Path(f"{aside}{part}")
        if old.exists():
            old.replace(new)
        else:
            new.unlink(missing_ok=True)
    return aside


def _connected(path: Path, locking: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA locking_mode = {locking}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -256")  # KiB
        db.execute("PRAGMA wal_autocheckpoint = 32")  # pages: the log stays small
        db.execute("PRAGMA user_version").fetchone()  # the first look at the file
    except BaseException:
        db.close()
        raise
    return db


def _primary(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
