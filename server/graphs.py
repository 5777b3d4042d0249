"""Graphs that the server exports: made once, kept by digest, cached on disk."""

import contextlib
import copy
import functools
import hashlib
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import nn

import hypernet
from hypernet.export import (
    Optimizer,
    adapt_graph,
    forward_graph,
    statistics_graph,
    step_graph,
    targets_graph,
    update_graph,
)
from hypernet.networks.inputs import InputSpec
from schemas.caches import cache_folder
from schemas.new_file import NewFile
from server.graph_constants import apart
from server.own_code import own_code


class GraphBook:
    """Every graph that a run's plans name.

    An export takes seconds, so a graph is cached under what it was made from: the network's
    layout, the kind of graph, this package's code, the network's where it is somebody's own, and
    the exporter's versions. Its own digest is in the name too: a file that a disk spoilt is
    removed, and the graph exported anew.

    Parameters
    ----------
    cache : Path, optional
        Folder of exported graphs; none is kept without it.

    Attributes
    ----------
    graphs : dict[str, bytes]
        By digest, all that this book was asked for, and the constants that graphs share.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.graphs: dict[str, bytes] = {}
        self._made: dict[str, str] = {}
        self._objects: dict[str, dict[str, bytes]] = {}
        self._of: dict[str, tuple[nn.Module, str]] = {}

    def branch(self) -> "GraphBook":
        """A book of its own ``graphs`` that shares what either makes."""
        book = copy.copy(self)
        book.graphs = {}
        return book

    def step(
        self,
        network: nn.Module,
        loss: str,
        optimizer: Optimizer,
        *,
        labels: bool = True,
        targets: int = 0,
        batch: bool = False,
    ) -> str:
        """Digest of a training step; ``batch`` normalises by the batch (see ``step_graph``)."""
        mode: Literal["batch", "frozen"] = "batch" if batch else "frozen"
        key = f"step {loss} {optimizer} {labels} {targets} {mode}"
        return self._get(
            network,
            key,
            lambda: step_graph(
                network, loss, optimizer, labels=labels, targets=targets, batch_norm=mode
            ),
        )

    def forward(self, network: nn.Module, method: str = "forward") -> str:
        """Digest of a method of windows: logits, or a report."""
        digest = self._get(network, f"forward {method}", lambda: forward_graph(network, method))
        self._of[digest] = network, method
        return digest

    def origin(self, digest: str) -> tuple[nn.Module, str]:
        """The network (only its layout matters) and the method that ``forward`` made a graph of.

        Raises
        ------
        KeyError
            Where it made no such graph.
        """
        return self._of[digest]

    def needed(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Graphs that were made, by digest, and the constants that they share."""
        return {name: data for one in digests for name, data in self._objects[one].items()}

    def adapt(self, network: nn.Module, method: str = "encode") -> str:
        """Digest of AdaBN."""
        return self._get(network, f"adapt {method}", lambda: adapt_graph(network, method))

    def update(self, network: nn.Module, method: str) -> str:
        """Digest of a method that sets buffers from windows and labels."""
        return self._get(network, f"update {method}", lambda: update_graph(network, method))

    def targets(self, network: nn.Module, method: str) -> str:
        """Digest of a method that gives soft targets from the whole stream."""
        return self._get(network, f"targets {method}", lambda: targets_graph(network, method))

    def statistics(self, spec: InputSpec) -> str:
        """Digest of the input statistics."""
        return self._get(spec, "statistics", lambda: statistics_graph(spec))

    def _get(self, of: object, kind: str, make: Callable[[], bytes]) -> str:
        key = _key(of, kind)
        if key not in self._made:
            graph = self._cached(key) or make()
            digest = hashlib.sha256(graph).hexdigest()
            self._save(f"{key}-{digest}.onnx", graph)
            self._made[key] = self._take_apart(graph)
        digest = self._made[key]
        self.graphs |= self._objects[digest]
        return digest

    def _take_apart(self, whole: bytes) -> str:
        """Keep a graph as it travels, with the constants that it shares; return its digest."""
        graph, constants = apart(whole)
        digest = hashlib.sha256(graph).hexdigest()
        self._objects[digest] = {digest: graph, **constants}
        return digest

    def _cached(self, key: str) -> bytes | None:
        if self.cache is None:
            return None
        for path in sorted(self.cache.glob(f"{key}-*.onnx")):
            with contextlib.suppress(OSError):  # it went, or cannot be read or removed
                graph = path.read_bytes()
                if path.stem == f"{key}-{hashlib.sha256(graph).hexdigest()}":
                    return graph
                path.unlink()
        return None

    def _save(self, name: str, graph: bytes) -> None:
        if self.cache is not None and not (self.cache / name).is_file():
            write_whole(self.cache / name, graph)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of a cache, whole or not at all, and on the disk; others may write the same.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NewFile(path) as file:
        file.write(data)


def default_cache() -> Path:
    """Where exported graphs and source models are kept between runs."""
    return cache_folder() / "server"


@functools.cache
def code_digest() -> str:
    """Digest of this package's network code and of what exports: a change makes stale what is kept.

    Releases of onnxscript and onnx_ir that do not fit torch's write graphs that do not load.
    """
    folder = Path(str(hypernet.__file__)).parent
    exporter = [torch.__version__, *(version(name) for name in ("onnx", "onnx-ir", "onnxscript"))]
    digest = hashlib.sha256(" ".join(exporter).encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _key(of: object, kind: str) -> str:
    spec = getattr(of, "spec", "")
    shapes = own = ""
    if isinstance(of, nn.Module):
        own = own_code({type(part) for part in of.modules()})
        shapes = str([(name, tuple(p.shape)) for name, p in of.state_dict().items()])
    text = f"{code_digest()} {kind} {type(of).__name__} {of!r} {spec!r} {shapes}{own}"
    return hashlib.sha256(text.encode()).hexdigest()
