"""An object on its way: a sparse file of what came, and a bitmap of which chunks that is."""

import hashlib
import os
from pathlib import Path

from schemas.wire import CHUNK, ObjectRef


class ObjectError(ValueError):
    """Bytes that are not the object they were named as."""


class Incoming:
    """Takes an object's chunks in any order, over any number of lives of the process.

    A chunk is on the disk before the bitmap says so; what a power cut spoils in spite of it, the
    hash at the end finds. One thread at a time. ``ObjectStore.incoming`` makes it.

    Parameters
    ----------
    ref : ObjectRef
    whole, part, bitmap : Path
        Files: of the object once it is whole, of what came, and of a bit a chunk.
    """

    def __init__(self, ref: ObjectRef, whole: Path, part: Path, bitmap: Path) -> None:
        self.ref = ref
        self._whole, self._part, self._map = whole, part, bitmap
        self._bits = bytearray(-(-ref.chunks // 8))
        self._is_whole = whole.is_file()
        if self._is_whole:
            self._forget()
        elif not self._resumed():
            self._begin()

    def missing(self) -> list[int]:
        """Numbers of the chunks that have not come, ascending."""
        if self._is_whole:
            return []
        return [number for number in range(self.ref.chunks) if not self._has(number)]

    @property
    def done(self) -> bool:
        """Whether no chunk is missing."""
        return not self.missing()

    def add(self, number: int, data: bytes) -> bool:
        """Keep a chunk.

        Returns
        -------
        bool
            False where it was here already; the first one counts.

        Raises
        ------
        ObjectError
            Where number or length is not of this object.
        OSError
            Where the disk is full; the chunk is missing still.
        """
        self._check(number, len(data))
        if self._is_whole or self._has(number):
            return False
        with self._part.open("r+b") as file:
            file.seek(number * CHUNK)
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        self._mark(number)
        return True

    def finish(self) -> ObjectRef:
        """Check the hash and keep the object.

        Raises
        ------
        ObjectError
            Where chunks are missing; or where the hash differs: then all is thrown away, and
            this Incoming begins afresh.
        """
        if self._is_whole:
            return self.ref
        missing = len(self.missing())
        if missing:
            raise ObjectError(f"{self._name()} lacks {missing} of {self.ref.chunks} chunks")
        with self._part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.ref.sha256:
            self._begin()
            raise ObjectError(f"{self._name()} came as bytes of {found[:16]}…; thrown away")
        self._part.replace(self._whole)
        self._map.unlink(missing_ok=True)
        sync_folder(self._whole.parent)
        self._is_whole = True
        return self.ref

    def discard(self) -> None:
        """Throw away what came; nothing of it stays on the disk."""
        self._forget()
        self._bits = bytearray(len(self._bits))

    def _resumed(self) -> bool:
        """Read what an earlier life left; False where it does not fit."""
        try:
            bits = bytearray(self._map.read_bytes())
            fits = self._part.stat().st_size == self.ref.bytes and len(bits) == len(self._bits)
        except FileNotFoundError:
            return False
        if fits:
            self._bits = bits
        return fits

    def _begin(self) -> None:
        self.discard()
        try:
            with self._part.open("wb") as file:
                file.truncate(self.ref.bytes)
            self._map.write_bytes(self._bits)
        except OSError:
            self._forget()
            raise

    def _forget(self) -> None:
        self._map.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)

    def _has(self, number: int) -> bool:
        return bool(self._bits[number // 8] >> number % 8 & 1)

    def _mark(self, number: int) -> None:
        byte = self._bits[number // 8] | 1 << number % 8
        with self._map.open("r+b") as file:
            file.seek(number // 8)
            file.write(bytes([byte]))
        self._bits[number // 8] = byte

    def _check(self, number: int, length: int) -> None:
        if not 0 <= number < self.ref.chunks:
            raise ObjectError(f"{self._name()} has {self.ref.chunks} chunks, none {number}")
        expected = min(CHUNK, self.ref.bytes - number * CHUNK)
        if length != expected:
            raise ObjectError(
                f"chunk {number} of {self._name()} has {length} bytes; expected {expected}"
            )

    def _name(self) -> str:
        return f"object {self.ref.sha256[:16]}…"


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file is there and has the bytes that its hash says."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
