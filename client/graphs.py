"""Graphs on the device: files named by their SHA-256, and sessions made from them once."""

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

import onnxruntime as ort

from client.files import is_whole, sweep, write_whole
from client.graph_check import GraphError, GraphLimits, check, onnx_alone
from schemas.caches import cache_folder

__all__ = ["GraphError", "GraphLimits", "GraphStore", "default_folder"]

_LIMITS: Final = GraphLimits()
_KEPT: Final = 512 << 20
_UNUSED: Final = 86_400.0  # seconds: a plan under way, here or in another process, is younger


def default_folder() -> Path:
    """Where a user's graphs are kept."""
    return cache_folder() / "graphs"


class GraphStore:
    """A folder of ONNX graphs named by their digest.

    Parameters
    ----------
    folder : Path
        Shared by all clients of a machine.
    limits : GraphLimits, optional
        What a graph may be; checked when it comes, and before it is loaded.
    lean : bool
        A device's: give memory back after each run, instead of keeping it for the next (slower
        steps), and keep no more graphs than ``kept`` says.
    kept : int
        Bytes beyond which a new graph takes the place of those unused for longest, where that is
        a day at least; a server sends again what a device lacks. A simulation, which goes on from
        its folder after any time, has nobody who would.
    """

    def __init__(
        self,
        folder: Path,
        limits: GraphLimits = _LIMITS,
        *,
        lean: bool = False,
        kept: int = _KEPT,
    ) -> None:
        self.folder, self.limits, self._lean, self._kept = folder, limits, lean, kept
        self._sessions: dict[str, ort.InferenceSession] = {}
        sweep(folder)

    def has(self, digest: str) -> bool:
        """Whether the graph lies here, as its name says."""
        if digest in self._sessions:
            return True
        whole = is_whole(self._path(digest), digest)
        if whole:
            _touch(self._path(digest))
        return whole

    def get(self, digest: str) -> bytes:
        """The graph's bytes; what a power cut or the disk spoilt is removed.

        Raises
        ------
        GraphError
            Where it is missing, or its bytes do not match its name.
        """
        graph = _read(self._path(digest), digest)
        _touch(self._path(digest))
        return graph

    def put(self, graph: bytes) -> str:
        """Store a graph, whole or not at all; return its digest.

        Raises
        ------
        GraphError
            Where it is not allowed; nothing is written.
        """
        digest = hashlib.sha256(graph).hexdigest()
        check(graph, digest, self.limits)
        if not is_whole(self._path(digest), digest):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._lean:
                self._make_room(len(graph))
            write_whole(self._path(digest), graph)
        else:
            _touch(self._path(digest))
        return digest

    def session(self, digest: str) -> ort.InferenceSession:
        """The graph's session, one thread, made at its first use.

        Raises
        ------
        GraphError
            Where the graph is missing, its bytes do not match its name, it is not allowed or does
            not load.
        """
        if digest not in self._sessions:
            graph = self.get(digest)
            check(graph, digest, self.limits)
            self._sessions[digest] = _session(graph, digest, lean=self._lean)
        return self._sessions[digest]

    def _make_room(self, more: int) -> None:
        """Remove graphs that nobody has used for long, oldest first, until all fit."""
        found = []
        for path in self.folder.glob("*.onnx"):
            with contextlib.suppress(FileNotFoundError):  # another process's doing
                facts = path.stat()
                found.append((facts.st_mtime, facts.st_size, path))
        over = more + sum(size for _, size, _ in found) - self._kept
        for used, size, path in sorted(found):
            if over <= 0:
                return
            # A clock that was wrong when it was used must not keep it for ever.
            young = abs(time.time() - used) < _UNUSED
            if not young and path.stem not in self._sessions:
                path.unlink(missing_ok=True)
                over -= size

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.onnx"


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache of someone else's; it went
        os.utime(path)


def _read(path: Path, digest: str) -> bytes:
    try:
        graph = path.read_bytes()
    except FileNotFoundError:
        raise GraphError(f"graph {digest[:12]} is not on this device") from None
    except OSError as error:
        raise GraphError(f"graph {digest[:12]} is not on this device: {error}") from error
    if hashlib.sha256(graph).hexdigest() != digest:
        path.unlink(missing_ok=True)  # so that the next plan brings it whole
        raise GraphError(f"graph {digest[:12]}: its bytes do not match its name; removed")
    return graph


def _session(graph: bytes, digest: str, *, lean: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    onnx_alone(options)
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not lean
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise GraphError(f"graph {digest[:12]} does not load: {error}") from error
