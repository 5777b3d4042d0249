"""Objects on disk, named by their SHA-256; those on their way are ``schemas/incoming.py``'s."""

import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from schemas.incoming import Incoming, ObjectError, sync_folder
from schemas.wire import CHUNK, ObjectRef

__all__ = ["Incoming", "MissingObjectError", "ObjectError", "ObjectStore", "StoreFullError"]

_NAME: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TEMPORARY: Final = "new-"


class MissingObjectError(LookupError):
    """No such object in the store."""


class StoreFullError(OSError):
    """The store's own limit is reached; ``errno`` is ``ENOSPC``, as for a full disk."""


class ObjectStore:
    """A folder of objects, each of them written whole or not at all.

    One process at a time writes to a folder; its threads may share a store.

    Parameters
    ----------
    folder : Path
        Made where it is missing.
    limit_bytes : int
        Of all objects, whole and on their way; what would exceed it is refused: ``make_room``.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            leftover.unlink(missing_ok=True)

    def has(self, sha: str) -> bool:
        """Whether the object is here, whole."""
        return self.path(sha).is_file()

    def names(self) -> list[str]:
        """All objects that are here, whole."""
        return sorted(path.name for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def path(self, sha: str) -> Path:
        """Where the object is, or would be."""
        if not _NAME.fullmatch(sha):
            raise ObjectError(f"object {sha[:70]!r}; expected 64 hexadecimal digits")
        return self.folder / sha

    def ref(self, sha: str) -> ObjectRef:
        """Name and length.

        Raises
        ------
        MissingObjectError
            Where it is not here.
        """
        try:
            return ObjectRef(sha256=sha, bytes=self.path(sha).stat().st_size)
        except FileNotFoundError:
            raise _missing(sha) from None

    def get(self, sha: str) -> bytes:
        """The object, its hash checked: one that the disk spoilt is removed.

        Raises
        ------
        MissingObjectError
            Where it is not here.
        """
        path = self.path(sha)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _missing(sha) from None
        if hashlib.sha256(data).hexdigest() != sha:
            path.unlink(missing_ok=True)
            raise MissingObjectError(f"object {sha[:16]}… was spoilt on the disk, and removed")
        with contextlib.suppress(OSError):
            os.utime(path)  # for make_room
        return data

    def chunk(self, sha: str, number: int) -> bytes:
        """One chunk of an object, unchecked: its receiver checks the whole.

        Raises
        ------
        MissingObjectError
            Where there is none.
        """
        try:
            with self.path(sha).open("rb") as file:
                file.seek(number * CHUNK)
                data = file.read(CHUNK)
        except FileNotFoundError:
            raise _missing(sha) from None
        if not data:
            raise MissingObjectError(f"object {sha[:16]}… has no chunk {number}")
        return data

    def put(self, data: bytes) -> ObjectRef:
        """Keep an object; keeping it again is no event.

        Raises
        ------
        StoreFullError, OSError
            Where there is no room; nothing of it stays.
        """
        reference = ObjectRef(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        with self._lock:
            if not self.has(reference.sha256):
                self._check_room(reference.bytes)
                self._write(reference.sha256, data)
        return reference

    def remove(self, sha: str) -> None:
        """Forget an object and what has come of it; no event where there is none."""
        for path in (self.path(sha), *self._on_the_way(sha)):
            path.unlink(missing_ok=True)

    def make_room(self, wanted: int, keep: Collection[str] = ()) -> None:
        """Remove objects not named in ``keep``, oldest use first, until ``wanted`` bytes fit."""
        with self._lock:
            excess = self._used() + wanted - self.limit_bytes
            paths = [self.path(name) for name in self.names() if name not in keep]
            for path in sorted(paths, key=_used_at):
                if excess <= 0:
                    return
                excess -= _size(path)
                path.unlink(missing_ok=True)

    def incoming(self, ref: ObjectRef) -> Incoming:
        """The object on its way, as far as it has come before.

        Raises
        ------
        StoreFullError
            Where the whole of it would not fit.
        """
        part, bitmap = self._on_the_way(ref.sha256)
        with self._lock:
            more = ref.bytes - _size(part)
            if not self.has(ref.sha256) and more > 0:
                self._check_room(more)
            return Incoming(ref, self.path(ref.sha256), part, bitmap)

    def _on_the_way(self, sha: str) -> tuple[Path, Path]:
        whole = self.path(sha)
        return whole.with_suffix(".part"), whole.with_suffix(".map")

    def _used(self) -> int:
        """Bytes of all files; a part counts as what it will be."""
        return sum(_size(path) for path in self.folder.iterdir())

    def _check_room(self, wanted: int) -> None:
        used = self._used()
        if used + wanted > self.limit_bytes:
            raise StoreFullError(
                errno.ENOSPC,
                f"{wanted} bytes beside {used}; the limit is {self.limit_bytes}",
                str(self.folder),
            )

    def _write(self, sha: str, data: bytes) -> None:
        new = self.folder / f"{_TEMPORARY}{sha}"
        try:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path(sha))
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)


def _used_at(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    """Of a file; 0 where another thread has just removed it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _missing(sha: str) -> MissingObjectError:
    return MissingObjectError(f"no object {sha[:16]}… here")
