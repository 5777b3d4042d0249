"""Graphs that the server exports: made once, kept by digest, cached on disk."""

import functools
import hashlib
import tempfile
from collections.abc import Callable
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
from server.own_code import own_code


class GraphBook:
    """Every graph that a run's plans name.

    An export takes seconds, so a graph is cached under what it was made from: the network's
    layout, the kind of graph, this package's code, the network's where it is somebody's own, and
    the exporter's versions.

    Parameters
    ----------
    cache : Path, optional
        Folder of exported graphs; none is kept without it.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self.graphs: dict[str, bytes] = {}
        self._made: dict[str, str] = {}
        self._of: dict[str, tuple[nn.Module, str]] = {}

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
            self._save(key, graph)
            digest = hashlib.sha256(graph).hexdigest()
            self.graphs[digest] = graph
            self._made[key] = digest
        return self._made[key]

    def _cached(self, key: str) -> bytes | None:
        if self.cache is None:
            return None
        path = self.cache / f"{key}.onnx"
        return path.read_bytes() if path.is_file() else None

    def _save(self, key: str, graph: bytes) -> None:
        if self.cache is not None and not (self.cache / f"{key}.onnx").is_file():
            write_whole(self.cache / f"{key}.onnx", graph)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of a cache, whole or not at all; others may write the same meanwhile.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as part:
        whole = Path(part) / "whole"
        whole.write_bytes(data)
        whole.replace(path)


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
