"""A folder of what graphs are made of: files named by the SHA-256 of their bytes."""

import contextlib
import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final, Literal

from client.files import sweep, write_whole
from client.graph_check import GraphError
from schemas.incoming import is_whole

Kind = Literal["graph", "constant"]
_SUFFIXES: Final[dict[Kind, str]] = {"graph": ".onnx", "constant": ".npy"}
_UNUSED: Final = 86_400.0  # seconds: a plan under way, here or in another process, is younger


def has_file(folder: Path, digest: str) -> bool:
    """Whether a graph or a constant lies in a folder of them, as its name says."""
    return any(is_whole(folder / f"{digest}{suffix}", digest) for suffix in _SUFFIXES.values())


class GraphFiles:
    """Graphs, and constants that they share.

    Parameters
    ----------
    folder : Path
        Shared by all clients of a machine.
    kept : int, optional
        Bytes beyond which a new file takes the place of those unused for longest, where that is a
        day at least; None: for ever.
    """

    def __init__(self, folder: Path, kept: int | None) -> None:
        self.folder, self._kept = folder, kept
        sweep(folder)

    def has(self, digest: str) -> bool:
        """Whether the file lies here, as its name says."""
        whole = [path for path in self._paths(digest) if is_whole(path, digest)]
        for path in whole:
            _touch(path)
        return bool(whole)

    def get(self, digest: str) -> bytes:
        """The bytes of a graph or of a constant; see ``read``."""
        there: list[Kind] = [kind for kind in _SUFFIXES if self._path(kind, digest).exists()]
        return self.read(there[0] if there else "graph", digest)

    def read(self, kind: Kind, digest: str) -> bytes:
        """A file's bytes; what a power cut or the disk spoilt is removed.

        Raises
        ------
        GraphError
            Where it is missing, or its bytes do not match its name.
        """
        path = self._path(kind, digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise GraphError(f"{kind} {digest[:12]} is not on this device") from None
        except OSError as error:
            raise GraphError(f"{kind} {digest[:12]} is not on this device: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            path.unlink(missing_ok=True)  # so that the next plan brings it whole
            raise GraphError(f"{kind} {digest[:12]}: its bytes do not match its name; removed")
        _touch(path)
        return data

    def write(self, kind: Kind, digest: str, data: bytes, used: Collection[str]) -> None:
        """Write a file, whole or not at all; those of the names ``used`` make no room for it."""
        path = self._path(kind, digest)
        if is_whole(path, digest):
            _touch(path)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._kept is not None:
            self._make_room(len(data) - self._kept, used)
        write_whole(path, data)

    def _make_room(self, over: int, used: Collection[str]) -> None:
        """Remove what nobody has used for long, oldest first, until all fit."""
        found = []
        for path in (p for suffix in _SUFFIXES.values() for p in self.folder.glob(f"*{suffix}")):
            with contextlib.suppress(FileNotFoundError):  # another process's doing
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        over += sum(size for _, size, _ in found)
        for since, size, path in sorted(found):
            if over <= 0:
                return
            # A clock that was wrong when it was used must not keep it for ever.
            young = abs(time.time() - since) < _UNUSED
            if not young and path.stem not in used:
                path.unlink(missing_ok=True)
                over -= size

    def _path(self, kind: Kind, digest: str) -> Path:
        return self.folder / f"{digest}{_SUFFIXES[kind]}"

    def _paths(self, digest: str) -> list[Path]:
        return [self._path(kind, digest) for kind in _SUFFIXES]


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache of someone else's; it went
        os.utime(path)
