"""Reading the official archive of a set: a zip, a zip within a zip, or a folder."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from simulations.data.arrays import UNREADABLE
from simulations.data.base import DataError

MAX_MEMBER_BYTES = 4 * 2**30
"""Bytes that one unpacked file may have."""


@dataclass(frozen=True)
class Archive:
    """The files of a set.

    Attributes
    ----------
    where : Path
        The zip file or folder.
    files : Mapping[str, Callable[[], bytes]]
        Readers by path within the archive, with forward slashes.
    """

    where: Path
    files: Mapping[str, Callable[[], bytes]]

    def under(self, folder: str) -> list[str]:
        """Return the paths of the files that lie directly in a folder, wherever that is."""
        parents = {name: name.rpartition("/")[0] for name in self.files}
        return sorted(
            name for name, parent in parents.items() if f"/{parent}".endswith(f"/{folder}")
        )

    def find(self, ending: str) -> str:
        """Return the path of the one file whose path ends so.

        Raises
        ------
        DataError
            Where there is none, or more than one.
        """
        found = [name for name in self.files if f"/{name}".endswith(f"/{ending}")]
        if len(found) != 1:
            count = "no file" if not found else f"{len(found)} files"
            raise DataError(
                f"{self.where}: {count} {ending}; expected the official archive, whole, or the "
                "folder it was extracted to"
            )
        return found[0]

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises
        ------
        DataError
            Where it cannot be read.
        """
        try:
            return self.files[name]()
        except UNREADABLE as error:
            raise DataError(f"{self.where}: {name}: truncated or damaged: {error}") from error


@contextmanager
def open_archive(path: Path, nested: str) -> Iterator[Archive]:
    """Open an archive.

    Parameters
    ----------
    path : Path
        A zip file, or a folder.
    nested : str
        Name of the zip file that the outer one (or the folder) may hold instead of the files.

    Raises
    ------
    DataError
        Where it is no zip file.
    """
    if path.is_dir() and (path / nested).is_file():
        path = path / nested
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        yield Archive(path, {f.relative_to(path).as_posix(): f.read_bytes for f in files})
        return
    with _zip(path, path) as outer:
        inside = [name for name in outer.namelist() if f"/{name}".endswith(f"/{nested}")]
        if not inside:
            yield Archive(path, _members(path, outer))
            return
        with tempfile.TemporaryFile() as file:
            _unpack(path, outer, inside[0], file)
            with _zip(path, file) as inner:
                yield Archive(path, _members(path, inner))


def _zip(where: Path, file: Path | IO[bytes]) -> zipfile.ZipFile:
    """Open a zip file."""
    try:
        return zipfile.ZipFile(file)
    except UNREADABLE as error:
        raise DataError(
            f"{where}: not a readable zip file: {error}; was its download cut off?"
        ) from error


def _members(where: Path, archive: zipfile.ZipFile) -> dict[str, Callable[[], bytes]]:
    """Return the readers of a zip file's members, without the folders that macOS leaves in them."""
    members: dict[str, Callable[[], bytes]] = {}
    for info in archive.infolist():
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        _check_size(where, info)
        members[info.filename] = partial(archive.read, info)
    return members


def _check_size(where: Path, info: zipfile.ZipInfo) -> None:
    if info.file_size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{where}: {info.filename} unpacks to {info.file_size:,} bytes; at most "
            f"{MAX_MEMBER_BYTES:,} are read"
        )


def _unpack(where: Path, archive: zipfile.ZipFile, name: str, file: IO[bytes]) -> None:
    """Copy a member to a file: seeking within a compressed member would start over every time."""
    _check_size(where, archive.getinfo(name))
    try:
        with archive.open(name) as member:
            shutil.copyfileobj(member, file)
    except UNREADABLE as error:
        raise DataError(f"{where}: {name}: truncated or damaged: {error}") from error
