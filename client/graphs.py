"""Graphs on the device: files named by their SHA-256, and sessions made from them once."""

import hashlib
from pathlib import Path
from typing import Final

import onnxruntime as ort

from client.graph_assembly import assembled
from client.graph_check import GraphError, GraphLimits, check, onnx_alone
from client.graph_files import GraphFiles
from schemas.caches import cache_folder
from schemas.constants import is_constant, read_constant

__all__ = ["GraphError", "GraphLimits", "GraphStore", "default_folder"]

_LIMITS: Final = GraphLimits()
_KEPT: Final = 512 << 20


def default_folder() -> Path:
    """Where a user's graphs are kept."""
    return cache_folder() / "graphs"


class GraphStore:
    """A folder of ONNX graphs, and of constants that they share, named by their digest.

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
        self.folder, self.limits, self._lean = folder, limits, lean
        self._files = GraphFiles(folder, kept if lean else None)
        self._sessions: dict[str, ort.InferenceSession] = {}

    def has(self, digest: str) -> bool:
        """Whether the graph or constant lies here, as its name says."""
        return digest in self._sessions or self._files.has(digest)

    def get(self, digest: str) -> bytes:
        """The bytes of a graph or constant; what a power cut or the disk spoilt is removed.

        Raises
        ------
        GraphError
            Where it is missing, or its bytes do not match its name.
        """
        return self._files.get(digest)

    def put(self, data: bytes) -> str:
        """Store a graph or a constant, whole or not at all; return its digest.

        Raises
        ------
        GraphError
            Where it is not allowed; nothing is written.
        """
        digest = hashlib.sha256(data).hexdigest()
        if is_constant(data):
            _check_constant(data, digest, self.limits)
            self._files.write("constant", digest, data, self._sessions)
        else:
            check(data, digest, self.limits, shared=True)
            self._files.write("graph", digest, data, self._sessions)
        return digest

    def session(self, digest: str) -> ort.InferenceSession:
        """The graph's session, one thread, made at its first use.

        Raises
        ------
        GraphError
            Where the graph or a constant of it is missing, bytes do not match their name, a
            constant is of another size or type than the graph declares, or the graph is not allowed
            or does not load.
        """
        if digest not in self._sessions:
            self._sessions[digest] = _session(self._whole(digest), digest, lean=self._lean)
        return self._sessions[digest]

    def _whole(self, digest: str) -> bytes:
        """The graph with its constants in it, checked."""
        graph = self._files.read("graph", digest)
        if check(graph, digest, self.limits, shared=True).shared:
            try:
                graph = assembled(graph, self.limits.fields, self._constant)
            except ValueError as error:
                raise GraphError(f"graph {digest[:12]}: {error}") from None
            check(graph, digest, self.limits)
        return graph

    def _constant(self, digest: str) -> bytes:
        return self._files.read("constant", digest)


def _check_constant(data: bytes, digest: str, limits: GraphLimits) -> None:
    if len(data) > limits.bytes:
        raise GraphError(
            f"constant {digest[:12]}: {len(data)} bytes; at most {limits.bytes} are taken"
        )
    try:
        read_constant(data)
    except ValueError as error:
        raise GraphError(f"constant {digest[:12]} is {error}") from None


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
