"""Exported graphs that several rooms' tests run: each is made once a session, for all workers."""

import functools
import gc
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server import garbage
from tests.once import once

# A shell's background job ignores SIGINT, and so does all that it starts: tests would wait forever
# for what they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Imported modules and collected tests stay: to look for garbage in them again and again takes a
# tenth of a worker's time. What tests leave is looked for as our commands do it.
garbage.seldom()


def pytest_collection_finish() -> None:
    gc.freeze()


Graph = Callable[..., bytes]
Windows = Callable[..., NDArray[np.float32]]

CLASSES, WIDTH, LATENT = 3, 4, 6


@pytest.fixture(scope="session")
def spec() -> Any:
    """Two sensors of three axes each, 20 steps."""
    from hypernet.networks import InputSpec

    return InputSpec(20, 6, ((0, 1, 2), (3, 4, 5)))


@pytest.fixture(scope="session")
def network(spec: Any) -> Callable[[str], Any]:
    """Make a small network by name; the same weights every time."""
    import torch

    from hypernet.networks import Autoencoder, Classifier, MlpAutoencoder

    def make(name: str) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            if name == "classifier":
                return Classifier(spec, CLASSES, WIDTH, LATENT)
            if name == "autoencoder":
                return Autoencoder(spec, WIDTH, LATENT)
            return MlpAutoencoder(spec, LATENT)

    return make


@pytest.fixture(scope="session")
def graph(
    spec: Any, network: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Graph]:
    """Export by kind (step, forward, adapt, statistics) and network: seconds, but once each."""

    def made(kind: str, name: str, *arguments: str) -> bytes:
        from hypernet import export

        if kind == "statistics":
            return export.statistics_graph(spec)
        if kind == "forward":
            return export.forward_graph(network(name), *arguments)
        if kind == "adapt":
            return export.adapt_graph(network(name))
        labels = name == "classifier"
        loss = "classification_loss" if labels else "reconstruction_loss"
        optimizer, mode = arguments
        return export.step_graph(
            network(name),
            loss,
            optimizer,  # type: ignore[arg-type]
            labels=labels,
            batch_norm=mode,  # type: ignore[arg-type]
        )

    @functools.cache
    def make(kind: str, name: str = "", *arguments: str) -> bytes:
        def write(folder: Path) -> None:
            (folder / "onnx").write_bytes(made(kind, name, *arguments))

        called = "-".join(("graph", kind, name, *arguments))
        return (once(tmp_path_factory, called, write) / "onnx").read_bytes()

    yield make
    make.cache_clear()


@pytest.fixture(scope="session")
def windows(spec: Any) -> Windows:
    """Windows (count, time, channels) of a person with an offset and a scale of the axes."""

    def make(count: int, seed: int = 0) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        scale, offset = rng.uniform(0.5, 3, spec.channels), rng.normal(size=spec.channels)
        x = rng.normal(size=(count, spec.time, spec.channels)) * scale + offset
        return x.astype(np.float32)

    return make
