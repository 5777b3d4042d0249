"""Source persons and a way to run an exported graph."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from hypernet.sources import Sources


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run() -> Callable[..., list[NDArray[Any]]]:
    """Run a graph in ONNX Runtime on named arrays, tensors and numbers."""
    sessions: dict[bytes, ort.InferenceSession] = {}

    def call(graph: bytes, **inputs: Any) -> list[NDArray[Any]]:
        if graph not in sessions:
            sessions[graph] = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        given = {}
        for name, value in inputs.items():
            array = np.asarray(value)
            given[name] = array if array.dtype == np.int64 else array.astype(np.float32)
        return list(sessions[graph].run(None, given))

    return call


@pytest.fixture(scope="session")
def sources(spec: Any, windows: Callable[..., Any]) -> Sources:
    """Three persons whose classes differ in frequency, each worn differently."""
    rng = np.random.default_rng(3)
    xs, ys = [], []
    for person in range(3):
        y = rng.integers(0, 3, 30)
        steps = np.arange(spec.time)
        wave = np.sin(steps * (y[:, None] + 1) * 0.5 + rng.uniform(0, 6, (30, 1)))
        turn = rng.normal(size=(spec.channels,))
        x = wave[..., None] * turn + 0.3 * windows(30, person)
        xs.append(torch.from_numpy(x.astype(np.float32)))
        ys.append(torch.from_numpy(y))
    return Sources(spec, xs, ys, 3)
